"""Axes of a PyTorch module whose length is left free: what holds one, and whether the export is right at another length."""

from __future__ import annotations

__all__ = ["holder", "proof_of"]

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.errors import UserError
from mopt.exporters._base import DynamicAxes, open_onnxruntime
from mopt.exporters._parity import compare
from mopt.model.signature import BATCH, Feed

if TYPE_CHECKING:
    import numpy.typing as npt

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*\n\s*(?P<code>[^\n]+)')
_LONGEST_CODE = 120


def holder(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], shapes: dict[str, Any]) -> str:
    """Return the line of the user's code that holds an axis to the example's length, as torch's strict export names it.

    Empty when torch does not name any.
    """
    import torch

    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it writes its own stack for each guard
    try:
        with torch.no_grad():
            torch.export.export(module, arguments, keywords, dynamic_shapes=shapes, strict=True)
    except Exception as error:  # noqa: BLE001 - torch raises many kinds, and this only looks for a better message
        return _line_of(str(error).partition("User stack:")[2])
    finally:
        logger.setLevel(level)
    return ""


def _line_of(stack: str) -> str:
    """Return the innermost frame of the user's own code, else of torch's: file, line and what stands there."""
    frames = list(_FRAME.finditer(stack))
    own = [frame for frame in frames if "site-packages" not in frame["file"]]
    if not frames:
        return ""
    frame = (own or frames)[-1]
    return f"{Path(frame['file']).name}:{frame['line']}: {frame['code'].strip()[:_LONGEST_CODE]}"


def proof_of(
    run: Callable[[Sequence[Feed]], Iterable[Feed]], path: Path, example: Mapping[str, npt.NDArray[Any]], dynamic: DynamicAxes
) -> dict[str, str]:
    """Run module and export at a length that the example does not have: twice its own, or half where that is too long.

    Args:
        run: Runs the module on feeds.
        path: The export.
        example: Input -> array.
        dynamic: The axes that are free.

    Returns:
        What to tell about it: the lengths, or that the module takes none of them.

    Raises:
        UserError: When the export gives something else than the module there, or does not run.
    """
    for stretch in (_double, _halve):
        feed = {name: stretch(value, dynamic.get(name, {})) for name, value in example.items()}
        shapes = ", ".join(f"{name} {list(feed[name].shape)}" for name in dynamic)
        answers = _answers(run, feed)
        if not answers:
            continue
        expected, again = answers
        if compare([expected], [again]).problem:
            return {"dynamic axes": "not compared at another length, for the module gives something else each time"}
        try:
            problem = compare([expected], [open_onnxruntime(path)(feed)]).problem
        except Exception as error:  # noqa: BLE001 - ONNX Runtime has no public base class for what it raises
            problem = (str(error).splitlines() or [type(error).__name__])[-1][:200]
        if problem:
            raise UserError(
                f"the export is right at the example's length only; at {shapes}: {problem}",
                "resize the samples to the example's length, or write the module so that it does not depend on it",
            )
        return {"dynamic axes": f"right at {shapes} as well"}
    return {"dynamic axes": "the module takes neither twice nor half the example's length"}


def _answers(run: Callable[[Sequence[Feed]], Iterable[Feed]], feed: Feed) -> list[Feed]:
    """Run the module twice; nothing when it does not take the feed."""
    try:
        return list(run([feed, feed]))
    except Exception:  # noqa: BLE001 - the module's own code, which may not take that length
        return []


def _double(value: npt.NDArray[Any], axes: Mapping[int, str]) -> npt.NDArray[Any]:
    import numpy as np

    for axis, name in axes.items():
        value = value if name == BATCH else np.concatenate([value, value], axis)
    return value


def _halve(value: npt.NDArray[Any], axes: Mapping[int, str]) -> npt.NDArray[Any]:
    import numpy as np

    for axis, name in axes.items():
        value = value if name == BATCH else np.take(value, range(max(1, value.shape[axis] // 2)), axis)
    return value
