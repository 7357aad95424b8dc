"""Which metric a recipe names, or which one fits the labels and the outputs."""

from __future__ import annotations

__all__ = ["fit_metric", "load_metric"]

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mopt.errors import UserError
from mopt.evaluators._metric import Metric
from mopt.model.samples import Samples
from mopt.model.signature import Feed, Signature, TensorSpec
from mopt.system import plugins
from mopt.system.user_code import is_function

AUTO = "auto"
"""The name that leaves the choice of the metric to the labels and the model."""


def load_metric(
    spec: str,
    samples: Samples,
    signature: Signature,
    options: Mapping[str, Any] | None = None,
    *,
    base: Path | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Metric:
    """Return the metric that a recipe names.

    Args:
        spec: A name, ``file.py:function`` or ``package.module:function``, or ``auto``: accuracy when the labels are
            classes and one output tells them; without labels, unlabelled; else fidelity.
        samples: What it will be applied to.
        signature: Of the model.
        options: Fields of the metric.
        base: Folder that the path of a function starts from.
        metadata: Of the model; a recogniser carries its characters there.

    Raises:
        UserError: When there is no such metric or option, or when it needs labels and there are none.
    """
    labels = samples.labels
    name = _choose(labels, signature) if spec == AUTO else spec
    options = dict(options or {})
    if is_function(name):
        from mopt.evaluators.metrics._function import function_metric

        return function_metric(name, base or Path(), options, {spec.name for spec in signature.outputs})
    metric_class: type[Metric] = plugins.load("metrics", name)
    if metric_class.needs_labels and labels is None:
        raise UserError(
            f"the metric {name} needs labels and the data has none", "say which column with label, or leave the metric out"
        )
    if metadata and "charset" in _fields(metric_class) and "character" in metadata:
        options.setdefault("charset", metadata["character"].splitlines())
    metric = _make(metric_class, name, options)
    output_names = [spec.name for spec in signature.outputs]
    if metric.output and metric.output not in output_names:
        raise UserError(f"the model has no output {metric.output}", plugins.nearest(metric.output, output_names))
    return metric


def fit_metric(metric: Metric, answers: Iterable[Feed]) -> tuple[Metric, str]:
    """Return the metric with what it takes from the reference's answers to all samples, and why it was taken if it was chosen.

    Raises:
        UserError: When it does not fit them.
    """
    from mopt.evaluators.label_free import LabelFreeMetric
    from mopt.evaluators.metrics.unlabelled import Unlabelled

    because = ""
    if isinstance(metric, Unlabelled):
        metric, because = metric.choose(answers)
    return (metric.fit(answers) if isinstance(metric, LabelFreeMetric) else metric), because


def _fields(metric_class: type[Metric]) -> dict[str, Any]:
    return {field.name: field for field in dataclasses.fields(metric_class)}


def _make(metric_class: type[Metric], name: str, options: Mapping[str, Any]) -> Metric:
    import pydantic

    fields = _fields(metric_class)
    for option in options:
        if option == "known_accuracy" and option not in fields:
            raise UserError(
                f"an accuracy that is known is for judging without labels, and the metric is {name}", "leave it out"
            )
        if option not in fields:
            raise UserError(f"the metric {name} has no option {option}", plugins.nearest(option, fields))
    try:
        return pydantic.TypeAdapter(metric_class).validate_python(dict(options))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"the metric {name}: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            "mend metric_options in the recipe",
        ) from None


def _choose(labels: list[Any] | None, signature: Signature) -> str:
    """Return accuracy when labels and outputs leave no doubt, unlabelled without labels, else fidelity."""
    if not labels:
        return "unlabelled"
    outputs = signature.outputs
    if all(isinstance(label, str) for label in labels):
        class_outputs = [spec for spec in outputs if spec.dtype == "str" and _tells_a_class(spec)]
        return "accuracy" if len(class_outputs) == 1 else "fidelity"
    if not all(isinstance(label, int) for label in labels):
        return "fidelity"
    class_outputs = [spec for spec in outputs if spec.dtype in ("int32", "int64") and _tells_a_class(spec)]
    score_outputs = [spec for spec in outputs if _scores_classes(spec, min(labels), max(labels))]
    return "accuracy" if len(class_outputs or score_outputs) == 1 else "fidelity"


def _tells_a_class(spec: TensorSpec) -> bool:
    return len(spec.shape) == 1 or (len(spec.shape) == 2 and spec.shape[1] == 1)


def _scores_classes(spec: TensorSpec, lowest: int, highest: int) -> bool:
    if not spec.dtype.startswith("float") or len(spec.shape) != 2 or lowest < 0:
        return False
    return isinstance(spec.shape[1], str) or spec.shape[1] > max(highest, 1)
