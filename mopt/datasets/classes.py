"""Labels by the names of their classes, as the model numbers them."""

from __future__ import annotations

__all__ = ["number_labels"]

import re
from collections.abc import Sequence
from typing import Any

from mopt.errors import UserError
from mopt.system.plugins import nearest

_MOST_SHOWN = 4


def number_labels(
    labels: list[Any] | None, names: Sequence[str], classes: Sequence[str], *, asked: bool
) -> tuple[list[Any] | None, str]:
    """Return the labels as places in ``classes``, where they are names of them, and what there is to say about it.

    Case, blanks, underscores and hyphens do not tell names apart; of several names with commas between, as ImageNet has
    them, each is one.

    Args:
        labels: Of the data: text, or numbers.
        names: What the data calls the numbers, if it does: its class folders, say.
        classes: In the order of the model's scores; empty when nobody knows them.
        asked: Whether the user named the classes, rather than the model.

    Raises:
        UserError: At a label that is none of the classes that the user named.
    """
    called = _called(labels, names)
    if not labels or not classes or not called:
        return labels, ""
    places = _places(classes)
    unknown = next((name for name in dict.fromkeys(called) if _plain(name) not in places), None)
    if unknown is not None and asked:
        raise UserError(f"the label {unknown} is none of the classes {_shown(classes)}", nearest(unknown, classes))
    if unknown is not None:
        return labels, f"the labels stay as they are: {unknown} is none of the model's classes {_shown(classes)}"
    numbered = [places[_plain(name)] for name in called]
    changed = numbered != labels and not asked
    known = [f"{name} is {places[_plain(name)]}" for name in sorted(set(called))]
    shown = ", ".join(known if len(known) <= _MOST_SHOWN else [*known[:_MOST_SHOWN], "..."])
    return numbered, f"labels are numbered as the model's classes are: {shown}" if changed else ""


def _called(labels: list[Any] | None, names: Sequence[str]) -> list[str]:
    """Return the name of the class of each label; nothing where they have none."""
    if labels and all(isinstance(label, str) for label in labels):
        return labels
    if labels and names and all(isinstance(label, int) and 0 <= label < len(names) for label in labels):
        return [names[label] for label in labels]
    return []


def _places(classes: Sequence[str]) -> dict[str, int]:
    """Return the place of each class by each of its names; a name of two classes is one of neither."""
    places = {_plain(name): place for place, name in enumerate(classes)}
    synonyms = [(_plain(part), place) for place, name in enumerate(classes) for part in name.split(",")]
    counts: dict[str, set[int]] = {}
    for name, place in synonyms:
        counts.setdefault(name, set()).add(place)
    return {name: min(where) for name, where in counts.items() if len(where) == 1} | places


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _shown(classes: Sequence[str]) -> str:
    return ", ".join(classes if len(classes) <= _MOST_SHOWN else [*classes[:_MOST_SHOWN], f"... ({len(classes)})"])
