"""The recipe: what the user asks for, as a strict schema that ``mopt.toml``, the flags and Python share."""

from __future__ import annotations

__all__ = [
    "CandidateSpec",
    "Engine",
    "Gate",
    "Language",
    "PassSpec",
    "Recipe",
    "Search",
    "Traffic",
    "load_recipe",
    "make_recipe",
    "make_traffic",
    "parse_milliseconds",
    "recipe_mistakes",
]

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from mopt.datasets.spec import DataSpec
from mopt.errors import UserError
from mopt.storage._base import UrlOrPath, is_url, url_label
from mopt.system.plugins import nearest
from mopt.system.schema import Schema

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "min": 6e4, "h": 3.6e6}
_TIME = r"^\s*[0-9]*\.?[0-9]+\s*(us|ms|s|m|min|h)\s*$"
_BITS = re.compile(r"[KMGTPE]b|bit")


def _milliseconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]+)\s*", value)
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{value!r} is not a time: write a number and a unit ({', '.join(_UNITS)}), such as 100ms")
    return float(match[1]) * _UNITS[match[2]]


def parse_milliseconds(text: str, name: str) -> float:
    """Return a time in ms from text with a unit.

    Raises:
        UserError: When it is no time, or not above 0.
    """
    try:
        milliseconds = float(_milliseconds(text))
    except ValueError as error:
        raise UserError(f"{name}: {error}", f"such as {name} 100ms") from None
    if milliseconds <= 0:
        raise UserError(f"{name} is {text}", "give a time above 0")
    return milliseconds


_Written = Annotated[str, pydantic.Field(pattern=_TIME)] | Annotated[float, pydantic.Field(gt=0)]
Milliseconds = Annotated[float, pydantic.Field(gt=0), pydantic.BeforeValidator(_milliseconds, json_schema_input_type=_Written)]
"""A time in ms; text needs a unit: ``100ms``, ``1.5s``."""


def _bytes(value: Any, parse: pydantic.ValidatorFunctionWrapHandler) -> Any:
    """Let ByteSize parse, which does not know Kubernetes' ``2Gi``, and takes bits too: nobody means them here."""
    text = str(value).rstrip()
    try:
        size = 0 if _BITS.search(text) else parse(f"{text}B" if text.endswith("i") else value)
    except pydantic.ValidationError:
        size = 0
    if size <= 0:
        raise ValueError(f"{value!r} is not an amount of memory: write a number and a unit, such as 16GB")
    return size


Bytes = Annotated[pydantic.ByteSize, pydantic.WrapValidator(_bytes)]
"""An amount of memory in bytes above 0; text may have a unit: ``16GB``, ``512MiB``, ``2Gi``."""


def _share(value: Any) -> Any:
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*%\s*", value) if isinstance(value, str) else None
    return float(match[1]) / 100 if match else value


_Percent = Annotated[str, pydantic.Field(pattern=r"^\s*[0-9]*\.?[0-9]+\s*%\s*$")] | Annotated[float, pydantic.Field(gt=0, lt=1)]
Accuracy = Annotated[float, pydantic.Field(gt=0, lt=1), pydantic.BeforeValidator(_share, json_schema_input_type=_Percent)]
"""A share above 0 and below 1; text may be in percent: ``76%``."""


class Traffic(Schema):
    """What the server must hold."""

    rate: Annotated[float, pydantic.Field(gt=0, description="requests per second")] | None = None
    p99: Annotated[Milliseconds, pydantic.Field(description="99th percentile of the latency, such as 100ms")] | None = None
    utilization: Annotated[float, pydantic.Field(gt=0, le=1, description="highest share of the capacity to plan with")] = 0.8
    arrivals: Annotated[
        str, pydantic.Field(description="poisson, constant, bursty, or a file with one timestamp in seconds on each line")
    ] = "poisson"
    spare: Annotated[int, pydantic.Field(ge=0, le=64, description="replicas that may be lost while the rest holds")] = 1


