"""What the user says about the data: where it is, what it is called, and how it is made into the model's inputs."""

from __future__ import annotations

__all__ = ["RANDOM", "DataSpec", "ImageSpec", "SourceDefaults", "TextSpec"]

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic

from mopt.storage._base import UrlOrPath
from mopt.system.schema import Schema

RANDOM = "random"
"""The path that asks, by name, for data that means nothing."""

Pixels = Annotated[int, pydantic.Field(ge=1, le=65536)]
Count = Annotated[int, pydantic.Field(ge=1)]


class ImageSpec(Schema):
    """How a picture becomes an array: resize, centre crop, then ``(pixel * scale - mean) / std`` for each channel."""

    column: Annotated[str, pydantic.Field(description="column or array that holds it; default: the only one there is")] = ""
    resize: Annotated[
        Pixels | tuple[Pixels, Pixels] | None,
        pydantic.Field(description="length of the shorter side in pixels, or [height, width]"),
    ] = None
    crop: Annotated[
        Pixels | tuple[Pixels, Pixels] | None,
        pydantic.Field(description="side of a centred square, or [height, width]"),
    ] = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    channels: Annotated[Literal["rgb", "bgr", "gray"], pydantic.Field(description="order of the channels")] = "rgb"
    layout: Annotated[Literal["nchw", "nhwc"], pydantic.Field(description="order of the axes")] = "nchw"
    scale: Annotated[float, pydantic.Field(gt=0, description="factor for pixels 0 to 255; integer types keep them")] = 1 / 255
    mean: Annotated[
        tuple[float, ...], pydantic.Field(description="subtracted after scaling; one number, or one a channel")
    ] = ()
    std: Annotated[
        tuple[Annotated[float, pydantic.Field(gt=0)], ...],
        pydantic.Field(description="divided by after that; one number, or one a channel"),
    ] = ()
    dtype: Literal["float32", "float16", "uint8"] = "float32"

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        count = 1 if self.channels == "gray" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, count):
                raise ValueError(f"{name} has {len(values)} numbers for {count} channels")
        if self.dtype == "uint8" and (self.mean or self.std or "scale" in self.model_fields_set):
            raise ValueError("scale, mean and std need a floating-point dtype")
        return self

    def recipe(self) -> dict[str, Any]:
        """Return all that is done to a picture as JSON, wherever the picture comes from."""
        return self.model_dump(mode="json", exclude={"column"} | ({"scale"} if self.dtype == "uint8" else set()))


class TextSpec(Schema):
    """How text becomes token numbers."""

    tokenizer: Annotated[
        str, pydantic.Field(description="path of a tokenizer.json; default: the one that the model brings")
    ] = ""
    columns: Annotated[
        tuple[str, ...],
        pydantic.Field(max_length=2, description="one column, or two for pairs; default: the only text column"),
    ] = ()
    max_length: Annotated[int, pydantic.Field(ge=1, description="tokens that are kept")] = 128
    padding: Annotated[
        Literal["max", "longest", "none"],
        pydantic.Field(description="up to max_length, up to the longest text of the data, or not at all"),
    ] = "max"
    input_ids: Annotated[str, pydantic.Field(description="name of the model's input")] = "input_ids"
    attention_mask: Annotated[str, pydantic.Field(description="the same, where the model has one")] = "attention_mask"
    token_type_ids: Annotated[str, pydantic.Field(description="the same, where the model has one")] = "token_type_ids"  # noqa: S105


class DataSpec(Schema):
    """Where the samples are and what is in them."""

    path: Annotated[
        str,
        pydantic.Field(min_length=1, description="a file, a folder, a URL, file.py:function, or the word random"),
        UrlOrPath,
    ]
    label: Annotated[str | None, pydantic.Field(description="column or array with the labels; default: label, labels or y")] = (
        None
    )
    group: Annotated[
        str | None,
        pydantic.Field(
            description="column or array that says which samples belong together, as views of one picture do: a group is "
            "on one side only, and counts as one witness"
        ),
    ] = None
    slices: Annotated[
        tuple[str, ...],
        pydantic.Field(
            description="columns or arrays that say which part of the data a sample belongs to, such as its language"
        ),
    ] = ()
    columns: Annotated[
        dict[str, str | tuple[str, ...]],
        pydantic.Field(description="name of a model input -> column, or columns that make a vector"),
    ] = {}
    classes: Annotated[
        tuple[str, ...],
        pydantic.Field(
            description="names of the classes in the order of the model's scores, for labels that are text and for class "
            "folders; default: those that the model brings"
        ),
    ] = ()
    calibration: Annotated[Count, pydantic.Field(description="samples to calibrate with")] = 128
    evaluation: Annotated[
        Count | None, pydantic.Field(description="samples to evaluate with; default: the rest up to 2000")
    ] = None
    seed: Annotated[int, pydantic.Field(ge=0, description="of the shuffle")] = 0
    image: ImageSpec | None = None
    text: TextSpec | None = None

    @property
    def is_random(self) -> bool:
        """Whether made-up data was asked for."""
        return self.path == RANDOM


class SourceDefaults(Schema):
    """What a model brings along, for what the recipe does not say.

    Attributes:
        text: How it takes text; the tokenizer's path starts from the model's folder.
        image: How it takes pictures.
        columns: Input -> the columns that it was fitted with.
        classes: Their names, in the order of its scores.
        metric: That of its task, for labelled data.
        left_out: What it brings that a recipe cannot say, and why.
    """

    text: TextSpec | None = None
    image: ImageSpec | None = None
    columns: dict[str, tuple[str, ...]] = {}
    classes: tuple[str, ...] = ()
    metric: str = ""
    left_out: str = ""

    def at(self, folder: Path) -> SourceDefaults:
        """Return the same with the tokenizer's path from where ``folder``'s starts from."""
        if self.text is None:
            return self
        return self.model_copy(update={"text": self.text.model_copy(update={"tokenizer": str(folder / self.text.tokenizer)})})
