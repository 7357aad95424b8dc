"""ONNX operators in TensorFlow, one by one, in the layout that they have: what is left where a converter gives up.

Runs in TensorFlow's own environment.
"""

from __future__ import annotations

__all__ = ["translate"]

import functools
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mopt.errors import NotApplicableError

_STANDARD = ("", "ai.onnx")
_Attributes = Mapping[str, Any]
_Kernel = Callable[[Sequence[Any], _Attributes], Any]
"""Of an operator: its inputs, None for one that is left out, and its attributes; a list where it has several outputs."""


def translate(graph: Any, inputs: Mapping[str, Any], shapes: Mapping[str, Sequence[int | None]]) -> list[Any]:
    """Build the operators of a graph in TensorFlow's current graph; return the outputs in their order.

    Args:
        graph: A GraphProto without subgraphs, with its weights.
        inputs: Tensors by name.
        shapes: What is known of the sizes of values, which TensorFlow does not infer through computed shapes.

    Raises:
        NotApplicableError: When an operator, or an attribute of one, is not known.
    """
    from onnx import helper, numpy_helper

    if unknown := sorted({node.op_type for node in graph.node if node.op_type not in _KERNELS or node.domain not in _STANDARD}):
        raise NotApplicableError(f"mopt does not translate {', '.join(unknown)}")
    values: dict[str, Any] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values |= inputs
    for node in graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        made = _KERNELS[node.op_type]([values[name] if name else None for name in node.input], attributes)
        for name, value in zip(node.output, made if isinstance(made, list) else [made], strict=False):
            if name in shapes and hasattr(value, "set_shape") and value.shape.rank in (None, len(shapes[name])):
                value.set_shape(shapes[name])
            values[name] = value
    return [_tf().convert_to_tensor(values[value.name]) for value in graph.output]


# --- what kernels are made of ------------------------------------------------------------------------------------------------


def _tf() -> Any:
    return importlib.import_module("tensorflow")


def _function(path: str) -> Callable[..., Any]:
    """A function of TensorFlow by its name below ``tensorflow``."""
    function: Callable[..., Any] = functools.reduce(getattr, path.split("."), _tf())
    return function


def _plain(path: str) -> _Kernel:
    """An operator that is a function of TensorFlow of the same inputs."""
    return lambda inputs, _: _function(path)(*inputs)


def _constant(value: Any, what: str) -> Any:
    """The value of an input that has to be known when the graph is built.

    Raises:
        NotApplicableError: When it is computed from the inputs of the model.
    """
    import numpy as np

    known = value if isinstance(value, np.ndarray) else _tf().get_static_value(value)
    if known is None:
        raise NotApplicableError(f"{what} depends on the inputs, and TensorFlow has to know it before")
    return known


def _sizes(value: Any) -> list[Any]:
    """The sizes of a tensor, numbers where they are known and scalars of int64 where they are not."""
    tf = _tf()
    value = tf.convert_to_tensor(value)
    dynamic = tf.shape(value, out_type=tf.int64)
    return [dynamic[axis] if size is None else int(size) for axis, size in enumerate(value.shape)]


def _rank(value: Any) -> int:
    rank = _tf().convert_to_tensor(value).shape.rank
    if rank is None:
        raise NotApplicableError("the number of axes of a value depends on the inputs")
    return int(rank)


def _axes(inputs: Sequence[Any], attributes: _Attributes, what: str) -> list[int] | None:
    """Axes as an attribute, or as the second input of newer operator sets."""
    if len(inputs) > 1 and inputs[1] is not None:
        return [int(axis) for axis in _constant(inputs[1], f"the axes of {what}")]
    return list(attributes["axes"]) if "axes" in attributes else None


# --- elementwise -------------------------------------------------------------------------------------------------------------


def _divide(inputs: Sequence[Any], _: _Attributes) -> Any:
    tf = _tf()
    left, right = map(tf.convert_to_tensor, inputs)
    return tf.truncatediv(left, right) if left.dtype.is_integer else tf.divide(left, right)


def _power(inputs: Sequence[Any], _: _Attributes) -> Any:
    tf = _tf()
    base = tf.convert_to_tensor(inputs[0])
    return tf.pow(base, tf.cast(inputs[1], base.dtype))