class PassSpec(pydantic.BaseModel):
    """A pass by its name, and as many of its options as are not left to their defaults."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow")

    name: Annotated[str, pydantic.Field(min_length=1, description="see mopt list passes")]

    @property
    def options(self) -> dict[str, Any]:
        """Options by name, as they were written."""
        return dict(self.model_extra or {})

    @pydantic.model_serializer
    def _as_written(self) -> Any:
        return {"name": self.name, **self.options} if self.options else self.name


def _pass_spec(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict | PassSpec):
        return value
    raise ValueError('a pass is a name, or a table with its name and options: { name = "...", option = value }')


Step = Annotated[PassSpec, pydantic.BeforeValidator(_pass_spec, json_schema_input_type=str | PassSpec)]
"""A name alone stands for a pass with its defaults."""


def _alternatives(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class CandidateSpec(Schema):
    """A candidate of one's own: passes that run one after the other, and the runtime for what they make."""

    name: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="what reports call it")]
    runtime: Annotated[str, pydantic.Field(min_length=1, description="what executes it; see mopt list runtimes")]
    runtime_options: Annotated[dict[str, Any], pydantic.Field(description="fields of the runtime")] = {}
    passes: Annotated[
        tuple[Step, ...],
        pydantic.Field(description="passes, each by its name, or as a table with its name and options"),
    ] = ()


EffortName = Literal["quick", "standard", "thorough"]


class Search(Schema):
    """How widely and how long to look."""

    effort: Annotated[EffortName, pydantic.Field(description="how much is tried: quick, standard or thorough")] = "standard"
    candidates: Annotated[tuple[str, ...], pydantic.Field(description="patterns of candidate names to try")] = ("*",)
    max_batch: Annotated[int, pydantic.Field(ge=1, le=4096, description="largest batch size to measure")] = 32
    threads: Annotated[int, pydantic.Field(ge=1, description="threads for one inference; default: all cores")] | None = None
    rounds: Annotated[
        int | None, pydantic.Field(ge=5, le=1000, description="most rounds of interleaved measuring; default: as the effort")
    ] = None
    time_budget: Annotated[
        Milliseconds, pydantic.Field(description="time after which no new candidate is begun, such as 30m")
    ] = 30 * 60e3
    memory: Annotated[
        Bytes | None,
        pydantic.Field(
            description="memory that a pass and the sessions may take, such as 16GB; default: half of the machine's, and "
            "1.9 times the model for one of over 2 GB"
        ),
    ] = None
    confidence: Annotated[float, pydantic.Field(ge=0.5, lt=1, description="of the bound on the quality")] = 0.95
    inconclusive: Annotated[
        Literal["accept", "reject"],
        pydantic.Field(description="a candidate within the tolerance on the samples, too few of them to prove it"),
    ] = "accept"
    simplify: Annotated[
        tuple[
            Annotated[
                tuple[Step, ...],
                pydantic.BeforeValidator(_alternatives, json_schema_input_type=str | PassSpec | tuple[str | PassSpec, ...]),
            ],
            ...,
        ],
        pydantic.Field(
            description="passes that every model goes through first, each a name or a table with a name and options; of "
            "several in a list the first that fits"
        ),
    ] = ((PassSpec(name="fold_constants"),), (PassSpec(name="fold_onnxslim"), PassSpec(name="fold_onnxsim")))
    candidate: Annotated[tuple[CandidateSpec, ...], pydantic.Field(description="candidates of one's own")] = ()


class Engine(Schema):
    """How TensorRT engines are built, for a target with a GPU."""

    best_batch: Annotated[
        int | None,
        pydantic.Field(ge=1, le=4096, description="batch size that an engine is tuned for; default: 8, or the largest"),
    ] = None
    profiles: Annotated[
        tuple[dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]], ...],
        pydantic.Field(description="shapes of each input, [smallest, best, largest]; default: from the data, one profile"),
    ] = ()
    capabilities: Annotated[
        tuple[str, ...], pydantic.Field(description="further compute capabilities that an RTX engine runs on, such as 12.0")
    ] = ()
    portable: Annotated[bool, pydantic.Field(description="an RTX engine for every GPU from Ampere on")] = False
    workspace: Annotated[Bytes | None, pydantic.Field(description="memory that a layer may work in, such as 2GB")] = None
    level: Annotated[int | None, pydantic.Field(ge=0, le=5, description="of optimization; default: the library's")] = None
    version_compatible: Annotated[
        bool, pydantic.Field(description="an engine of tensorrt that later versions load; not for RTX")
    ] = False
    hardware: Annotated[
        Literal["none", "same", "ampere"],
        pydantic.Field(description="an engine of tensorrt for more GPUs: of the same capability, or from Ampere on"),
    ] = "none"


