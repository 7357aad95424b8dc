"""What every configuration in protobuf's text format is written with: strings, and Triton's types and tensors."""

from __future__ import annotations

__all__ = ["RESHAPE", "TYPES", "quote", "tensor"]

from mopt.model.signature import TensorSpec

TYPES = {
    "bool": "TYPE_BOOL", "str": "TYPE_STRING", "bfloat16": "TYPE_BF16",
    "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64",
    "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32", "uint64": "TYPE_UINT64",
}  # fmt: skip
RESHAPE = "  reshape { shape: [ ] }"
"""What makes one number for each sample of the client's tensor of shape [1]."""


def tensor(kind: str, spec: TensorSpec, *, batched: bool) -> list[str]:
    """Return the lines of an input or output; the batch axis is not among the dims where Triton batches."""
    shape = spec.shape[1:] if batched else spec.shape
    dims = [dimension if isinstance(dimension, int) else -1 for dimension in shape]
    lines = [f"{kind} {{", f"  name: {quote(spec.name)}", f"  data_type: {TYPES[spec.dtype]}"]
    if dims:
        lines.append(f"  dims: [ {', '.join(map(str, dims))} ]")
    else:
        # Triton takes no empty dims; it takes an empty reshape, but only beside a batch axis.
        lines.append("  dims: [ 1 ]")
        lines += [RESHAPE] if batched else []
    return [*lines, "}"]


def quote(text: str) -> str:
    """Return a string literal of protobuf's text format."""
    escapes = {ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n"}
    return (
        '"' + "".join(escapes.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in text.encode()) + '"'
    )
