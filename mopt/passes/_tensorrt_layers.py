"""What a TensorRT engine really computes in: its layer table, read from the log of the build.

With detailed verbosity the builder prints each layer of the engine with the types of its tensors. That is a proof of
precision that needs no GPU; it says nothing of speed.
"""

from __future__ import annotations

__all__ = ["count_types", "parse_layers"]

import re
from collections import Counter
from collections.abc import Iterable

from mopt.records.engine import EngineLayer

_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>|.*?\})\](?:, Constants: \[(?P<constants>|.*?\})\])?"
    r", Outputs: \[(?P<outputs>|.*?\})\], (?:.*?, )?TacticName: (?P<tactic>.*?)(?:, StreamId: \d+)?"
    r"(?:, Metadata: (?P<nodes>.*))?$"
)
_DATATYPE = re.compile(r"Datatype: ([A-Za-z0-9]+)")  # of TensorRT: Format/Datatype
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def parse_layers(messages: Iterable[str]) -> tuple[EngineLayer, ...]:
    """Read the layers out of the messages of a build; what is no layer is passed over."""
    lines = (line.strip() for message in messages for line in message.splitlines())
    layers = {match["name"]: _layer(match) for match in map(_LAYER.match, lines) if match is not None}
    return tuple(layers.values())


def _layer(match: re.Match[str]) -> EngineLayer:
    return EngineLayer(
        name=match["name"],
        kind=match["kind"],
        inputs=tuple(_DATATYPE.findall(match["inputs"])),
        constants=tuple(_DATATYPE.findall(match["constants"] or "")),
        outputs=tuple(_DATATYPE.findall(match["outputs"])),
        tactic=match["tactic"],
        nodes=tuple(_NODE.findall(match["nodes"] or "")),
    )


def count_types(layers: Iterable[EngineLayer]) -> dict[str, int]:
    """Count the layers that compute by kind and arithmetic, such as ``{"correlation Int8": 53}``."""
    return dict(Counter(f"{layer.kind} {layer.arithmetic}" for layer in layers if layer.computes).most_common())