class Gate(Schema):
    """What mopt gate holds a new model to, besides metric and tolerance; a build does not read it."""

    limits: Annotated[
        dict[str, str],
        pydantic.Field(
            description='name = amount: a metric ("-0.5pp"), p50, p90, p99, throughput, memory, load, first, size ("+5%")'
        ),
    ] = {}
    slices: Annotated[tuple[str, ...], pydantic.Field(description="columns whose values are judged one by one")] = ()
    slice_tolerance: Annotated[str, pydantic.Field(description="what a slice may lose; default: the tolerance")] = ""
    slice_tolerances: Annotated[dict[str, str], pydantic.Field(description='the same for one: "language=de" = "5%"')] = {}
    strict_slices: Annotated[bool, pydantic.Field(description="a slice that too few samples cannot tell is inconclusive")] = (
        False
    )
    confidence: Annotated[float, pydantic.Field(ge=0.5, lt=1, description="of each answer")] = 0.95
    inconclusive: Annotated[
        Literal["accept", "reject"], pydantic.Field(description="what to do when the samples or the timings cannot tell")
    ] = "reject"
    batch_sizes: Annotated[
        tuple[Annotated[int, pydantic.Field(ge=1, le=4096)], ...],
        pydantic.Field(description="batch sizes to time; default: 1 and the largest that is served"),
    ] = ()
    time_budget: Annotated[
        Milliseconds, pydantic.Field(description="time for measuring speed, such as 2m; a baseline takes 40 s of it at most")
    ] = 120e3


class Language(Schema):
    """How a language model is judged and served; nothing else reads it."""

    context: Annotated[
        int | None, pydantic.Field(ge=16, le=1 << 20, description="tokens of prompt and answer together; default: 2048 at most")
    ] = None
    window: Annotated[int, pydantic.Field(ge=16, le=8192, description="tokens that are scored at a time")] = 512
    stride: Annotated[
        int | None, pydantic.Field(ge=1, le=8192, description="tokens between two windows; default: the window")
    ] = None
    tokens: Annotated[int | None, pydantic.Field(ge=64, description="most tokens to evaluate with; default: as the effort")] = (
        None
    )
    prompt: Annotated[int, pydantic.Field(ge=1, le=65536, description="tokens of the prompt that speed is measured with")] = 256
    answer: Annotated[int, pydantic.Field(ge=2, le=65536, description="tokens of the answer that speed is measured with")] = 48
    choices: Annotated[
        str, pydantic.Field(description="JSON Lines of questions with choices, which every candidate answers too"), UrlOrPath
    ] = ""
    kv_cache: Annotated[
        Literal["", "fp8", "int8"], pydantic.Field(description="type of the cache, where a runtime and a format have it")
    ] = ""
    leave: Annotated[
        tuple[str, ...], pydantic.Field(description="patterns of linear layers that stay as they are, such as *.down_proj")
    ] = ()
    bits: Annotated[
        float | None,
        pydantic.Field(gt=1, le=16, description="average bits of a weight to reach with layers of several widths"),
    ] = None


class Recipe(Schema):
    """What to build."""

    model: Annotated[str, pydantic.Field(description="the source: a file, a folder, a URL, or file.py:function"), UrlOrPath]
    name: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the model")] = ""
    target: Annotated[str, pydantic.Field(description="where it will run; see mopt list targets")] = "cpu"
    tolerance: Annotated[str, pydantic.Field(description="what may be lost: 1% of the score, or 0.5pp")] = "1%"
    metric: Annotated[str, pydantic.Field(description="a name (see mopt list metrics) or file.py:function")] = "auto"
    metric_options: Annotated[dict[str, Any], pydantic.Field(description="fields of the metric")] = {}
    known_accuracy: Annotated[
        Accuracy | None,
        pydantic.Field(description="of the reference, such as 76%, to judge by its probabilities without labels"),
    ] = None
    labels: Annotated[str, pydantic.Field(description="CSV of mopt label with labels of a few samples filled in")] = ""
    objective: Annotated[
        Literal["latency", "throughput", "size", "decode", "prefill"],
        pydantic.Field(
            description="latency at batch 1, throughput within the p99, or bytes on disk; of a language model decode (tokens "
            "of the answer per second), prefill (of the prompt) or size"
        ),
    ] = "latency"
    serve: Annotated[tuple[str, ...], pydantic.Field(description="serving systems to judge and write files for")] = ("triton",)
    dynamic_axes: Annotated[
        dict[str, dict[Annotated[int, pydantic.Field(ge=0)], str]],
        pydantic.Field(
            description="input = { axis = name }: axes of a PyTorch model whose length differs from request to request; axes "
            "of one name have one length; default: those whose length differs among the samples"
        ),
    ] = {}
    trust_pickle: Annotated[bool, pydantic.Field(description="run the code inside a pickled model")] = False
    data: DataSpec
    traffic: Traffic = Traffic()
    search: Search = Search()
    engine: Engine = Engine()
    language: Language = Language()
    gate: Gate = Gate()

    @pydantic.field_validator("tolerance", mode="before", json_schema_input_type=str | float)
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @pydantic.model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("name") and isinstance(values.get("model"), str):
            return {**values, "name": _name_of(values["model"])}
        return values


