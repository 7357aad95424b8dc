"""Make a model for ONNX Runtime GenAI: its own builder writes the graph, and quantizes its weights in blocks."""

from __future__ import annotations

__all__ = ["ExportOnnxruntimeGenai"]

import collections
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from mopt.errors import NotApplicableError
from mopt.model.checkpoint import Checkpoint, copy_companions, open_checkpoint
from mopt.model.files import Model
from mopt.passes._base import PassResult
from mopt.passes.language._base import LanguagePass

_PACKED = ("gptq", "awq")
"""Quantized checkpoints whose codes the builder takes over."""
_HEAD = "/lm_head/MatMul,/model/embed_tokens/Gather"
"""What shares a matrix in a model whose embeddings are tied, and is left in float together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOnnxruntimeGenai(LanguagePass):
    """A graph of ``MatMulNBits`` and ``GroupQueryAttention`` with ``genai_config.json`` and the tokenizer.

    A checkpoint that is packed as GPTQ or AWQ keeps its codes, scales and zero points, whatever ``block_size``, ``symmetric``
    and ``algorithm`` say: these are then of the head alone. The builder holds the whole model in memory several times: at its
    peak, 135 million parameters took 1.7 times their size in float32 unquantized, 3.1 times in INT8 and 4.9 times in INT4, with
    some 0.3 GB of libraries among it.

    Attributes:
        weights: Of linear layers. Activations and the cache stay float32 on a CPU.
        block_size: Consecutive inputs of a layer that share a scale.
        symmetric: Whether the zero point is that of the middle code.
        algorithm: ``default`` rounds to nearest in ONNX Runtime's own kernels, ``rtn`` the same in Python, and ``k_quant`` is
            llama.cpp's search for scale and zero point.
        accuracy_level: 4 rounds the activations of quantized layers to INT8, block by block, while they are multiplied; 1
            leaves them in float32.
        head: Of the last layer, which gives the logits; ``same`` as the others. Tied to the embeddings, it is held once for
            both, but for ``weights="int8"``, with which the embeddings stay in float32 beside it.
        sensitive_layers: ``int8`` holds what llama.cpp holds to be sensitive in eight bits: of the first and last eighth of the
            layers, and of every third, the projections of queries, keys and values and the last one of the feed-forward part.
    """

    makes: ClassVar[str] = "onnxruntime_genai"
    libraries: ClassVar[tuple[str, ...]] = (
        "onnxruntime-genai", "onnxruntime", "onnx-ir", "torch", "transformers", "tokenizers",
    )  # fmt: skip
    tools: ClassVar[str] = "onnxruntime_genai"

    weights: Literal["int4", "int8", "fp32"] = "int4"
    block_size: Literal[16, 32, 64, 128, 256] = 32
    symmetric: bool = True
    algorithm: Literal["default", "rtn", "k_quant"] = "default"
    accuracy_level: Literal[1, 4] = 4
    head: Literal["same", "int8", "fp32"] = "same"
    sensitive_layers: Literal["same", "int8"] = "same"

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Run the builder on the folder, without the network and without code of the model."""
        checkpoint = open_checkpoint(source.folder)
        packed = self._packed(checkpoint)
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
        from onnxruntime_genai.models import builder

        place = str(source.folder), str(folder), self.weights, "cpu", str(folder.parent / "builder")
        try:
            options = builder.parse_extra_options(None, *place, self._options())
            builder.create_model(None, *place, **options)
        except NotImplementedError as error:
            raise NotApplicableError(
                f"the builder of ONNX Runtime GenAI does not know {checkpoint.architecture}: {error}"
            ) from None
        finally:
            shutil.rmtree(folder.parent / "builder", ignore_errors=True)
        written = tuple(path.name for path in folder.iterdir())
        copy_companions(source.folder, folder, skip=written)
        return PassResult(modified=True, detail={"operators": _operators(folder / "model.onnx"), "packed": packed})

    def _packed(self, checkpoint: Checkpoint) -> str:
        """How the checkpoint is quantized already; empty where it is not.

        Raises:
            NotApplicableError: When the builder would not take its codes as they are, or writes a graph that does not load.
        """
        method = str(checkpoint.quantization.get("quant_method", ""))
        if method and method not in _PACKED:
            raise NotApplicableError(f"the builder takes checkpoints of {' and '.join(_PACKED)} for a CPU, not of {method}")
        bits = checkpoint.quantization.get("bits", 4)
        if method and self.weights != f"int{bits}":
            raise NotApplicableError(f"the checkpoint holds {bits} bits a weight, and {self.weights} was asked for")
        tied = not any(name.startswith("lm_head.") for name in checkpoint.tensors)
        if tied and self.weights == "int4" and self.head == "int8" and self.algorithm == "default":
            raise NotApplicableError("its builder gives no head in INT8 to tied embeddings with its default algorithm")
        return method

    def _options(self) -> list[str]:
        """What the builder is told, as its command line takes it."""
        options = ["hf_token=false", "hf_remote=false"]
        if self.weights == "fp32":
            return options
        options += [
            f"block_size={self.block_size}",
            f"is_symmetric={str(self.symmetric).lower()}",
            f"algo_config={self.algorithm}",
            f"accuracy_level={self.accuracy_level}",
        ]
        if self.head == "fp32":
            options.append(f"nodes_to_exclude={_HEAD}")
        eight = [
            *(["last_matmul:int8"] if self.head == "int8" else []),
            *(["mixed_layers:int8"] if self.sensitive_layers == "int8" else []),
        ]
        return [*options, f"matmul_mixed_precision={','.join(eight)}"] if eight else options


def _operators(path: Path) -> dict[str, int]:
    """Count what multiplies by weights, by the bits, the block and the type of activations that it multiplies in."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    constants = {initializer.name for initializer in graph.initializer}
    return dict(collections.Counter(_described(graph.node, constants)))


def _described(nodes: Any, constants: set[str]) -> Iterator[str]:
    for node in nodes:
        fields = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            yield f"{node.op_type} {fields.get('bits', 4)} bits, blocks of {fields.get('block_size', 0)}"
        elif node.op_type in ("MatMul", "Gather") and constants.intersection(node.input):
            yield f"{node.op_type} float"
