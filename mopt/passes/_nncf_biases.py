"""The biases that NNCF corrects, as they were: an operator that goes back to float needs its own."""

from __future__ import annotations

__all__ = ["BIASES", "bias_of", "changed_biases", "read_biases", "replace_constant", "write_biases"]

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.passes._openvino import CHANNEL_AXES, openvino

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BIASES = "biases.npz"
"""Beside a model that was calibrated: the biases before their correction, by the name of their product."""


def bias_of(product: Any) -> tuple[Any, int] | None:
    """Return the addition that follows a product alone, with the position of its constant; None where there is none."""
    readers = [target.get_node() for target in product.output(0).get_target_inputs()]
    if len(readers) != 1 or readers[0].get_type_name() != "Add":
        return None
    ports = [index for index in (0, 1) if readers[0].input_value(index).get_node().get_type_name() == "Constant"]
    return (readers[0], ports[0]) if ports else None


def changed_biases(before: Any, after: Any) -> dict[str, npt.NDArray[np.generic]]:
    """Return the biases that differ between two ``openvino.Model`` with the same names, as they were before.

    One that the first model does not have was zero.
    """
    import numpy as np

    originals = {node.get_friendly_name(): node for node in before.get_ops()}
    changed = {}
    for product in after.get_ops():
        name = product.get_friendly_name()
        if product.get_type_name() not in CHANNEL_AXES or name not in originals or (bias := bias_of(product)) is None:
            continue
        values = _constant(*bias)
        original = bias_of(originals[name])
        exact = np.zeros_like(values) if original is None else _constant(*original)
        if exact.shape != values.shape or not np.array_equal(exact, values):
            changed[name] = exact
    return changed


def replace_constant(node: Any, port: int, values: npt.NDArray[np.generic]) -> None:
    """Let a node read another constant."""
    node.input(port).replace_source_output(openvino().op.Constant(values).output(0))


def write_biases(path: Path, biases: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Write arrays by name; a name may be of any characters."""
    import numpy as np

    np.savez(path, np.array(list(biases), dtype=str), *biases.values())


def read_biases(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Read what :func:`write_biases` wrote."""
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        names, *values = (arrays[name] for name in arrays.files)
    return dict(zip(names.tolist(), values, strict=True))


def _constant(node: Any, port: int) -> npt.NDArray[np.generic]:
    import numpy as np

    return np.array(node.input_value(port).get_node().get_data())
