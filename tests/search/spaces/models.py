"""What candidates are made from, for kinds of models and targets."""

from __future__ import annotations

from pathlib import Path

from mopt.model.samples import Samples
from mopt.passes.build_tensorrt import BuildTensorrt
from mopt.profiles.machine import detect
from mopt.profiles.target import Target, load_target
from mopt.search.spaces._base import GraphTraits, SpaceInputs

SAMPLES = Samples(Path("nowhere"), "digest", 8)
CNN = GraphTraits(convolutions=20, constant_products=1, free_products=0, recurrent=0, other=40)
CONVOLUTIONS = GraphTraits(convolutions=20, constant_products=0, free_products=0, recurrent=0, other=40)
TRANSFORMER = GraphTraits(convolutions=0, constant_products=24, free_products=8, recurrent=0, other=100)
LSTM = GraphTraits(convolutions=0, constant_products=1, free_products=0, recurrent=2, other=12)
TREES = GraphTraits(convolutions=0, constant_products=0, free_products=0, recurrent=0, other=1)


def cpu(*isa: str) -> Target:
    return Target(name="t", description="", device="cpu", isa=isa)


def inputs(traits: GraphTraits, target: Target | str) -> SpaceInputs:
    """For two threads; on a GPU for its own engine."""
    where = load_target(target, detect()) if isinstance(target, str) else target
    gpu = where.gpu
    engine = BuildTensorrt(library=gpu.library, capabilities=(gpu.capability,)) if gpu else None
    return SpaceInputs(traits, where, SAMPLES, 2, engine)
