"""What was given on the command line, as a part of a recipe."""

from __future__ import annotations

__all__ = ["gate_section", "given", "parse_batch_sizes"]

from collections.abc import Iterable
from typing import Any


def given(**values: Any) -> dict[str, Any]:
    """Return the values that were given: neither None nor empty."""
    return {name: value for name, value in values.items() if value is not None and value not in ([], {})}


def parse_batch_sizes(text: str | None) -> list[int] | None:
    """Return batch sizes from text such as ``1,8``; the recipe checks their range.

    Raises:
        UserError: When they are no numbers.
    """
    from mopt.errors import UserError

    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--batch-sizes is {text!r}", "give whole numbers with commas between, such as 1,8") from None


def gate_section(
    *,
    metric: str | None,
    limits: Iterable[str],
    slices: list[str] | None,
    slice_tolerances: Iterable[str],
    **values: Any,
) -> dict[str, Any]:
    """Return the section ``gate`` of a recipe from what was given.

    Args:
        metric: The metric that was given; it may be limited as well.
        limits: Texts such as ``p99: +5%``.
        slices: Columns.
        slice_tolerances: Texts such as ``2%`` for all, or ``language=de: 5%`` for one.
        **values: Further keys of the section; None where nothing was given.

    Raises:
        UserError: When a limit is of nothing that can be limited.
    """
    from mopt.evaluators.limit import COSTS, parse_assignment
    from mopt.system.plugins import names

    limitable = [*COSTS, *names("metrics"), *([metric] if metric else [])]
    for_all, for_one = None, {}
    for text in slice_tolerances:
        name, colon, amount = text.rpartition(":")
        if colon:
            for_one[name.strip()] = amount.strip()
        else:
            for_all = text
    return given(
        limits=dict(parse_assignment(text, limitable) for text in limits),
        slices=slices,
        slice_tolerance=for_all,
        slice_tolerances=for_one,
        **values,
    )