def _variadic(path: str) -> _Kernel:
    return lambda inputs, _: functools.reduce(_function(path), inputs)


def _mean(inputs: Sequence[Any], _: _Attributes) -> Any:
    return _tf().add_n(list(inputs)) / len(inputs)


def _clip(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    tf = _tf()
    least = inputs[1] if len(inputs) > 1 else attributes.get("min")
    most = inputs[2] if len(inputs) > 2 else attributes.get("max")
    value = inputs[0] if least is None else tf.maximum(inputs[0], tf.cast(least, inputs[0].dtype))
    return value if most is None else tf.minimum(value, tf.cast(most, inputs[0].dtype))


def _cast(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    from onnx.helper import tensor_dtype_to_np_dtype

    return _tf().cast(inputs[0], tensor_dtype_to_np_dtype(attributes["to"]))


def _hard_sigmoid(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return _tf().clip_by_value(alpha * inputs[0] + beta, 0.0, 1.0)


def _gelu(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    return _tf().nn.gelu(inputs[0], approximate=attributes.get("approximate", b"none") == b"tanh")


def _prelu(inputs: Sequence[Any], _: _Attributes) -> Any:
    tf = _tf()
    return tf.maximum(inputs[0], 0.0) + inputs[1] * tf.minimum(inputs[0], 0.0)


# --- shapes ------------------------------------------------------------------------------------------------------------------


def _shape(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    tf = _tf()
    return tf.shape(inputs[0], out_type=tf.int64)[attributes.get("start", 0) : attributes.get("end")]


def _reshape(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    import numpy as np

    tf = _tf()
    value, shape = inputs
    known = shape if isinstance(shape, np.ndarray) else tf.get_static_value(shape)
    if attributes.get("allowzero"):
        return tf.reshape(value, shape)
    if known is None:
        given = tf.cast(shape, tf.int64)
        count = _rank_of_shape(shape)
        taken = tf.concat([tf.shape(value, out_type=tf.int64), tf.zeros([count], tf.int64)], 0)[:count]
        return tf.reshape(value, tf.where(given == 0, taken, given))
    sizes = _sizes(value) if 0 in known else []
    return tf.reshape(
        value, tf.stack([tf.cast(sizes[axis] if size == 0 else size, tf.int64) for axis, size in enumerate(known)])
    )


def _rank_of_shape(shape: Any) -> int:
    count = _tf().convert_to_tensor(shape).shape[0]
    if count is None:
        raise NotApplicableError("the number of axes of a value depends on the inputs")
    return int(count)


def _flatten(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    tf = _tf()
    axis = attributes.get("axis", 1) % (_rank(inputs[0]) + 1)
    sizes = [tf.cast(size, tf.int64) for size in _sizes(inputs[0])]
    one = tf.constant(1, tf.int64)
    return tf.reshape(inputs[0], tf.stack([functools.reduce(tf.multiply, sizes[:axis], one), tf.constant(-1, tf.int64)]))


def _squeeze(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    return _tf().squeeze(inputs[0], _axes(inputs, attributes, "Squeeze"))


def _unsqueeze(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    axes = _axes(inputs, attributes, "Unsqueeze") or []
    value, rank = inputs[0], _rank(inputs[0]) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = _tf().expand_dims(value, axis)
    return value


def _split(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    axis = attributes.get("axis", 0)
    sizes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else attributes.get("split")
    if sizes is None:
        if "num_outputs" not in attributes:
            raise NotApplicableError("Split does not say into how many parts")
        return list(_tf().split(inputs[0], attributes["num_outputs"], axis))
    return list(_tf().split(inputs[0], [int(size) for size in _constant(sizes, "the sizes of Split")], axis))


def _slice(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    tf = _tf()
    value = tf.convert_to_tensor(inputs[0])
    given = [*inputs[1:], *[None] * (5 - len(inputs))]
    starts, ends = (attributes.get(key, each) for key, each in zip(("starts", "ends"), given, strict=False))
    axes = attributes.get("axes", given[2])
    count = _rank_of_shape(starts)
    axes = range(count) if axes is None else [int(axis) for axis in _constant(axes, "the axes of Slice")]
    steps = [1] * count if given[3] is None else [int(step) for step in _constant(given[3], "the steps of Slice")]
    index = [slice(None)] * _rank(value)
    most = 2**31 - 1  # ONNX says "to the end" with the largest number that there is
    starts, ends = (tf.clip_by_value(tf.cast(each, tf.int64), -most, most) for each in (starts, ends))
    for place, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        end = ends[place] if step > 0 or tf.get_static_value(ends[place]) != -most else None
        index[axis] = slice(starts[place], end, step)
    return value[tuple(index)]


def _expand(inputs: Sequence[Any], _: _Attributes) -> Any:
    tf = _tf()
    value = tf.convert_to_tensor(inputs[0])
    shape = tf.broadcast_dynamic_shape(tf.shape(value, out_type=tf.int64), tf.cast(inputs[1], tf.int64))
    return tf.broadcast_to(value, shape)


def _pad(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    import numpy as np

    pads = _constant(inputs[1], "the sizes of Pad") if len(inputs) > 1 else np.asarray(attributes["pads"])
    if (pads < 0).any() or (len(inputs) > 3 and inputs[3] is not None):
        raise NotApplicableError("Pad cuts off, or names its axes")
    mode = attributes.get("mode", b"constant").decode()
    if mode not in ("constant", "reflect"):
        raise NotApplicableError(f"Pad in mode {mode} is no operator that mopt translates")
    filled = inputs[2] if len(inputs) > 2 and inputs[2] is not None else attributes.get("value", 0)
    pairs = pads.reshape(2, -1).T
    return _tf().pad(inputs[0], pairs, mode.upper(), **({} if mode == "reflect" else {"constant_values": filled}))


def _constant_of_shape(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    import numpy as np
    from onnx import numpy_helper

    value = numpy_helper.to_array(attributes["value"])[0] if "value" in attributes else np.float32(0)
    return _tf().fill(_tf().cast(inputs[0], _tf().int64), value)


def _literal(_: Sequence[Any], attributes: _Attributes) -> Any:
    import numpy as np
    from onnx import numpy_helper

    ((kind, value),) = attributes.items()
    if kind == "value":
        return numpy_helper.to_array(value)
    if kind not in ("value_int", "value_ints", "value_float", "value_floats"):
        raise NotApplicableError(f"a constant is given as {kind}")
    return np.asarray(value, np.int64 if "int" in kind else np.float32)


def _gather(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    tf = _tf()
    axis = attributes.get("axis", 0)
    size = _sizes(inputs[0])[axis]
    indices = tf.convert_to_tensor(inputs[1])
    return tf.gather(inputs[0], tf.where(indices < 0, indices + tf.cast(size, indices.dtype), indices), axis=axis)


def _gather_nd(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    return _tf().gather_nd(inputs[0], inputs[1], batch_dims=attributes.get("batch_dims", 0))


def _gather_elements(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    """Gather along one axis, with an index for each element: the other axes have their own index."""
    tf = _tf()
    value, indices = map(tf.convert_to_tensor, inputs)
    rank = _rank(value)
    axis = attributes.get("axis", 0) % rank
    indices = tf.cast(indices, tf.int64)
    indices = tf.where(indices < 0, indices + tf.cast(_sizes(value)[axis], tf.int64), indices)
    shape = tf.shape(indices, out_type=tf.int64)
    grid = tf.meshgrid(*(tf.range(shape[each]) for each in range(rank)), indexing="ij")
    grid[axis] = indices
    return tf.gather_nd(value, tf.stack(grid, axis=-1))


def _trilu(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    shift = int(_constant(inputs[1], "the diagonal of Trilu")) if len(inputs) > 1 and inputs[1] is not None else 0
    tf = _tf()
    rows, columns = (tf.cast(size, tf.int64) for size in _sizes(inputs[0])[-2:])
    distance = tf.range(columns)[None, :] - tf.range(rows)[:, None]
    kept = distance >= shift if attributes.get("upper", 1) else distance <= shift
    return tf.where(kept, inputs[0], tf.zeros_like(inputs[0]))


# --- reductions and products -------------------------------------------------------------------------------------------------


def _reduce(path: str) -> _Kernel:
    def kernel(inputs: Sequence[Any], attributes: _Attributes) -> Any:
        axes = _axes(inputs, attributes, path)
        if not axes and attributes.get("noop_with_empty_axes"):
            return inputs[0]
        return _function(path)(inputs[0], axis=axes or None, keepdims=bool(attributes.get("keepdims", 1)))

    return kernel


def _argument(path: str) -> _Kernel:
    def kernel(inputs: Sequence[Any], attributes: _Attributes) -> Any:
        axis = attributes.get("axis", 0)
        if attributes.get("select_last_index"):
            raise NotApplicableError("the last of equal values is asked for")
        index = _function(path)(inputs[0], axis=axis, output_type=_tf().int64)
        return _tf().expand_dims(index, axis) if attributes.get("keepdims", 1) else index

    return kernel


def _softmax(path: str) -> _Kernel:
    return lambda inputs, attributes: _function(path)(inputs[0], axis=attributes.get("axis", -1))


def _gemm(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    product = _tf().matmul(
        inputs[0], inputs[1], transpose_a=bool(attributes.get("transA", 0)), transpose_b=bool(attributes.get("transB", 0))
    )
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    product = product if alpha == 1 else alpha * product
    if len(inputs) < 3 or inputs[2] is None:
        return product
    return product + (inputs[2] if beta == 1 else beta * inputs[2])


def _matmul(inputs: Sequence[Any], _: _Attributes) -> Any:
    tf = _tf()
    left, right = map(tf.convert_to_tensor, inputs)
    if _rank(left) == 1 or _rank(right) == 1:
        return tf.tensordot(left, right, [[-1], [max(0, _rank(right) - 2)]])
    return tf.matmul(left, right)


def _layer_normalization(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    tf = _tf()
    axes = list(range(attributes.get("axis", -1) % _rank(inputs[0]), _rank(inputs[0])))
    mean, variance = tf.nn.moments(inputs[0], axes, keepdims=True)
    shift = inputs[2] if len(inputs) > 2 else None
    return tf.nn.batch_normalization(inputs[0], mean, variance, shift, inputs[1], attributes.get("epsilon", 1e-5))


# --- images and sequences, channels first ------------------------------------------------------------------------------------


def _channels_last(value: Any) -> Any:
    rank = _rank(value)
    return _tf().transpose(value, [0, *range(2, rank), 1])


def _channels_first(value: Any) -> Any:
    rank = _rank(value)
    return _tf().transpose(value, [0, rank - 1, *range(1, rank - 1)])


def _padded(value: Any, attributes: _Attributes, kernel: Sequence[int], filler: float) -> Any:
    """Pad channels-last data as an ONNX operator with a window says."""
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode not in (b"NOTSET", b"VALID") or attributes.get("ceil_mode"):
        raise NotApplicableError("a window with auto_pad or ceil_mode is not translated")
    pads = attributes.get("pads") or [0] * 2 * len(kernel)
    if not any(pads) or mode == b"VALID":
        return value
    pairs = list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True))
    return _tf().pad(value, [(0, 0), *pairs, (0, 0)], constant_values=filler)


def _convolution(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    import numpy as np

    weights = _constant(inputs[1], "the weight of Conv")
    kernel, groups = weights.shape[2:], attributes.get("group", 1)
    value = _padded(_channels_last(inputs[0]), attributes, kernel, 0.0)
    ones = [1] * len(kernel)
    strides, dilations = attributes.get("strides") or ones, attributes.get("dilations") or ones
    filters = np.transpose(weights, [*range(2, weights.ndim), 1, 0])
    made = _convolved(value, filters, groups, strides, dilations)
    return _channels_first(made if len(inputs) < 3 or inputs[2] is None else made + inputs[2])


def _convolved(value: Any, filters: Any, groups: int, strides: Sequence[int], dilations: Sequence[int]) -> Any:
    """Convolve channels-last data with filters [..., inputs of a group, filters of all groups]."""
    import numpy as np

    tf = _tf()
    window, plain = {"strides": [1, *strides, 1], "padding": "VALID"}, set(strides) == {1} or set(dilations) == {1}
    if groups > 1 and filters.shape[-2] == 1 and len(strides) == 2 and len(set(strides)) == 1 and plain:
        each = filters.reshape(*filters.shape[:2], groups, -1)
        return tf.nn.depthwise_conv2d(value, each, **window, dilations=dilations)
    if len(strides) == 2:
        convolve = functools.partial(tf.nn.conv2d, **window, dilations=[1, *dilations, 1])
    else:
        convolve = functools.partial(tf.nn.convolution, strides=strides, padding="VALID", dilations=dilations)
    if groups == 1:
        return convolve(value, filters)
    parts = zip(tf.split(value, groups, -1), np.split(filters, groups, -1), strict=True)
    return tf.concat([convolve(part, weight) for part, weight in parts], -1)


def _transposed_convolution(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    """Of images: each pixel spreads over a window, and the borders are cut off."""
    import numpy as np

    tf = _tf()
    weights = _constant(inputs[1], "the weight of ConvTranspose")
    strides, pads = attributes.get("strides") or [1, 1], attributes.get("pads") or [0] * 4
    unusual = any(attributes.get("output_padding") or []) or "output_shape" in attributes or attributes.get("group", 1) != 1
    if weights.ndim != 4 or unusual or "auto_pad" in attributes or any(size != 1 for size in attributes.get("dilations") or []):
        raise NotApplicableError("ConvTranspose is translated for images, without groups, dilations and output sizes")
    value = _channels_last(inputs[0])
    batch, *size, _ = _sizes(value)
    full = [(each - 1) * stride + width for each, stride, width in zip(size, strides, weights.shape[2:], strict=True)]
    shape = tf.stack([tf.cast(each, tf.int32) for each in (batch, *full, weights.shape[1])])
    made = tf.nn.conv2d_transpose(value, np.transpose(weights, [2, 3, 1, 0]), shape, strides, "VALID")
    ends = [each - pad for each, pad in zip(full, pads[2:], strict=True)]
    made = made[:, pads[0] : ends[0], pads[1] : ends[1]]
    return _channels_first(made if len(inputs) < 3 or inputs[2] is None else made + inputs[2])


def _resize(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    """By whole factors to the nearest pixel, where all rules for coordinates say the same."""
    import numpy as np

    scales = _constant(inputs[2], "the factors of Resize") if len(inputs) > 2 and inputs[2] is not None else np.empty(0)
    rule = (
        attributes.get("coordinate_transformation_mode", b"half_pixel"),
        attributes.get("nearest_mode", b"round_prefer_floor"),
    )
    same = rule in ((b"asymmetric", b"floor"), (b"half_pixel", b"round_prefer_floor"), (b"half_pixel", b"round_prefer_ceil"))
    if not (attributes.get("mode", b"nearest") == b"nearest" and same and scales.size and (scales == scales.round()).all()):
        raise NotApplicableError("Resize is translated for whole factors and the nearest pixel")
    value = inputs[0]
    for axis, factor in enumerate(scales.astype(int).tolist()):
        value = value if factor == 1 else _tf().repeat(value, factor, axis=axis)
    return value


def _pool(kind: str) -> _Kernel:
    def kernel(inputs: Sequence[Any], attributes: _Attributes) -> Any:
        import numpy as np

        tf = _tf()
        window = attributes["kernel_shape"]
        strides = attributes.get("strides") or [1] * len(window)
        if any(size != 1 for size in attributes.get("dilations") or []):
            raise NotApplicableError("pooling with dilations is not translated")
        filler = -math.inf if kind == "MAX" else 0.0
        value = _channels_last(inputs[0])
        padded = _padded(value, attributes, window, filler)
        made = tf.nn.pool(padded, window, kind, strides=strides, padding="VALID")
        if kind == "AVG" and any(attributes.get("pads") or []) and not attributes.get("count_include_pad"):
            counted = _padded(tf.ones_like(value[..., :1]), attributes, window, 0.0)
            made = made / tf.nn.pool(counted, window, kind, strides=strides, padding="VALID")
        return _channels_first(tf.cast(made, np.asarray(inputs[0]).dtype) if isinstance(inputs[0], np.ndarray) else made)

    return kernel


def _global(path: str) -> _Kernel:
    return lambda inputs, _: _function(path)(inputs[0], axis=list(range(2, _rank(inputs[0]))), keepdims=True)


def _along_channels(value: Any, rank: int) -> Any:
    return _tf().reshape(value, [-1, *[1] * (rank - 2)])


def _batch_normalization(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    value, scale, shift, mean, variance = inputs
    each = [_along_channels(statistic, _rank(value)) for statistic in (mean, variance, shift, scale)]
    return _tf().nn.batch_normalization(value, *each, attributes.get("epsilon", 1e-5))


def _instance_normalization(inputs: Sequence[Any], attributes: _Attributes) -> Any:
    value, scale, shift = inputs
    mean, variance = _tf().nn.moments(value, list(range(2, _rank(value))), keepdims=True)
    scale, shift = (_along_channels(each, _rank(value)) for each in (scale, shift))
    return _tf().nn.batch_normalization(value, mean, variance, shift, scale, attributes.get("epsilon", 1e-5))


_SAME_NAME = {
    "Abs": "abs", "Acos": "acos", "Add": "add", "And": "logical_and", "Asin": "asin", "Atan": "atan", "Ceil": "math.ceil",
    "Cos": "cos", "Cosh": "cosh", "Equal": "equal", "Erf": "math.erf", "Exp": "exp", "Floor": "floor", "Greater": "greater",
    "GreaterOrEqual": "greater_equal", "Identity": "identity", "IsNaN": "math.is_nan", "Less": "less",
    "LessOrEqual": "less_equal", "Log": "math.log", "Mul": "multiply", "Neg": "negative", "Not": "logical_not",
    "Or": "logical_or", "Range": "range", "Reciprocal": "math.reciprocal", "Relu": "nn.relu", "Round": "round",
    "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin", "Sinh": "sinh", "Softplus": "math.softplus",
    "Softsign": "nn.softsign", "Sqrt": "sqrt", "Sub": "subtract", "Tan": "tan", "Tanh": "tanh", "Tile": "tile",
    "Where": "where", "Xor": "math.logical_xor",
}  # fmt: skip
_REDUCTIONS = {
    "ReduceMax": "reduce_max", "ReduceMean": "reduce_mean", "ReduceMin": "reduce_min", "ReduceProd": "reduce_prod",
    "ReduceSum": "reduce_sum", "ReduceL2": "math.reduce_euclidean_norm", "ReduceLogSumExp": "reduce_logsumexp",
}  # fmt: skip
_KERNELS: dict[str, _Kernel] = {
    **{name: _plain(path) for name, path in _SAME_NAME.items()},
    **{name: _reduce(path) for name, path in _REDUCTIONS.items()},
    "ArgMax": _argument("argmax"),
    "ArgMin": _argument("argmin"),
    "AveragePool": _pool("AVG"),
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda inputs, attributes: _tf().concat(list(inputs), attributes["axis"]),
    "Constant": _literal,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Div": _divide,
    "Dropout": lambda inputs, _: _tf().identity(inputs[0]),
    "Einsum": lambda inputs, attributes: _tf().einsum(attributes["equation"].decode(), *inputs),
    "Elu": lambda inputs, attributes: _tf().where(
        inputs[0] > 0, inputs[0], attributes.get("alpha", 1.0) * _tf().math.expm1(inputs[0])
    ),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global("reduce_mean"),
    "GlobalMaxPool": _global("reduce_max"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda inputs, _: inputs[0] * _tf().clip_by_value(inputs[0] / 6.0 + 0.5, 0.0, 1.0),
    "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": lambda inputs, attributes: _tf().nn.leaky_relu(inputs[0], attributes.get("alpha", 0.01)),
    "LogSoftmax": _softmax("nn.log_softmax"),
    "MatMul": _matmul,
    "Max": _variadic("maximum"),
    "MaxPool": _pool("MAX"),
    "Mean": _mean,
    "Min": _variadic("minimum"),
    "PRelu": _prelu,
    "Pow": _power,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Size": lambda inputs, _: _tf().size(inputs[0], out_type=_tf().int64),
    "Slice": _slice,
    "Softmax": _softmax("nn.softmax"),
    "Split": _split,
    "Squeeze": _squeeze,
    "Sum": _variadic("add"),
    "Transpose": lambda inputs, attributes: _tf().transpose(inputs[0], attributes.get("perm")),
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
"""By type of operator."""
