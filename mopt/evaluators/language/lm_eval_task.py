"""Multiple-choice tasks of the lm-evaluation-harness whose data is local, read from their YAML.

What is read: ``output_type: multiple_choice``, ``dataset_path: json``, ``csv`` or ``parquet`` with ``dataset_kwargs:
data_files``, ``test_split`` or else ``validation_split``, ``description``, ``target_delimiter``, ``dataset_name`` (not looked
at), and ``doc_to_text``, ``doc_to_choice`` and ``doc_to_target`` as a column, a Jinja template, or a plain value. Templates
are rendered in Jinja's immutable sandbox. What runs code of its own (``!function``, ``process_docs``) or changes the question
otherwise (examples in the prompt, other tasks that are included) is refused, so that no figure is called by a task's name
that it is not.
"""

from __future__ import annotations

__all__ = ["is_lm_eval_task", "read_lm_eval_task"]

import ast
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mopt.datasets.plain_rows import TABLES, plain_rows
from mopt.errors import MissingDependencyError, UserError
from mopt.evaluators.language.choices import ChoiceItem

_READ = frozenset(
    {
        "task", "tag", "group", "dataset_path", "dataset_name", "dataset_kwargs", "test_split", "validation_split",
        "training_split", "fewshot_split", "output_type", "description", "doc_to_text", "doc_to_choice", "doc_to_target",
        "target_delimiter", "num_fewshot", "metric_list", "metadata", "should_decontaminate", "doc_to_decontamination_query",
        "repeats", "fewshot_delimiter",
    }
)  # fmt: skip
_SOURCES = ("json", "csv", "parquet")
_HINT = "give the questions themselves as JSON Lines, or run the task with lm-eval"


def is_lm_eval_task(path: Path) -> bool:
    """Whether a path is that of a YAML."""
    return path.suffix.lower() in (".yaml", ".yml") and path.is_file()


def read_lm_eval_task(path: Path) -> tuple[ChoiceItem, ...]:
    """Read the questions of a task.

    Raises:
        UserError: When it is no such task, its data is not there, or a template cannot be rendered.
        MissingDependencyError: Without PyYAML.
    """
    task = _task(path)
    items = []
    for number, row in enumerate(plain_rows(_data(path, task)), start=1):
        items.append(_item(task, row, f"{task.get('task', path.stem)} row {number}"))
    if not items:
        raise UserError(f"the data of {path.name} is empty", _HINT)
    return tuple(items)


def _task(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ModuleNotFoundError:
        raise MissingDependencyError("pyyaml", "data") from None
    try:
        task = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.constructor.ConstructorError as error:
        raise UserError(f"{path.name} runs code of its own: {error.problem}", _HINT) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"{path.name} is no YAML", _HINT) from None
    if not isinstance(task, dict) or task.get("output_type") != "multiple_choice":
        raise UserError(f"{path.name} is no task with output_type: multiple_choice", _HINT)
    if unknown := sorted(task.keys() - _READ):
        raise UserError(f"{path.name} has {', '.join(unknown)}, which mopt does not read", _HINT)
    if task.get("num_fewshot"):
        raise UserError(f"{path.name} puts {task['num_fewshot']} examples before each question", _HINT)
    for field in ("doc_to_text", "doc_to_choice", "doc_to_target"):
        if field not in task:
            raise UserError(f"{path.name} has no {field}", _HINT)
    return task


def _data(path: Path, task: Mapping[str, Any]) -> Path:
    """Return the file of the split that is evaluated."""
    files = (task.get("dataset_kwargs") or {}).get("data_files")
    split = task.get("test_split") or task.get("validation_split") or task.get("training_split")
    if isinstance(files, dict):
        files = files.get(split)
    if isinstance(files, list) and len(files) == 1:
        (files,) = files
    if task.get("dataset_path") not in _SOURCES or not isinstance(files, str):
        raise UserError(f"the data of {path.name} is not one local file of the split {split}", _HINT)
    data = path.parent / files
    if not data.is_file() or data.suffix.lower() not in TABLES:
        raise UserError(f"the data of {path.name} is not there: {data}", _HINT)
    return data


def _item(task: Mapping[str, Any], row: Mapping[str, Any], name: str) -> ChoiceItem:
    context = _value(task["doc_to_text"], row, name)
    choices = _list(_value(task["doc_to_choice"], row, name), name)
    target = _value(task["doc_to_target"], row, name)
    if isinstance(target, str):
        target = int(target) if target.strip().isdecimal() else choices.index(target) if target in choices else -1
    if not isinstance(context, str) or len(choices) < 2:
        raise UserError(f"{name} is no text with two choices or more", _HINT)
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < len(choices):
        raise UserError(f"{name}: the target is none of its {len(choices)} choices", _HINT)
    return ChoiceItem(
        name, f"{task.get('description') or ''}{context}", tuple(choices), target, str(task.get("target_delimiter", " "))
    )


def _value(field: Any, row: Mapping[str, Any], name: str) -> Any:
    """Return what a field of a task is for a row: a column of that name, a rendered template, or itself."""
    import jinja2

    if not isinstance(field, str):
        return field
    if field in row:
        return row[field]
    try:
        return _environment().from_string(field).render(**row)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise UserError(f"{name}: the template {field[:60]!r} cannot be rendered: {error}", _HINT) from None


def _list(value: Any, name: str) -> list[str]:
    """Return choices; a template renders a list as Python writes it."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise UserError(f"{name}: the choices are no list: {value[:60]!r}", _HINT) from None
    if isinstance(value, dict):
        value = list(value.values())
    return [str(choice) for choice in value] if isinstance(value, list | tuple) else []


@functools.cache
def _environment() -> Any:
    import jinja2
    import jinja2.sandbox

    return jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
