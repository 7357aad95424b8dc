"""Arrays in NumPy's own types, wherever they come from."""

from __future__ import annotations

__all__ = ["EXTENDED", "native_array"]

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

EXTENDED = 2
"""What ``dtype.isbuiltin`` says of a type that another library has added, such as bfloat16 of ml_dtypes."""
_BUILTIN = 1


def native_array(value: Any) -> npt.NDArray[Any]:
    """Return ``value`` as an array in the machine's byte order, whose type is NumPy's own object for it.

    A dtype that was unpickled equals ``float32`` and is not that object, and ``>f4`` is called ``float32`` too: whoever goes
    by identity or by name takes them for what they are not. A mask, or Python objects that are all numbers or all text,
    become a plain array.

    Raises:
        ValueError: When a value is masked, or rows have different lengths.
        Exception: Whatever the object's own ``__array__`` raises.
    """
    import numpy as np

    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise ValueError("some of its values are masked")
        value = value.data
    array = np.asarray(value)
    if array.dtype.kind == "O":
        array = _plain(array)
    dtype = array.dtype
    if dtype.kind == "U" and not dtype.isnative:
        return array.astype(dtype.newbyteorder("="))
    if dtype.kind not in "biufc" or dtype.isbuiltin in (_BUILTIN, EXTENDED):
        return array
    own = np.dtype(dtype.type)
    return array.view(own) if dtype.isnative else array.astype(own)


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array of objects as one of numbers or text, where they are all the one or all the other."""
    import numpy as np

    items = array.ravel().tolist()
    if items and all(isinstance(item, str) for item in items):
        return array.astype("U")
    if items and all(isinstance(item, int | float | np.number | np.bool_) for item in items):
        return np.array(items).reshape(array.shape)
    return array
