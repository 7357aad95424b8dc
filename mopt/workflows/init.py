"""A recipe to start from, commented, for a given model; and what any recipe may hold, for editors."""

from __future__ import annotations

__all__ = ["recipe_schema", "render_recipe"]

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mopt.datasets.spec import SourceDefaults
from mopt.errors import CandidateRejectedError, UserError
from mopt.exporters._base import Exporter, brought_in_child
from mopt.exporters._export import find_exporter
from mopt.recipe import Recipe, make_recipe
from mopt.storage._fetch import fetched

_DRAFT_07_WORDS = {"$defs": "definitions", "prefixItems": "items"}
_MOST_CLASSES = 50
"""Names that a recipe is still readable with."""
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_MINUTE = 60e3
"""In milliseconds, the unit of the defaults that are times."""
_TEXT = """\
# What mopt build should make of {name}. Every key and its default: mopt init --schema
model = {model}
{signature}
target = "cpu"              # or a GPU, such as "nvidia-l4"; mopt list targets
tolerance = "1%"            # of the metric's score; or absolute: "0.5pp"
metric = "auto"             # {metric_note}; unlabelled without labels; mopt list metrics
objective = "latency"       # or "throughput" within the p99, or "size"
serve = ["triton"]          # mopt list serving

[data]
path = {data}{data_note}
# label = "label"           # array or column with the labels; without labels, what the outputs expect counts
{classes}# group = "patient"         # array or column: samples of one group are kept together and count as one witness
calibration = 128           # samples to calibrate with
evaluation = 2000           # most samples to evaluate with; never the same ones
{sections}
# [traffic]                 # to be told batch settings and replicas
# rate = 1000               # requests per second
# p99 = "100ms"
# utilization = 0.8         # highest share of a replica's capacity to plan with
# spare = 1                 # replicas that may be lost while the rest holds the traffic

[search]
effort = "standard"         # or "quick", "thorough": how much is tried; mopt build --dry-run says how long each takes
# candidates = ["*int8*"]   # patterns of candidates to try; mopt build --dry-run lists them
max_batch = 32              # largest batch size to measure
time_budget = "30m"         # no new candidate is begun after it
# memory = "16GB"           # that a pass, or the open sessions, may take; default: half of the machine's
inconclusive = "accept"     # or "reject": what to do when too few samples prove the tolerance

# [gate]                    # what mopt gate holds a new model to
# limits = {{ p99 = "+5%", size = "0" }}
# slices = ["language"]     # columns whose values are judged one by one
# inconclusive = "reject"   # or "accept": whether a gate passes that cannot tell
"""


def render_recipe(source: str, data: str) -> str:
    """Return the text of a recipe; it is one that :func:`mopt.recipe.load_recipe` takes, with what the model brings in it.

    Raises:
        UserError: When ``source`` is nothing that mopt can build.
    """
    place = fetched(source)
    exporter = find_exporter(place)
    defaults, unread = _brought(exporter)
    recipe: Recipe = make_recipe({"model": source, "data": {"path": data or "samples.npz"}})
    return _TEXT.format(
        name=recipe.name,
        model=json.dumps(source),
        signature=_signature(Path(place)) if exporter.name == "onnx" else "",
        data=json.dumps(data or "samples.npz"),
        metric_note=f"{defaults.metric or 'accuracy'} where labels are {'numbers' if defaults.metric else 'classes'}",
        classes=_classes(defaults),
        sections="".join(f"\n{section}\n" for section in _sections(defaults, unread)),
        data_note="" if data else "       # .npz, folder of .npy or images, CSV, JSONL, Parquet, file.py:function",
    )


def _brought(exporter: Exporter) -> tuple[SourceDefaults, str]:
    """Return what the model brings, or why that cannot be told: a build asks for more than a recipe to start from does."""
    try:
        return brought_in_child(exporter).at(Path(exporter.source)), ""
    except (UserError, CandidateRejectedError) as error:
        return SourceDefaults(), error.message


def _classes(defaults: SourceDefaults) -> str:
    if len(defaults.classes) > _MOST_CLASSES:
        return f"# classes = [...]           # {len(defaults.classes)} names of classes come with the model\n"
    return f"classes = {json.dumps(list(defaults.classes))}\n" if defaults.classes else ""


def _sections(defaults: SourceDefaults, unread: str) -> Iterator[str]:
    """Yield the tables of what the model brings; data whose arrays are the inputs already needs none of them."""
    if unread:
        yield f"# what the model brings could not be read: {' '.join(unread.split())}"
    if defaults.left_out:
        yield f"# {defaults.left_out}"
    if defaults.columns:
        columns = {name: list(source) for name, source in defaults.columns.items()}
        yield _table(
            "data.columns", "what the model was fitted with; leave it out for arrays that are the inputs already", columns
        )
    for name, part in (("text", defaults.text), ("image", defaults.image)):
        if part is not None:
            values = part.model_dump(mode="json", exclude_defaults=True)
            yield _table(f"data.{name}", "as the model says; leave it out for arrays that are the inputs already", values)


def _table(name: str, note: str, values: Mapping[str, Any]) -> str:
    """Return a table of TOML, whose strings, numbers and lists are written as in JSON."""
    lines = [f"{key if _BARE.fullmatch(key) else json.dumps(key)} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([f"[{name}]  # {note}", *lines])


def _signature(path: Path) -> str:
    from mopt.workflows.inspect import inspect

    description = inspect(path)
    lines = [
        f"# {kind:6} {spec['name']}: {spec['dtype']}[{', '.join(map(str, spec['shape']))}]"
        for kind, specs in (("input", description.inputs), ("output", description.outputs))
        for spec in specs
    ]
    if any("\n" in line for line in lines):
        raise UserError(f"{path} has a name with a line break in it", "rename the input or output")
    return "\n".join(lines)


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe file, as draft 07: the dialect that editors and SchemaStore read.

    It differs from what pydantic makes in what TOML does: there is no null, and ``data`` may be a path alone.
    """
    schema = Recipe.model_json_schema()
    schema["properties"]["data"] = {
        "anyOf": [{"type": "string", "description": "the same as data.path"}, schema["properties"]["data"]]
    }
    keywords = {name: value for name, value in _draft_07(schema).items() if name not in ("title", "description")}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://json.schemastore.org/mopt.json",
        "title": "mopt recipe",
        "description": "What mopt build should make of a model: mopt.toml",
        **keywords,
    }


def _draft_07(node: Any) -> Any:
    """Rewrite a schema of draft 2020-12, its parts first."""
    if isinstance(node, list):
        return [_draft_07(part) for part in node if part != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    made: dict[str, Any] = {_DRAFT_07_WORDS.get(name, str(name)): _draft_07(value) for name, value in node.items()}
    if isinstance(made.get("title"), str):  # pydantic's own, the key in capitals
        del made["title"]
    if "$ref" in made:
        reference = {"$ref": made.pop("$ref").replace("/$defs/", "/definitions/")}
        made = {**made, "allOf": [reference]} if made.keys() - {"default"} else reference  # hides what stands beside it
    if len(made.get("anyOf", ())) == 1:
        made |= made.pop("anyOf")[0]
    if "default" in made and (made["default"] in (None, "") or isinstance(made["default"], dict)):
        del made["default"]  # it follows from the keys themselves
    if isinstance(made.get("default"), float) and made["default"] >= _MINUTE:
        made["default"] = f"{made['default'] / _MINUTE:g}m"
    return made
