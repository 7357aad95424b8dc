"""What a model is, without running it."""

from __future__ import annotations

__all__ = ["inspect"]

import collections
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from mopt.artifacts.artifact import is_artifact, read_manifest
from mopt.errors import UserError
from mopt.model.formats import model_format
from mopt.records.description import ModelDescription
from mopt.records.manifest import Manifest
from mopt.storage._fetch import fetched


def inspect(source: str | Path) -> ModelDescription:
    """Describe an ONNX file, an OpenVINO ``.xml`` or an artifact.

    Raises:
        UserError: When it is none of these, or damaged.
    """
    source = Path(fetched(source))
    if is_artifact(source):
        manifest = read_manifest(source)
        name = model_format(manifest.format).readable_file
        path = source / "model" / name
        described = inspect(path) if path.suffix in (".onnx", ".xml") else _as_recorded(manifest, path)
        return described.model_copy(update={"artifact": manifest.name, "chosen": manifest.chosen})
    if source.suffix == ".xml" and source.is_file():
        return _openvino(source)
    if source.suffix == ".onnx" or source.is_file():
        return _onnx(source)
    raise UserError(f"{source} is not a model file or an artifact", "give a .onnx file, a .xml file or an artifact's folder")


def _as_recorded(manifest: Manifest, path: Path) -> ModelDescription:
    """What the build has recorded of a model whose file nothing here reads."""
    passes = manifest.winner.passes
    return ModelDescription(
        format=manifest.format,
        file=str(path),
        size_bytes=manifest.winner.size_bytes or 0,
        inputs=tuple(spec.model_dump(mode="json") for spec in manifest.signature.inputs),
        outputs=tuple(spec.model_dump(mode="json") for spec in manifest.signature.outputs),
        weights={},
        operators=passes[-1].detail.get("operators", {}) if passes else {},
    )


def _onnx(source: Path) -> ModelDescription:
    from mopt.exporters.onnx import load_checked
    from mopt.model.onnx_signature import signature_of

    model = load_checked(source)
    signature = signature_of(model)
    weights: dict[str, list[int]] = {}
    parameters = 0
    for graph in [model.graph, *(sub for node in model.graph.all_nodes() for sub in _subgraphs(node))]:
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None:
                parameters += _count(weights, tensor)
    for node in model.graph.all_nodes():
        if node.op_type == "Constant" and "value" in node.attributes:
            parameters += _count(weights, node.attributes["value"].as_tensor())
    operators = collections.Counter(
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph.all_nodes()
    )
    return ModelDescription(
        format="onnx",
        file=str(source),
        opset=model.opset_imports.get("", 0),
        producer=f"{model.producer_name or ''} {model.producer_version or ''}".strip(),
        parameters=parameters,
        size_bytes=source.stat().st_size + sum(path.stat().st_size for path in _external(model, source.parent)),
        inputs=tuple(spec.model_dump(mode="json") for spec in signature.inputs),
        outputs=tuple(spec.model_dump(mode="json") for spec in signature.outputs),
        weights={dtype: (count, size) for dtype, (count, size) in weights.items()},
        operators=dict(operators.most_common()),
    )


def _subgraphs(node: Any) -> list[Any]:
    import onnx_ir as ir

    graphs = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs.extend(attribute.as_graphs())
    return graphs


def _count(weights: dict[str, list[int]], tensor: Any) -> int:
    entry = weights.setdefault(tensor.dtype.name.lower(), [0, 0])
    entry[0] += 1
    entry[1] += tensor.nbytes
    return int(tensor.size)


def _external(model: Any, folder: Path) -> set[Path]:
    import onnx_ir as ir

    tensors = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    return {folder / tensor.location for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}


def _openvino(source: Path) -> ModelDescription:
    text = source.read_text(encoding="utf-8", errors="replace")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UserError(f"{source} declares XML entities", "an OpenVINO model has none; this file was made by something else")
    try:
        net = ET.fromstring(text)  # noqa: S314 -- entities are refused above
    except ET.ParseError as error:
        raise UserError(f"{source} is not an OpenVINO model: {error}", "give the .xml file that OpenVINO wrote") from None
    layers = net.findall("./layers/layer")
    weights: dict[str, list[int]] = {}
    for layer in layers:
        data = layer.find("data")
        if layer.get("type") == "Const" and data is not None:
            entry = weights.setdefault(data.get("element_type", "?"), [0, 0])
            entry[0] += 1
            entry[1] += _number(data.get("size", "0")) or 0
    binary = source.with_suffix(".bin")
    return ModelDescription(
        format="openvino",
        file=str(source),
        size_bytes=source.stat().st_size + (binary.stat().st_size if binary.is_file() else 0),
        inputs=tuple(_port(layer, "output") for layer in layers if layer.get("type") == "Parameter"),
        outputs=tuple(_port(layer, "input") for layer in layers if layer.get("type") == "Result"),
        weights={dtype: (count, size) for dtype, (count, size) in weights.items()},
        operators=dict(collections.Counter(layer.get("type", "?") for layer in layers).most_common()),
    )


def _port(layer: ET.Element, side: str) -> dict[str, Any]:
    port = layer.find(f"./{side}/port")
    shape = (
        []
        if port is None
        else ["?" if (size := _number(dim.text or "")) in (None, -1) else size for dim in port.findall("dim")]
    )
    name = (port.get("names") if port is not None else None) or layer.get("name", "?")
    return {
        "name": name,
        "dtype": (port.get("precision") or "?").lower() if port is not None else "?",
        "shape": shape,
    }


def _number(text: str) -> int | None:
    """Return a whole number as OpenVINO writes it; None for anything else."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,19}", text) else None
