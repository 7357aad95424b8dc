"""How a model wants its pictures, in the words of a recipe: as a Hugging Face folder, timm or torchvision says it."""

from __future__ import annotations

__all__ = ["from_processor", "from_timm", "from_torchvision"]

import math
from collections.abc import Mapping
from typing import Any

from mopt.datasets.spec import ImageSpec

_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic")
"""By Pillow's numbers."""
_SQUARE_SIZE = ("vit", "deit", "beit", "siglip")
"""Processors that take one number for both sides; for the others it is the shorter one."""
_SHORTER_SIZE = ("clip", "bit", "mobilenetv1", "mobilenetv2", "mobilevit", "convnext", "levit")
_CONVNEXT_CROPS_BELOW = 384
_CONVNEXT_CROP_SHARE = 224 / 256
_LEVIT_ENLARGES = 256 / 224
_SAID_BY = {"do_center_crop": "crop_size", "do_resize": "size", "do_normalize": "image_mean"}


def from_processor(config: Mapping[str, Any]) -> ImageSpec | str:
    """Return what ``preprocessor_config.json`` says, or why a recipe cannot say it.

    Only processors are known that resize, crop from the centre, scale and normalise, in this order, as transformers does.
    """
    written = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    kind = (
        written.removesuffix("Fast").removesuffix("Pil").removesuffix("ImageProcessor").removesuffix("FeatureExtractor").lower()
    )
    if kind not in _SQUARE_SIZE + _SHORTER_SIZE:
        return f"its image processor {written or 'without a name'} does what [data.image] cannot say, so write that yourself"
    unsaid = [key for action, key in _SAID_BY.items() if config.get(action) and key not in config]
    if unsaid or (config.get("do_pad") and kind not in ("clip", "bit")):
        what = unsaid[0] if unsaid else "padding"
        return f"its image processor leaves {what} to transformers, so write [data.image] yourself"
    resize, crop = _geometry(config, kind)
    scales = config.get("do_rescale", True)
    normalises = bool(config.get("do_normalize", kind != "mobilevit"))
    return ImageSpec(
        resize=resize,
        crop=crop,
        interpolation=_RESAMPLING[int(config.get("resample", 2))],
        channels="bgr" if config.get("do_flip_channel_order", kind == "mobilevit") else "rgb",
        scale=float(config.get("rescale_factor", 1 / 255)) if scales else 1.0,
        mean=tuple(config["image_mean"]) if normalises else (),
        std=tuple(config["image_std"]) if normalises else (),
    )


_Size = int | tuple[int, int] | None


def _geometry(config: Mapping[str, Any], kind: str) -> tuple[_Size, _Size]:
    resize = _size(config["size"], square=kind in _SQUARE_SIZE) if config.get("do_resize", True) else None
    if kind == "convnext" and isinstance(resize, int):
        share = float(config.get("crop_pct") or _CONVNEXT_CROP_SHARE)
        return (int(resize / share), resize) if resize < _CONVNEXT_CROPS_BELOW else ((resize, resize), None)
    if kind == "levit" and isinstance(resize, int):
        resize = int(_LEVIT_ENLARGES * resize)
    return resize, _size(config["crop_size"], square=True) if config.get("do_center_crop") else None


def _size(value: Any, *, square: bool) -> _Size:
    if isinstance(value, Mapping):
        return int(value["shortest_edge"]) if "shortest_edge" in value else (int(value["height"]), int(value["width"]))
    if isinstance(value, list | tuple):
        return int(value[0]), int(value[1])
    return (int(value), int(value)) if square else int(value)


def from_timm(config: Mapping[str, Any], size: tuple[int, int]) -> ImageSpec | str:
    """Return what timm's evaluation transform does, for pictures of ``size`` (height, width)."""
    mode, share = config.get("crop_mode", "center"), float(config.get("crop_pct") or 1.0)
    if mode not in ("center", "squash"):
        return f"timm prepares its pictures with the crop mode {mode}, so write [data.image] yourself"
    height, width = (math.floor(side / share) for side in size)
    interpolation = str(config.get("interpolation", "bilinear"))
    return ImageSpec(
        resize=height if mode == "center" and height == width else (height, width),
        crop=size,
        interpolation=interpolation if interpolation in _RESAMPLING else "bilinear",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def from_torchvision(preset: Any) -> ImageSpec:
    """Return what the transforms of torchvision's weights for image classification do."""
    return ImageSpec(
        resize=int(preset.resize_size[0]),
        crop=int(preset.crop_size[0]),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )
