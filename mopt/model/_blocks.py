"""Decoder blocks of a checkpoint, brought from disk one at a time: for models that are larger than the memory.

Runs where torch and transformers are: in a child process of an environment of ``mopt tools``. No code of the model is run, and
its weights are read by their place in the file, so that what is held is what was asked for and not a mapped file::

    model = BlockedModel.open(open_checkpoint(folder))
    with torch.inference_mode():
        model.load_inputs()                                    # embeddings
        flows = [model.begin(ids) for ids in batches]          # hidden states, and what each block takes besides them
        model.release_inputs()
        for index in range(len(model.blocks)):
            block = model.load_block(index)                    # an nn.Module with its real weights; hook or change them
            flows = [model.run(index, flow) for flow in flows]
            model.release_block(index)
        model.load_outputs()                                   # the last norm and the head
        logits = [model.end(flow) for flow in flows]           # [batch, n, vocabulary]

Set ``MALLOC_MMAP_THRESHOLD_=4194304`` and ``HF_DEACTIVATE_ASYNC_LOAD=1`` in the environment of the process: then memory goes
back to where it was after each block, and glibc's arenas keep none of it.

What surrounds the blocks (scaled embeddings, masks, positions, the last norm, a cap on logits) is the model's own ``forward``,
run with blocks that only take down what they are given.
"""

from __future__ import annotations

__all__ = ["BlockedModel", "Flow", "find_blocks", "read_tensor"]

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mopt.errors import UserError
from mopt.model.checkpoint import Checkpoint, TensorEntry

if TYPE_CHECKING:
    import torch

_TYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "F16": "float16",
    "BF16": "bfloat16", "F32": "float32", "F64": "float64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
"""What safetensors calls a type, and torch."""


@dataclasses.dataclass(frozen=True)
class Flow:
    """A batch of windows on its way through the blocks.

    Attributes:
        hidden: Hidden states, shape [batch, n, hidden size].
        arguments: For each block what its ``forward`` takes besides them: positions, mask, ...
    """

    hidden: torch.Tensor
    arguments: tuple[tuple[tuple[Any, ...], Mapping[str, Any]], ...]


