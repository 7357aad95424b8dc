"""Triton's ensemble for a model of pictures: what ``[data.image]`` does to pixels, as a model in front of it."""

from __future__ import annotations

__all__ = ["write_ensemble"]

from pathlib import Path
from typing import Any

import pydantic

from mopt.artifacts.serving._names import model_name
from mopt.artifacts.serving._pbtxt import RESHAPE, quote, tensor
from mopt.datasets.spec import ImageSpec
from mopt.model.signature import TensorSpec
from mopt.records.manifest import Manifest

_PIXELS, _PREPARED = "pixels", "prepared"
_OPSET, _IR_VERSION = 13, 8
"""Old enough for every release of Triton that is known here."""
_NO_MODEL = "An ensemble has no model of its own. Triton wants the folder of its version, and no copy keeps an empty one.\n"


def write_ensemble(repository: Path, manifest: Manifest, max_batch: int) -> str:
    """Write ``<name>_pixels``, which makes of pixels what was judged, and ``<name>_ensemble``, which runs it before the model.

    Only arithmetic goes into the graph, which is equal to the last bit; a resize is not, for no operator of ONNX rounds as
    Pillow does, so that the client sends pictures of the right size.

    Args:
        repository: With the model in it.
        manifest: Of the artifact; ``data["image"]`` says how its pictures were made.
        max_batch: Of the model, as its configuration says.

    Returns:
        What people must know of it; empty where the data has no pictures, or where there is nothing to do to them.
    """
    spec, image = _pictures(manifest)
    if spec is None or image is None or max_batch < 1:
        return ""
    signature, name = manifest.signature, model_name(manifest.name)
    others = [each for each in signature.inputs if each.name != spec.name]
    names = [_PIXELS, _PREPARED, *(each.name for each in (*others, *signature.outputs))]
    if len(set(names)) != len(names):
        return ""  # tensors of an ensemble share one space of names
    pixels = TensorSpec(name=_PIXELS, dtype="uint8", shape=("batch", *_size(spec, image), _channels(image)))
    prepared = TensorSpec(name=_PREPARED, dtype=spec.dtype, shape=spec.shape)
    _write_pixels(repository / f"{name}_pixels", image, pixels, prepared, max_batch)
    steps = [
        _step(f"{name}_pixels", {_PIXELS: _PIXELS}, {_PREPARED: _PREPARED}),
        _step(
            name,
            {spec.name: _PREPARED} | {each.name: each.name for each in others},
            {each.name: each.name for each in signature.outputs},
        ),
    ]
    lines = [
        "# Pixels go in, and what the model makes of them comes out; the steps run in this order.",
        f"name: {quote(f'{name}_ensemble')}",
        'platform: "ensemble"',
        f"max_batch_size: {max_batch}",
        *_outside("input", pixels, *others),
        *_outside("output", *signature.outputs),
        f"ensemble_scheduling {{ {' '.join(steps)} }}",
    ]
    version = _write(repository / f"{name}_ensemble", lines)
    (version / "README.md").write_text(_NO_MODEL, encoding="utf-8")
    size = " x ".join(str(size) if isinstance(size, int) else "any" for size in pixels.shape[1:])
    before = " that were resized and cropped as [data.image] says" if image.resize or image.crop else ""
    return (
        f"{name}_ensemble takes pixels{before} (UINT8, {size}, {'gray' if image.channels == 'gray' else 'RGB'}) and does the "
        "rest of [data.image] itself, to the last bit as it was judged."
    )


def _pictures(manifest: Manifest) -> tuple[TensorSpec | None, ImageSpec | None]:
    """The input that takes pictures, and how they were made; None where that is no plain batch of pictures."""
    described: dict[str, Any] = dict(manifest.data.get("image") or {})
    name = described.pop("input", None)
    spec = next((spec for spec in manifest.signature.inputs if spec.name == name), None)
    try:
        image = ImageSpec.model_validate(described)
    except pydantic.ValidationError:  # an artifact of another version
        return None, None
    if spec is None or len(spec.shape) != 4 or spec.dtype != image.dtype:
        return None, None
    nothing = image.dtype == "uint8" and image.channels != "bgr" and image.layout == "nhwc"
    channels = spec.shape[1 if image.layout == "nchw" else 3]
    if nothing or channels not in (_channels(image), *(size for size in spec.shape if isinstance(size, str))):
        return None, None
    return spec, image


def _channels(image: ImageSpec) -> int:
    return 1 if image.channels == "gray" else 3


def _size(spec: TensorSpec, image: ImageSpec) -> tuple[int | str, int | str]:
    height, width = spec.shape[2:] if image.layout == "nchw" else spec.shape[1:3]
    return height, width


def _write_pixels(folder: Path, image: ImageSpec, pixels: TensorSpec, prepared: TensorSpec, max_batch: int) -> None:
    lines = [
        "# What [data.image] does to pixels of the right size.",
        f"name: {quote(folder.name)}",
        'backend: "onnxruntime"',
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {max_batch}",
        *tensor("input", pixels, batched=True),
        *tensor("output", prepared, batched=True),
        "instance_group { count: 1 kind: KIND_CPU }",
        'parameters { key: "intra_op_thread_count" value { string_value: "1" } }',
        'parameters { key: "inter_op_thread_count" value { string_value: "1" } }',
    ]
    version = _write(folder, lines)
    (version / "model.onnx").write_bytes(_graph(image, pixels, prepared))


def _write(folder: Path, lines: list[str]) -> Path:
    """Write the configuration of a model; return the folder of its only version."""
    version = folder / "1"
    version.mkdir(parents=True)
    (folder / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return version


def _graph(image: ImageSpec, pixels: TensorSpec, prepared: TensorSpec) -> bytes:
    """The arithmetic of :func:`mopt.datasets.preprocess.image_array`, operator by operator."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    constants: dict[str, Any] = {}
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if image.channels == "bgr":
        constants["order"] = np.array([2, 1, 0], np.int64)
        steps.append(("Gather", ["order"], {"axis": 3}))
    if image.dtype != "uint8":
        steps.append(("Cast", [], {"to": onnx.TensorProto.FLOAT}))
        for operator, name, values in (
            ("Mul", "scale", (image.scale,)),
            ("Sub", "mean", image.mean),
            ("Div", "std", image.std),
        ):
            if values:
                constants[name] = np.asarray(values, np.float32)
                steps.append((operator, [name], {}))
    if image.layout == "nchw":
        steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    if image.dtype == "float16":
        steps.append(("Cast", [], {"to": onnx.TensorProto.FLOAT16}))
    between = [_PIXELS, *(f"step_{index}" for index in range(1, len(steps))), _PREPARED]
    nodes = [
        helper.make_node(operator, [before, *more], [after], **attributes)
        for (operator, more, attributes), before, after in zip(steps, between, between[1:], strict=False)
    ]
    ends = [
        helper.make_tensor_value_info(spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), list(spec.shape))
        for spec in (pixels, prepared)
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, _PIXELS, ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    return bytes(model.SerializeToString())


def _outside(kind: str, *specs: TensorSpec) -> list[str]:
    """Tensors as clients see them: a reshape is between the server and the model behind it."""
    return [line for spec in specs for line in tensor(kind, spec, batched=True) if line != RESHAPE]


def _step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> str:
    maps = [
        f"{kind}_map {{ key: {quote(key)} value: {quote(value)} }}"
        for kind, pairs in (("input", inputs), ("output", outputs))
        for key, value in pairs.items()
    ]
    return f"step {{ model_name: {quote(model)} model_version: -1 {' '.join(maps)} }}"
