"""Make arrays of pictures and of text, as the recipe says."""

from __future__ import annotations

__all__ = ["Tokenizer", "image_array"]

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.datasets.spec import ImageSpec, TextSpec
from mopt.errors import MissingDependencyError, UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def image_array(picture: Any, spec: ImageSpec, name: str) -> npt.NDArray[Any]:
    """Return a picture as an array of shape [C, H, W] or [H, W, C], without a batch axis.

    Args:
        picture: A path, encoded bytes, a PIL image, or a uint8 array of shape [H, W] or [H, W, C] in RGB.
        spec: What to do with it.
        name: What people call the sample.

    Raises:
        UserError: When it cannot be decoded, or is smaller than the crop.
    """
    import numpy as np

    image = _open(picture, spec, name)
    image = _crop(_resize(image, spec), spec, name)
    pixels = np.asarray(image)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if spec.channels == "bgr":
        pixels = pixels[:, :, ::-1]
    if spec.dtype != "uint8":
        values = pixels.astype(np.float32) * np.float32(spec.scale)
        values -= np.asarray(spec.mean or (0.0,), np.float32)
        values /= np.asarray(spec.std or (1.0,), np.float32)
        pixels = values.astype(spec.dtype)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if spec.layout == "nchw" else pixels)


def _open(picture: Any, spec: ImageSpec, name: str) -> Any:
    import numpy as np

    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise MissingDependencyError("pillow", "data") from None
    if isinstance(picture, dict):  # how datasets hands over a picture that it did not decode
        picture = picture.get("bytes") or Path(str(picture.get("path")))
    mode = "L" if spec.channels == "gray" else "RGB"
    try:
        if isinstance(picture, np.ndarray):
            return Image.fromarray(_as_pixels(picture, name)).convert(mode)
        source = io.BytesIO(picture) if isinstance(picture, bytes) else picture
        image = source if isinstance(source, Image.Image) else Image.open(source)
        return image.convert(mode)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "cut off, or not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise UserError(f"cannot decode {name}: {reason}", "take it out, or replace it") from None


def _as_pixels(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    array = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.dtype.name != "uint8" or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise UserError(
            f"{name} is {array.dtype}{list(array.shape)}, not a picture",
            "[data.image] wants uint8 arrays of shape [H, W] or [H, W, C]; leave it out for arrays that are ready",
        )
    return array


def _resize(image: Any, spec: ImageSpec) -> Any:
    from PIL import Image

    if spec.resize is None:
        return image
    width, height = image.size
    if isinstance(spec.resize, tuple):
        size = (spec.resize[1], spec.resize[0])
    else:  # the longer side is cut to whole pixels, as torchvision does
        shorter = min(width, height)
        size = (int(spec.resize * width / shorter), int(spec.resize * height / shorter))
    return image if size == image.size else image.resize(size, Image.Resampling[spec.interpolation.upper()])


def _crop(image: Any, spec: ImageSpec, name: str) -> Any:
    if spec.crop is None:
        return image
    height, width = spec.crop if isinstance(spec.crop, tuple) else (spec.crop, spec.crop)
    if image.width < width or image.height < height:
        raise UserError(
            f"{name} has {image.width} x {image.height} pixels, less than the crop of {width} x {height}",
            "resize to at least the crop in [data.image]",
        )
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


class Tokenizer:
    """A ``tokenizer.json``, with the padding and cutting that the recipe asks for instead of its own.

    Args:
        path: The file.
        spec: Lengths and names.
        texts: All texts of the data, for the length of the longest; read only when the padding asks for it.

    Raises:
        UserError: When the file is missing or is no tokenizer.
    """

    def __init__(self, path: Path, spec: TextSpec, texts: Iterable[Sequence[str]] = ()) -> None:
        self._spec = spec
        self._tokenizer = _load(path)
        padding = self._tokenizer.padding or {}
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(spec.max_length)
        if spec.padding == "none":
            return
        length = spec.max_length
        if spec.padding == "longest":
            length = max((len(self._tokenizer.encode(*text).ids) for text in texts), default=1)
        token = padding.get("pad_token") or _pad_token(self._tokenizer)
        self._tokenizer.enable_padding(
            length=max(1, length),
            pad_id=padding.get("pad_id") or self._tokenizer.token_to_id(token) or 0,
            pad_token=token,
            direction=padding.get("direction") or "right",
        )

    def encode(self, text: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
        """Return token numbers, mask and token types of one text or one pair, each of shape [tokens]."""
        import numpy as np

        encoding = self._tokenizer.encode(*text)
        return {
            self._spec.input_ids: np.asarray(encoding.ids, np.int64),
            self._spec.attention_mask: np.asarray(encoding.attention_mask, np.int64),
            self._spec.token_type_ids: np.asarray(encoding.type_ids, np.int64),
        }


def _load(path: Path) -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise MissingDependencyError("tokenizers", "data") from None
    if not path.is_file():
        raise UserError(f"no such tokenizer: {path}", "give the path of a tokenizer.json in [data.text]")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no tokenizer: {reason}", "give the path of a tokenizer.json in [data.text]") from error


def _pad_token(tokenizer: Any) -> str:
    usual_tokens = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "</s>")
    return next((token for token in usual_tokens if tokenizer.token_to_id(token) is not None), "[PAD]")