class BlockedModel:
    """An architecture of transformers whose weights are on disk until they are asked for.

    Attributes:
        checkpoint: Where they are.
        module: The whole model; parameters that are not loaded are on the meta device.
        path: The name of the list of blocks in it, such as ``model.layers``.
        blocks: The decoder blocks in their order.
        unused: Tensors of the checkpoint that the architecture has no place for.
    """

    def __init__(self, checkpoint: Checkpoint, module: Any) -> None:
        self.checkpoint = checkpoint
        self.module = module
        self.path = find_blocks(module, int(module.config.get_text_config().num_hidden_layers))
        self.blocks: Sequence[Any] = list(module.get_submodule(self.path))
        self._places, self.unused = _places(checkpoint, module)
        self._returned: Any = None
        """What a block returns, with its hidden states left out."""

    @classmethod
    def open(cls, checkpoint: Checkpoint, dtype: str = "float32") -> BlockedModel:
        """Build the architecture; no weight is read.

        Args:
            checkpoint: Not quantized.
            dtype: That weights are turned into, and that it computes in.

        Raises:
            UserError: When transformers does not know the architecture, or the weights are quantized.
        """
        import torch
        import transformers

        if checkpoint.quantization:
            method = checkpoint.quantization.get("quant_method", "unknown")
            raise UserError(f"{checkpoint.folder} is quantized already ({method})", "give the model that it was made from")
        transformers.logging.disable_progress_bar()
        try:
            config = transformers.AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
            with _parameters_on_meta():
                module = transformers.AutoModelForCausalLM.from_config(
                    config, dtype=getattr(torch, dtype), trust_remote_code=False
                )
        except (ValueError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"transformers {transformers.__version__} cannot build {checkpoint.architecture}: {reason}",
                "code that comes with a model is never run; give a model of an architecture that transformers knows",
            ) from None
        return cls(checkpoint, module.eval())

    def names(self, index: int) -> list[str]:
        """Return the checkpoint's names of the tensors of a block."""
        prefix = f"{self.path}.{index}."
        return [name for name, place in self._places.items() if place.startswith(prefix)]

    def load_block(self, index: int) -> Any:
        """Bring a block from disk and return it."""
        self._load(self.names(index))
        self._check(self.blocks[index], f"{self.path}.{index}")
        return self.blocks[index]

    def release_block(self, index: int) -> None:
        """Forget its weights."""
        _release(self.blocks[index])

    def load_inputs(self) -> None:
        """Bring the embeddings from disk, and all else that is neither a block nor a head of its own."""
        head = self._head_places()
        self._load([name for name in self._outside() if self._places[name] not in head])
        there = set(self._places.values())
        missing = {name for name in self.module.state_dict() if name not in there}
        self.module.tie_weights(missing_keys=missing, recompute_mapping=False)
        self._check(self.module.get_input_embeddings(), "the embedding")

    def release_inputs(self) -> None:
        """Forget the embeddings, unless the head is the same."""
        embeddings, head = self.module.get_input_embeddings(), self.module.get_output_embeddings()
        if embeddings.weight is not head.weight:
            _release(embeddings)

    def load_outputs(self) -> None:
        """Bring the head from disk."""
        head = self._head_places()
        self._load([name for name in self._outside() if self._places[name] in head])
        self._check(self.module.get_output_embeddings(), "the head")

    def load_all(self) -> Any:
        """Bring everything from disk, and return the model as transformers would have loaded it."""
        for index in range(len(self.blocks)):
            self.load_block(index)
        self.load_inputs()
        self.load_outputs()
        return self.module

    def begin(self, ids: torch.Tensor) -> Flow:
        """Return what the first block gets of a batch, and what all blocks get besides hidden states; inputs are loaded.

        Args:
            ids: Token numbers, shape [batch, n].
        """
        if self._returned is None:
            self._returned = self._probe(ids)
        calls: dict[int, tuple[tuple[Any, ...], Mapping[str, Any]]] = {}
        first: list[torch.Tensor] = []

        def record(index: int, *positional: Any, **named: Any) -> Any:
            hidden, arguments = _separate(positional, named)
            first.append(hidden)
            calls[index] = arguments
            if index == len(self.blocks) - 1:
                raise _StopError
            return self._like_a_block(hidden)

        with _forwards(self.blocks, record), contextlib.suppress(_StopError):
            self.module(input_ids=ids, use_cache=False)
        return Flow(first[0], tuple(calls[index] for index in range(len(self.blocks))))

    def run(self, index: int, flow: Flow) -> Flow:
        """Send a batch through a block that is loaded."""
        positional, named = flow.arguments[index]
        answer = self.blocks[index](flow.hidden, *positional, **named)
        return dataclasses.replace(flow, hidden=answer[0] if isinstance(answer, tuple) else answer)

    def end(self, flow: Flow, positions: slice | None = None) -> torch.Tensor:
        """Return logits, shape [batch, n, vocabulary], of all positions or of some of them; outputs are loaded."""
        import torch

        embeddings = self.module.get_input_embeddings()
        batch, count = flow.hidden.shape[:2]
        nothing = torch.zeros(batch, count, embeddings.embedding_dim, dtype=flow.hidden.dtype)
        chosen: dict[str, Any] = {}
        if positions is not None and "logits_to_keep" in inspect.signature(self.module.forward).parameters:
            chosen, positions = {"logits_to_keep": torch.arange(count)[positions]}, None

        def skip(index: int, *positional: Any, **named: Any) -> Any:
            return self._like_a_block(flow.hidden if index == len(self.blocks) - 1 else _separate(positional, named)[0])

        with _forwards(self.blocks, skip):
            logits: torch.Tensor = self.module(inputs_embeds=nothing, use_cache=False, **chosen).logits
        return logits if positions is None else logits[:, positions]

    def _probe(self, ids: torch.Tensor) -> Any:
        """Return what the first block returns, with None for its hidden states: not all return them alone."""
        answers: list[Any] = []
        first = self.blocks[0]
        was_loaded = not any(parameter.is_meta for parameter in first.parameters())
        if not was_loaded:
            self.load_block(0)
        forward = first.forward

        def look(*positional: Any, **named: Any) -> Any:
            answers.append(forward(*positional, **named))
            raise _StopError

        first.forward = look
        try:
            with contextlib.suppress(_StopError):
                self.module(input_ids=ids[:1, :2], use_cache=False)
        finally:
            del first.forward
            if not was_loaded:
                self.release_block(0)
        (answer,) = answers
        return (None, *answer[1:]) if isinstance(answer, tuple) else ()

    def _like_a_block(self, hidden: torch.Tensor) -> Any:
        return (hidden, *self._returned[1:]) if self._returned else hidden

    def _outside(self) -> list[str]:
        return [name for name, place in self._places.items() if not place.startswith(f"{self.path}.")]

    def _head_places(self) -> set[str]:
        """Return the places of the head's own weights; none where the architecture may share the embeddings'."""
        if self.module.all_tied_weights_keys:
            return set()
        head = self.module.get_output_embeddings()
        heads = {name for name, child in self.module.named_modules() if child is head}
        return {place for place in self._places.values() if place.rpartition(".")[0] in heads}

    def _load(self, names: Sequence[str]) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        if not names:
            return
        state = {name: _OnDisk(self.checkpoint, self.checkpoint.tensors[name]) for name in names}
        settings = LoadStateDictConfig(dtype=self.module.dtype, weight_mapping=get_model_conversion_mapping(self.module))
        information, _ = convert_and_load_state_dict_in_model(self.module, state, settings)
        if information.mismatched_keys:
            name, shape, expected = sorted(information.mismatched_keys)[0]
            raise UserError(
                f"{self.checkpoint.folder}: {name} is {list(shape)}, and config.json says {list(expected)}",
                "the weights and the configuration are not of one model",
            )
        if information.conversion_errors or information.error_msgs:
            problems = [*map(str, information.conversion_errors.values()), *information.error_msgs]
            raise UserError(f"{self.checkpoint.folder} cannot be read: {problems[0]}", "save the model again")

    def _check(self, module: Any, name: str) -> None:
        if missing := [tensor for tensor, parameter in module.named_parameters() if parameter.is_meta]:
            raise UserError(
                f"{self.checkpoint.folder} is not complete: {name} has no {missing[0]}"
                + (f" and {len(missing) - 1} more" if missing[1:] else ""),
                "fetch it again",
            )


