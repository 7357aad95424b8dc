"""Observe once how large the inputs of each layer are, for every mixture that weighs its errors by it."""

from __future__ import annotations

__all__ = ["ObserveImatrix"]

import ctypes
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.model.files import Model
from mopt.model.tokens import TokenWindows
from mopt.passes._base import PassResult
from mopt.passes.language._base import LanguagePass
from mopt.passes.language._gguf_companions import copy_gguf_companions
from mopt.passes.language._importance import FILE_NAME, Sums, write_importance
from mopt.passes.language.quantize_gguf import usable_threads
from mopt.system.files import link_or_copy
from mopt.system.llama_api import TENSOR_TYPES, Batch, EvalCallback, LlamaLibrary, Tensor, open_library

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_LOGITS_BYTES = 256 << 20
_MOST_BATCH = 512
_MULTIPLY, _MULTIPLY_EXPERTS = b"MUL_MAT", b"MUL_MAT_ID"
_OUTPUT = ("output.weight", "token_embd.weight")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObserveImatrix(LanguagePass):
    """Run real text through an unquantized GGUF in llama.cpp, and put an importance matrix of its layers beside it.

    The sums are those of llama-imatrix: squares of what each multiplication with weights is given. Its GGUF format is kept, so
    that llama-quantize can read ``imatrix.gguf`` as well.

    Attributes:
        windows: Of real text.
        output: Whether the output's weights are observed too; llama-imatrix leaves them out unless it is asked.
    """

    takes: ClassVar[str] = "gguf"
    makes: ClassVar[str] = "gguf"
    libraries: ClassVar[tuple[str, ...]] = ("xllamacpp", "gguf", "numpy")
    tools: ClassVar[str] = "llama_cpp"
    beside: ClassVar[tuple[str, ...]] = (FILE_NAME,)

    windows: TokenWindows
    output: bool = False

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Link the model, and write ``imatrix.gguf``."""
        # Not timed: threads that wait for each other need not keep the processor busy meanwhile, read when it is loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        observer = _Observer(self.output)
        windows = self.windows.load()
        _run(source.file, windows, observer)
        if not observer.sums:
            raise NotApplicableError("llama.cpp multiplied no weights that could be observed")
        write_importance(folder / FILE_NAME, observer.sums, windows=len(windows), length=windows.shape[1])
        link_or_copy(source.file, folder / source.file.name)
        copy_gguf_companions(source.folder, folder)
        return PassResult(True, {"layers": len(observer.sums), "tokens": int(windows.size)})


class _Observer:
    """Adds up squares, called by llama.cpp before and after each node of its graph."""

    def __init__(self, output: bool) -> None:
        self.sums: dict[str, Sums] = {}
        self.failure: Exception | None = None
        self._output = output
        self._library = open_library()

    def __call__(self, node: Any, asks: bool, _: Any) -> bool:
        try:
            tensor: Tensor = node.contents
            operator = self._library.ggml_op_name(tensor.op)
            if operator not in (_MULTIPLY, _MULTIPLY_EXPERTS):
                return not asks  # a node that was not asked for must not end the graph
            weights, inputs = tensor.src[0].contents, tensor.src[1].contents
            name = weights.name.decode()
            wanted = name.startswith("blk.") or (self._output and name in _OUTPUT)
            if not wanted or inputs.type != TENSOR_TYPES["f32"]:
                return not asks
            if not asks:
                self._add(name, weights, inputs, tensor.src[2].contents if operator == _MULTIPLY_EXPERTS else None)
        except Exception as error:  # noqa: BLE001 it cannot leave a callback of C; raised again after the call
            self.failure = error
            return False
        return True

    def _add(self, name: str, weights: Tensor, inputs: Tensor, chosen: Tensor | None) -> None:
        import numpy as np

        values = _array(inputs, np.float32).astype(np.float64)  # [., ., rows, inputs]
        experts = int(weights.ne[2]) if chosen is not None else 1
        sums = self.sums.setdefault(name, Sums(np.zeros((experts, values.shape[-1])), np.zeros(experts, np.int64)))
        if chosen is None:
            sums.squares[0] += (values * values).sum(axis=(0, 1, 2))
            sums.counts[0] += values.size // values.shape[-1]
            return
        numbers = _array(chosen, np.int32)[0, 0]  # [tokens, experts of a token]
        squares = (
            np.broadcast_to(values[0], (*numbers.shape, values.shape[-1])) ** 2
        )  # one row for all experts, or one for each
        np.add.at(sums.squares, numbers.ravel(), squares.reshape(-1, values.shape[-1]))
        np.add.at(sums.counts, numbers.ravel(), 1)


def _array(tensor: Tensor, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """A tensor in this process's memory, the dimension that lies together last; it need not be contiguous."""
    import numpy as np

    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    span = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + np.dtype(dtype).itemsize
    buffer = (ctypes.c_char * span).from_address(tensor.data)
    return np.ndarray(shape, dtype, buffer, strides=strides)


def _run(path: Path, windows: npt.NDArray[np.int32], observer: _Observer) -> None:
    library = open_library()
    params = library.llama_model_default_params()
    params.n_gpu_layers, params.use_extra_bufts = 0, False
    model = library.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise CandidateRejectedError(Rejection.FAILED, f"llama.cpp cannot load it: {library.reasons()}")
    vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
    if int(windows.max()) >= vocabulary or int(windows.min()) < 0:
        raise NotApplicableError(f"the calibration tokens are of another tokenizer: the model has {vocabulary}")
    batch = max(1, min(_MOST_BATCH, windows.shape[1], _LOGITS_BYTES // (4 * vocabulary)))
    context_params = library.llama_context_default_params()
    context_params.n_ctx = windows.shape[1]
    context_params.n_batch = context_params.n_ubatch = batch
    context_params.n_outputs_max = context_params.n_outputs_max_per_seq = batch
    context_params.n_threads = context_params.n_threads_batch = usable_threads()
    context_params.cb_eval = callback = EvalCallback(observer)
    context = library.llama_init_from_model(model, context_params)
    if not context:
        raise CandidateRejectedError(Rejection.FAILED, f"llama.cpp has no context for it: {library.reasons()}")
    for window in windows:
        library.llama_memory_clear(library.llama_get_memory(context), True)
        for begin in range(0, len(window), batch):
            _decode(library, context, window[begin : begin + batch], begin)
            if observer.failure:
                raise observer.failure
    library.llama_free(context)
    library.llama_model_free(model)
    del callback


def _decode(library: LlamaLibrary, context: Any, tokens: npt.NDArray[np.int32], position: int) -> None:
    """Run tokens; all are asked for, because llama.cpp drops the others before the last block's feed-forward layers."""
    if code := library.llama_decode(context, Batch.of(tokens.tolist(), position)):
        raise CandidateRejectedError(Rejection.FAILED, f"llama_decode returns {code}: {library.reasons()}")
