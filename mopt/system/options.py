"""Options that people write for a plugin, checked against the fields of its dataclass."""

from __future__ import annotations

__all__ = ["check_options", "fields_of_type"]

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from mopt.errors import UserError
from mopt.system.plugins import nearest


def check_options(plugin: type, options: Mapping[str, Any], what: str, given: type | None = None) -> dict[str, Any]:
    """Return options as the fields of a plugin take them: a list from TOML as a tuple, and so on.

    Args:
        plugin: A dataclass.
        options: By name of the field, as plain data.
        what: Plugin and place in words, for messages.
        given: A type whose fields mopt fills in itself, so that nobody may write them; None for none.

    Raises:
        UserError: When there is no such field, or the value is not of its type; nothing is converted that is another type.
    """
    import pydantic

    annotations = typing.get_type_hints(plugin)
    filled = set(fields_of_type(plugin, given)) if given is not None else set()
    names = [field.name for field in dataclasses.fields(plugin) if field.init and field.name not in filled]
    checked = {}
    for name, value in options.items():
        if name in filled:
            raise UserError(f"{what}: {name} is filled in by mopt", "leave it out")
        if name not in names:
            raise UserError(f"{what} has no option {name}", nearest(name, names) if names else _hint(names))
        try:
            checked[name] = pydantic.TypeAdapter(annotations[name]).validate_json(_as_json(value), strict=True)
        except pydantic.ValidationError as error:
            raise UserError(f"{what}: {name}: {error.errors()[0]['msg']} (given: {value!r})", _hint(names)) from None
    return checked


def fields_of_type(plugin: type, kind: type) -> list[str]:
    """Return the fields of a dataclass that hold a ``kind``, or may."""
    annotations = typing.get_type_hints(plugin)
    return [
        field.name
        for field in dataclasses.fields(plugin)
        if kind in (annotations[field.name], *typing.get_args(annotations[field.name]))
    ]


def _hint(names: Sequence[str]) -> str:
    return f"its options are {', '.join(names)}" if names else "it has no options"


def _as_json(value: Any) -> str:
    """JSON keeps lists and whole numbers apart from text, and lets a list be a tuple and a whole number a float."""
    return json.dumps(value, default=str)