def find_blocks(module: Any, count: int) -> str:
    """Return the name of the list of a model's decoder blocks: the outermost that has as many as the configuration says.

    Raises:
        UserError: When there is none.
    """
    import torch

    lists: list[str] = [
        name for name, child in module.named_modules() if isinstance(child, torch.nn.ModuleList) and len(child) == count
    ]
    if not lists:
        raise UserError(f"{type(module).__name__} has no list of {count} decoder blocks", "mopt cannot take it block by block")
    return min(lists, key=lambda name: name.count("."))


def read_tensor(checkpoint: Checkpoint, entry: TensorEntry) -> torch.Tensor:
    """Return a tensor in the type that it has on disk, read and not mapped.

    Raises:
        UserError: When torch has no such type.
    """
    import numpy as np
    import torch

    if entry.dtype not in _TYPES:
        raise UserError(f"{checkpoint.folder / entry.file} holds {entry.dtype}, which is not read here", "save it in BF16")
    path = checkpoint.folder / entry.file
    data = torch.from_numpy(np.fromfile(path, np.uint8, entry.size, offset=entry.begin))
    return data.view(getattr(torch, _TYPES[entry.dtype])).reshape(entry.shape)


@dataclasses.dataclass(frozen=True)
class _OnDisk:
    """A tensor that transformers reads when it needs it, as it does slices of safetensors."""

    checkpoint: Checkpoint
    entry: TensorEntry

    def __getitem__(self, _: Any) -> torch.Tensor:
        return read_tensor(self.checkpoint, self.entry)

    def get_dtype(self) -> str:
        return self.entry.dtype

    def get_shape(self) -> list[int]:
        return list(self.entry.shape)


class _StopError(Exception):
    """Ends a forward when all is known that it was started for."""


def _places(checkpoint: Checkpoint, module: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return where transformers puts each tensor of the checkpoint, and the tensors that it has no place for."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(module)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    known = module.state_dict()
    places = {}
    for name in checkpoint.tensors:
        place, _ = rename_source_key(name, renamings, converters, module.base_model_prefix, known)
        if place not in known and name in known:
            place, _ = rename_source_key(name, [], [], module.base_model_prefix, known)
        if place in known:
            places[name] = place
    return places, tuple(sorted(checkpoint.tensors.keys() - places.keys()))


def _separate(
    positional: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[torch.Tensor, tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """Return hidden states, and the other arguments."""
    if positional:
        return positional[0], (positional[1:], named)
    return named["hidden_states"], ((), {name: value for name, value in named.items() if name != "hidden_states"})


@contextlib.contextmanager
def _forwards(blocks: Sequence[Any], function: Any) -> Iterator[None]:
    """Let ``function(index, ...)`` take the place of the blocks' forward; their other attributes are still read."""
    for index, block in enumerate(blocks):
        block.forward = functools.partial(function, index)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Give modules parameters without memory; buffers, which no checkpoint holds, are real."""
    import torch

    original = torch.nn.Module.register_parameter

    def register(module: Any, name: str, parameter: Any) -> None:
        original(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)

    torch.nn.Module.register_parameter = register
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = original


def _release(module: Any) -> None:
    import torch

    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                child._parameters[name] = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
