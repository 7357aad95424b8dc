from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mopt.datasets.preprocess import image_array
from mopt.datasets.spec import ImageSpec
from mopt.exporters._image_preprocessing import from_processor, from_timm, from_torchvision

HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("ViT", {"size": {"height": 32, "width": 24}}),
        ("CLIP", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}),
        ("ConvNext", {"size": {"shortest_edge": 32}}),
        ("ConvNext", {"size": {"shortest_edge": 384}}),
        ("Levit", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
        ("DeiT", {"do_normalize": False, "do_rescale": False}),
        ("MobileViT", {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}),
    ],
)
def test_a_processor_of_transformers_and_the_recipe_make_the_same_array(name: str, fields: dict) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is an extra: pip install 'mopt[huggingface]'")
    processor = getattr(transformers, f"{name}ImageProcessorPil")(**fields)
    expected = processor(PICTURE, return_tensors="np")["pixel_values"][0]
    spec = from_processor({**processor.to_dict(), "image_processor_type": f"{name}ImageProcessor"})
    assert isinstance(spec, ImageSpec)
    np.testing.assert_allclose(image_array(PICTURE, spec, "p"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2}, {"resize": (224, 224)}),
        ({"image_processor_type": "CLIPImageProcessorFast", "size": 224, "resample": 3}, {"resize": 224}),
    ],
)
def test_old_files_and_those_of_other_backends(config: dict, expected: dict) -> None:
    spec = from_processor({"do_resize": True, "do_normalize": True, **HALF, **config})
    assert spec == ImageSpec(
        **expected, interpolation="bicubic" if config["resample"] == 3 else "bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"image_processor_type": "EfficientNetImageProcessor"}, "EfficientNetImageProcessor does what"),
        ({"image_processor_type": "ViTImageProcessor", "do_resize": True}, "leaves size to transformers"),
        ({"image_processor_type": "MobileNetV2ImageProcessor", "do_pad": True}, "leaves padding to transformers"),
        ({}, "without a name"),
    ],
)
def test_what_a_recipe_cannot_say_is_not_guessed(config: dict, reason: str) -> None:
    assert reason in str(from_processor(config))


def test_timm() -> None:
    config = {"mean": (0.5,), "std": (0.25,), "interpolation": "bicubic", "crop_pct": 0.9}
    spec = from_timm(config, (224, 224))
    assert spec == ImageSpec(resize=248, crop=(224, 224), interpolation="bicubic", mean=(0.5,), std=(0.25,))
    squashed = from_timm({**config, "crop_mode": "squash", "crop_pct": 1.0}, (384, 384))
    assert isinstance(squashed, ImageSpec)
    assert squashed.resize == (384, 384)
    assert "crop mode border" in str(from_timm({**config, "crop_mode": "border"}, (224, 224)))


def test_torchvision() -> None:
    preset = SimpleNamespace(
        resize_size=[256], crop_size=[224], interpolation=SimpleNamespace(value="bilinear"), mean=[0.5], std=[0.25]
    )
    assert from_torchvision(preset) == ImageSpec(resize=256, crop=224, mean=(0.5,), std=(0.25,))
