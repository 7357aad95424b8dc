"""The architecture of a causal language model, built without its weights, and its decoder blocks with them, one at a time."""

from __future__ import annotations

__all__ = ["Architecture", "Block"]

import contextlib
import copy
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mopt.errors import NotApplicableError
from mopt.model.checkpoint import Checkpoint
from mopt.passes.language._layer import Layer, UnfusedExperts
from mopt.passes.language._tensors import STORED, read_rows, read_tensor

_EXPERT = re.compile(r"^(?P<experts>.*\.experts)\.(?P<index>\d+)\.(?P<role>gate_proj|up_proj|down_proj|w1|w2|w3)\.weight$")
_ROLES = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
"""Mixtral's names of an expert's layers."""


class _EndOfEmbeddingError(Exception):
    """All decoder blocks have been asked for: the rest of the model is not needed."""


@dataclasses.dataclass
class Block:
    """A decoder block that computes.

    Attributes:
        index: Its number.
        prefix: Of its tensors, such as ``model.layers.3.``.
        module: Computes.
        layers: Its linear layers by name, in the order of its forward pass as far as names tell.
        norms: Other tensors of it, float32, by their names in the checkpoint; what an algorithm changes is written.
        left: Linear layers that cannot be quantized, and why.
        arguments: What its forward pass takes besides the hidden states.
        changed: Those of ``norms`` that an algorithm has scaled.
    """

    index: int
    prefix: str
    module: torch.nn.Module
    layers: dict[str, Layer]
    norms: dict[str, torch.nn.Parameter]
    left: dict[str, str]
    arguments: Mapping[str, Any]
    changed: set[str] = dataclasses.field(default_factory=set)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute [windows, length, hidden] -> the same shape."""
        return self.differentiable(hidden)

    def differentiable(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute as :meth:`forward` does, with gradients."""
        output = self.module(hidden, **self.arguments)
        return output[0] if isinstance(output, tuple) else output


