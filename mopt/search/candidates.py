"""Which candidates are worth trying for this model on this target."""

from __future__ import annotations

__all__ = ["GraphTraits", "SpaceInputs", "graph_traits", "reference_candidate", "search_space"]

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Any

from mopt.artifacts.serving._base import ServingSystem
from mopt.errors import UserError
from mopt.model.files import Model
from mopt.recipe import CandidateSpec, EffortName
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.effort import EFFORTS
from mopt.search.from_recipe import recipe_candidates
from mopt.search.served import as_served, without_twins
from mopt.search.spaces._base import GraphTraits, SearchSpace, SpaceInputs
from mopt.search.trial import REFERENCE, Candidate
from mopt.system import plugins


def graph_traits(model: Model) -> GraphTraits:
    """Count the operators of an ONNX model, subgraphs included."""
    from mopt.model.onnx_io import load

    graph = load(model.file)
    counts = {"convolutions": 0, "constant_products": 0, "free_products": 0, "recurrent": 0, "other": 0}
    for node in graph.graph.all_nodes():
        if node.op_type in ("Conv", "ConvTranspose"):
            counts["convolutions"] += 1
        elif node.op_type in ("MatMul", "Gemm"):
            constant = any(value is not None and _is_constant(value) for value in node.inputs[:2])
            counts["constant_products" if constant else "free_products"] += 1
        elif node.op_type in ("LSTM", "GRU", "RNN"):
            counts["recurrent"] += 1
        else:
            counts["other"] += 1
    return GraphTraits(**counts)


def _is_constant(value: object) -> bool:
    producer = value.producer()  # type: ignore[attr-defined]
    return value.const_value is not None or (producer is not None and producer.op_type == "Constant")  # type: ignore[attr-defined]


def reference_candidate(threads: int) -> Candidate:
    """The exported model as it is, in ONNX Runtime and FP32: what everything is compared with."""
    return Candidate(REFERENCE, (), OnnxRuntime.reference(threads))


def search_space(
    inputs: SpaceInputs,
    patterns: Sequence[str],
    objective: str,
    requested: Sequence[CandidateSpec] = (),
    serving: Sequence[ServingSystem] = (),
    effort: EffortName = "thorough",
) -> list[Candidate]:
    """Return the candidates: the recipe's own, and of each family of runtimes the likeliest winners first.

    What makes a model smaller and seldom faster is tried for the objective ``size``, or when a pattern names it.

    Args:
        inputs: What they are made from.
        patterns: Of names, for all that are tried, the recipe's own included.
        objective: Of the search.
        requested: The recipe's own.
        serving: Systems that will run what is built; candidates are as all of them run it, or refused.
        effort: How much is tried; a candidate that a pattern names is tried whatever the effort.

    Raises:
        UserError: When a pattern names no candidate of this plan, or one of the recipe cannot be made.
    """
    inputs = dataclasses.replace(inputs, served=_served(serving))
    spaces: dict[str, SearchSpace] = {name: plugins.load("spaces", name)() for name in plugins.names("spaces")}
    ranked = sorted(spaces.values(), key=lambda space: space.rank)
    requested_candidates = recipe_candidates(requested, inputs, _defaults(ranked, inputs))
    fast = [candidate for space in ranked for candidate in space.candidates(inputs)]
    small = [candidate for space in spaces.values() for candidate in space.smaller(inputs)]
    fast, small = ([candidate for candidate in group if _runs_there(candidate, inputs)] for group in (fast, small))
    names = [candidate.name for candidate in (*requested_candidates, *fast, *small)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two candidates are called {name}", "give yours another name under [[search.candidate]]")
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"no candidate is called {pattern}", plugins.nearest(pattern, names))
    named = [pattern for pattern in patterns if pattern != "*"]
    offered = [(candidate, _is_worth(candidate, effort)) for candidate in (*requested_candidates, *fast)]
    offered += [(candidate, objective == "size") for candidate in small]
    matching = [candidate for candidate, usual in offered if _matches(candidate, patterns if usual else named)]
    if not serving:
        return matching
    isa, options = inputs.target.isa, {spec.name: spec.runtime_options for spec in requested}
    served = [
        as_served(candidate, serving, isa, options.get(candidate.name, ()), signature=inputs.signature)
        for candidate in matching
    ]
    return without_twins(served, isa)


def _defaults(spaces: Sequence[SearchSpace], inputs: SpaceInputs) -> dict[str, Any]:
    """Options that the families leave to model and target; where two name the same pass, the first one's."""
    options: dict[str, Any] = {}
    for space in spaces:
        options = {**space.defaults(inputs), **options}
    return options


def _served(serving: Sequence[ServingSystem]) -> frozenset[str]:
    """Runtimes that every one of the systems runs."""
    return frozenset.intersection(*(frozenset(system.settable) for system in serving)) if serving else frozenset()


def _runs_there(candidate: Candidate, inputs: SpaceInputs) -> bool:
    return candidate.runtime.supports(inputs.target.compute_device, inputs.target.isa)


def _is_worth(candidate: Candidate, effort: EffortName) -> bool:
    levels = list(EFFORTS)
    return levels.index(candidate.effort) <= levels.index(effort)


def _matches(candidate: Candidate, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(candidate.name, pattern) for pattern in patterns)