def _name_of(model: str) -> str:
    model = url_label(model) or model
    path, _, function = model.rpartition(":") if re.search(r":[A-Za-z_]\w*$", model) else (model, "", "")
    stem = Path(path).name if Path(path).is_dir() else Path(path).stem
    stem = Path(path).resolve().parent.name if stem == "model" else stem
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{stem}-{function}" if function else stem).strip("-._")
    return name or "model"


def load_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe file as plain data, its paths relative to the file's own folder.

    Raises:
        UserError: When it cannot be read or is not TOML; the line is named.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"cannot read the recipe {path}: {reason}", "mopt init writes one") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}", "mopt init writes a recipe to start from") from None
    _anchor(values, path.parent)
    return values


def _anchor(values: dict[str, Any], base: Path) -> None:
    if isinstance(values.get("model"), str):
        values["model"] = _anchored(values["model"], base)
    if isinstance(values.get("metric"), str) and ":" in values["metric"]:
        values["metric"] = _anchored(values["metric"], base)
    traffic = values.get("traffic")
    if isinstance(traffic, dict) and isinstance(traffic.get("arrivals"), str):
        traffic["arrivals"] = _anchored(traffic["arrivals"], base)
    if isinstance(values.get("labels"), str):
        values["labels"] = _anchored(values["labels"], base)
    data = values.get("data")
    if isinstance(data, str):
        values["data"] = _anchored(data, base)
    if isinstance(data, dict):
        if isinstance(data.get("path"), str):
            data["path"] = _anchored(data["path"], base)
        text = data.get("text")
        if isinstance(text, dict) and isinstance(text.get("tokenizer"), str):
            text["tokenizer"] = _anchored(text["tokenizer"], base)


def _anchored(text: str, base: Path) -> str:
    if is_url(text):
        return text
    file, colon, function = text.partition(":")
    candidate = base / file
    if Path(file).is_absolute():
        return text
    return os.path.relpath(candidate) + colon + function if candidate.exists() else text


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """Check the values of a recipe.

    Raises:
        UserError: At the first wrong one; an unknown key names the nearest known one.
    """
    try:
        return Recipe.model_validate(_with_section(values))
    except pydantic.ValidationError as error:
        raise _mistake(error.errors()[0])[1] from None


def make_traffic(values: Mapping[str, Any]) -> Traffic:
    """Check the values of the section ``traffic`` alone.

    Raises:
        UserError: At the first wrong one.
    """
    try:
        return Traffic.model_validate(values)
    except pydantic.ValidationError as error:
        raise _mistake(error.errors()[0])[1] from None


def recipe_mistakes(values: Mapping[str, Any]) -> list[tuple[str, UserError]]:
    """Return every value that :func:`make_recipe` would refuse: its key with dots between, and what is wrong."""
    try:
        Recipe.model_validate(_with_section(values))
    except pydantic.ValidationError as error:
        return [_mistake(detail) for detail in error.errors()]
    return []


def _with_section(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**values, "data": {"path": values["data"]}} if isinstance(values.get("data"), str) else values


def _mistake(detail: ErrorDetails) -> tuple[str, UserError]:
    key = ".".join(str(part) for part in detail["loc"] if not isinstance(part, int))
    if detail["type"] == "extra_forbidden":
        *parents, name = [str(part) for part in detail["loc"]]
        return key, UserError(f"unknown key in the recipe: {key}", nearest(name, _keys(parents)))
    if detail["type"] == "missing":
        hint = {"model": "give the model as the first argument", "data": "give samples with --data"}.get(key.split(".")[0])
        return key, UserError(f"the recipe lacks {key}", hint or "add it to mopt.toml")
    message = detail["msg"].removeprefix("Value error, ")
    value = detail["input"]
    secret = isinstance(value, str) and is_url(value)  # it may be refused for the credentials in it
    shown = "" if secret or isinstance(value, dict) or repr(value) in message else f" (given: {value!r})"
    return key, UserError(f"{key}: {message}{shown}", "mopt init --schema prints what a recipe may hold")


def _keys(parents: list[str]) -> list[str]:
    model: type[pydantic.BaseModel] = Recipe
    for parent in parents:
        if not parent.isdigit():  # a place in a list of tables
            annotation: Any = model.model_fields[parent].annotation
            options = [annotation, *getattr(annotation, "__args__", ())]
            model = next(option for option in options if isinstance(option, type) and issubclass(option, pydantic.BaseModel))
    return list(model.model_fields)