class _Recorder(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """Stands for a decoder block, and keeps what it is called with."""

    def __init__(self, block: torch.nn.Module, *, last: bool) -> None:
        super().__init__()
        object.__setattr__(self, "block", block)
        self.last = last
        self.hidden: torch.Tensor | None = None
        self.arguments: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "block"), name)

    def forward(self, hidden_states: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        if arguments:
            raise NotApplicableError(f"{type(self.block).__name__} is not called as decoder blocks of transformers are")
        self.hidden, self.arguments = hidden_states, named
        if self.last:
            raise _EndOfEmbeddingError
        return hidden_states


class Architecture:
    """A model of transformers whose parameters have no memory.

    Args:
        checkpoint: That it is of.

    Raises:
        NotApplicableError: When transformers does not have it, or it is not built as a stack of decoder blocks.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.model = _without_weights(checkpoint)
        self.blocks, self.blocks_name = _find_blocks(self.model)
        for index, block in enumerate(self.blocks):
            for name, module in block.named_modules():
                if type(module).__name__ == "Conv1D":
                    raise NotApplicableError(
                        f"{self.blocks_name}.{index}.{name} is a Conv1D, which has its weights transposed: no server's "
                        "format of quantized weights has that"
                    )

    @property
    def count(self) -> int:
        """Decoder blocks."""
        return len(self.blocks)

    def prefix(self, index: int) -> str:
        """Return what the names of the tensors of a block start with."""
        return f"{self.blocks_name}.{index}."

    @functools.cached_property
    def tied(self) -> bool:
        """Whether the output layer has the weights of the embedding."""
        return "lm_head.weight" not in self.checkpoint.tensors

    def embed(self, windows: npt.NDArray[np.int32], batch: int) -> Iterator[torch.Tensor]:
        """Yield what the first block gets, float32 [at most batch, length, hidden]; sets the arguments of all blocks.

        Only the rows of the tokens that occur are read.
        """
        vocabulary, numbers = np.unique(windows, return_inverse=True)
        tokens = torch.from_numpy(numbers.reshape(windows.shape).astype(np.int64))
        with self._recording(vocabulary) as recorders:
            for start in range(0, len(tokens), batch):
                hidden = self._embed(tokens[start : start + batch], recorders)
                yield hidden.float()

    def arguments(self, length: int) -> list[dict[str, Any]]:
        """Return what each block's forward pass takes besides the hidden states, for windows of so many tokens.

        No window is padded, so that it is the same for all of them.
        """
        with self._recording(np.zeros(1, np.int64)) as recorders:
            self._embed(torch.zeros((1, length), dtype=torch.int64), recorders)
            return [_usable(recorder.arguments) for recorder in recorders]

    def build(self, index: int, arguments: Mapping[str, Any] | None = None) -> Block:
        """Build a block; its linear layers read their weights when they compute."""
        module = copy.deepcopy(self.blocks[index]).eval()
        prefix = self.prefix(index)
        block = Block(index, prefix, module, {}, {}, {}, arguments or {})
        for name, inner in list(module.named_modules()):
            if isinstance(getattr(inner, "gate_up_proj", None), torch.nn.Parameter):
                self._replace_experts(block, name, inner)
            elif isinstance(inner, torch.nn.Linear):
                tensor = self._stored(f"{prefix}{name}.weight").removesuffix(".weight")
                bias = None if inner.bias is None else read_tensor(self.checkpoint, f"{tensor}.bias").float()
                block.layers[tensor] = Layer(self.checkpoint, tensor, bias)
                module.set_submodule(name, block.layers[tensor])
        for name, parameter in list(module.named_parameters()):
            tensor = self._stored(prefix + name)
            value = read_tensor(self.checkpoint, tensor).float()
            if value.shape != parameter.shape:
                raise NotApplicableError(f"{tensor} is {tuple(value.shape)}, and transformers expects {tuple(parameter.shape)}")
            parent, _, leaf = name.rpartition(".")
            fresh = torch.nn.Parameter(value, requires_grad=False)
            module.get_submodule(parent)._parameters[leaf] = fresh
            block.norms[tensor] = fresh
            if value.ndim == 2 and tensor.endswith(".weight"):
                block.left[tensor.removesuffix(".weight")] = "chooses the experts of a token"
        return block

    def _replace_experts(self, block: Block, name: str, fused: torch.nn.Module) -> None:
        """Put layers of their own in the place of fused experts, or say why they are left."""
        layers: dict[int, dict[str, Layer]] = {}
        for tensor in sorted(self.checkpoint.tensors):
            match = _EXPERT.match(tensor)
            if match and tensor.startswith(block.prefix):
                role = _ROLES.get(match["role"], match["role"])
                layer = Layer(self.checkpoint, tensor.removesuffix(".weight"), None)
                layers.setdefault(int(match["index"]), {})[role] = layer
        plain = {parameter for parameter, _ in fused.named_parameters()} == {"gate_up_proj", "down_proj"}
        if layers and plain and hasattr(fused, "act_fn"):
            experts = [layers[index] for index in sorted(layers)]
            parts = [(expert["gate_proj"], expert["up_proj"], expert["down_proj"]) for expert in experts]
            block.layers |= {layer.name: layer for part in parts for layer in part}
            block.module.set_submodule(name, UnfusedExperts(parts, fused.act_fn))
        else:
            for parameter, value in fused.named_parameters():
                if value.ndim == 3:
                    block.left[f"{block.prefix}{name}.{parameter}"] = "holds all experts in one tensor"

    def _stored(self, name: str) -> str:
        """Return the name in the checkpoint of a parameter of the model."""
        for candidate in (name, name.replace(".mlp.", ".block_sparse_moe."), name.removeprefix("model.")):
            if candidate in self.checkpoint.tensors:
                entry = self.checkpoint.tensors[candidate]
                if entry.dtype not in STORED:
                    raise NotApplicableError(f"{candidate} is stored as {entry.dtype}: the model is quantized already")
                return candidate
        raise NotApplicableError(f"the checkpoint has no {name}, which transformers expects of {self.checkpoint.architecture}")

    @contextlib.contextmanager
    def _recording(self, vocabulary: npt.NDArray[Any]) -> Iterator[list[_Recorder]]:
        """Put recorders in the place of the blocks, and the rows of some tokens in that of the embedding."""
        base = self.model.get_submodule(self.blocks_name.rpartition(".")[0])
        leaf = self.blocks_name.rpartition(".")[2]
        embedding = self.model.get_input_embeddings()
        name = next(key for key, module in self.model.named_modules() if module is embedding)
        recorders = [_Recorder(block, last=index + 1 == self.count) for index, block in enumerate(self.blocks)]
        weight = embedding.weight
        rows = read_rows(self.checkpoint, self._stored(f"{name}.weight"), vocabulary.tolist())
        padding, embedding.padding_idx = embedding.padding_idx, None
        embedding.weight = torch.nn.Parameter(rows, requires_grad=False)
        setattr(base, leaf, torch.nn.ModuleList(recorders))
        fixed = self._materialise_outside(base)
        try:
            yield recorders
        finally:
            for parent, key, parameter in fixed:
                parent._parameters[key] = parameter
            setattr(base, leaf, self.blocks)
            embedding.weight, embedding.padding_idx = weight, padding

    def _materialise_outside(self, base: torch.nn.Module) -> list[tuple[torch.nn.Module, str, torch.nn.Parameter]]:
        """Read what else lies before the blocks, such as learned positions; return what was there."""
        before = []
        for path, module in base.named_modules():
            for key, parameter in list(module.named_parameters(recurse=False)):
                if parameter.is_meta:
                    prefix = self.blocks_name.rpartition(".")[0]
                    tensor = self._stored(".".join(part for part in (prefix, path, key) if part))
                    module._parameters[key] = torch.nn.Parameter(
                        read_tensor(self.checkpoint, tensor).float(), requires_grad=False
                    )
                    before.append((module, key, parameter))
        return before

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _embed(self, tokens: torch.Tensor, recorders: list[_Recorder]) -> torch.Tensor:
        base = self.model.get_submodule(self.blocks_name.rpartition(".")[0])
        with contextlib.suppress(_EndOfEmbeddingError):
            base(input_ids=tokens, use_cache=False)
        hidden = recorders[0].hidden
        if hidden is None:
            raise NotApplicableError(f"{self.checkpoint.architecture} does not call its decoder blocks one after another")
        return hidden


def _usable(arguments: dict[str, Any]) -> dict[str, Any]:
    """Drop what belongs to a cache."""
    return {name: value for name, value in arguments.items() if name not in ("past_key_values", "use_cache", "cache_position")}


@contextlib.contextmanager
def _parameters_without_memory() -> Iterator[None]:
    """Parameters that modules register meanwhile are on the meta device; buffers, which are computed, are real."""
    register = torch.nn.Module.register_parameter

    def on_meta(self: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(self, name, parameter)

    torch.nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register


def _without_weights(checkpoint: Checkpoint) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM, initialization

    if checkpoint.quantization:
        method = checkpoint.quantization.get("quant_method", "unknown")
        raise NotApplicableError(f"the model is quantized already ({method})")
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise NotApplicableError(f"transformers does not know this model: {' '.join(str(error).split())[:200]}") from None
    settings = {"dtype": torch.float32, "trust_remote_code": False}
    with _parameters_without_memory(), initialization.no_init_weights():
        for attention in ("sdpa", "eager"):
            try:
                model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, **settings)
                return model.eval()
            except ValueError as error:
                reason = error
    raise NotApplicableError(f"transformers cannot build {checkpoint.architecture}: {' '.join(str(reason).split())[:200]}")


def _find_blocks(model: torch.nn.Module) -> tuple[torch.nn.ModuleList, str]:
    """Return the outermost list that has as many modules as the model has layers."""
    expected = model.config.get_text_config().num_hidden_layers
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)]
    for name, module in sorted(lists, key=lambda pair: pair[0].count(".")):
        if len(module) == expected and len(list(module[0].children())) > 1:
            return module, name
    raise NotApplicableError(f"{type(model).__name__} has no list of {expected} decoder blocks")
