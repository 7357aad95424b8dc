"""Quantize a GGUF with llama.cpp's kernels and its mixtures of types, to the byte as llama-quantize does."""

from __future__ import annotations

__all__ = ["QuantizeGguf"]

import collections
import concurrent.futures
import ctypes
import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection, UserError
from mopt.model.files import Model
from mopt.model.formats import model_format
from mopt.model.gguf import GGUF, GGUFTensor, open_gguf
from mopt.passes._base import PassResult
from mopt.passes.language._base import LanguagePass
from mopt.passes.language._gguf_codes import read_blocks
from mopt.passes.language._gguf_companions import copy_gguf_companions
from mopt.passes.language._gguf_mixture import MIXTURES, TensorFacts, choose_types, facts_of, needs_importance
from mopt.passes.language._importance import FILE_NAME, read_importance
from mopt.passes.language.export_gguf import describe
from mopt.system.llama_api import TENSOR_TYPES, GGUFInit, LlamaLibrary, open_library

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Importance = Mapping[str, npt.NDArray[np.float32]]
    Blocks = Mapping[str, tuple[str, npt.NDArray[np.uint8]]]

_CHUNK = 1 << 20
"""Weights that a thread quantizes at a time."""
_SOURCES = ("F32", "F16", "BF16")
_FILE_TYPES = {
    "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14,
    "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "iq2_xxs": 19, "iq2_xs": 20, "q2_k_s": 21, "iq3_xs": 22,
    "iq3_xxs": 23, "iq4_nl": 25, "iq3_s": 26, "iq3_m": 27, "iq2_s": 28, "iq2_m": 29, "iq4_xs": 30,
}  # fmt: skip
"""``enum llama_ftype``."""
_QUANTIZATION_VERSION = 2
_BESIDE_CODES = ("^token_embd", "Q5_K")
"""A rule for an embedding that is not the output too: nothing chooses codes for it, and 4 bits would cost what was won."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeGguf(LanguagePass):
    """Round the weights of an unquantized GGUF to blocks of 4, 5, 6, ... bits; norms and routers stay as they are.

    Errors are weighed with the importance matrix that ``observe_imatrix`` put beside the model, where there is one. Where
    ``export_gguf_codes`` put codes beside it, they are taken as they are, and only embedding and output are rounded besides.

    Attributes:
        type: Mixture of types, such as ``q4_k_m``: more bits for the layers that need them. One of
            :data:`mopt.passes.language._gguf_mixture.MIXTURES`.
        output_type: Of ``output.weight``, such as ``q6_k``; empty for that of the mixture.
        embedding_type: Of ``token_embd.weight``; empty for that of the mixture.
        tensor_types: Regular expressions, each with a type for the tensors in whose name it is found, before the mixture:
            ``(("ffn_down", "q6_k"),)``. The first one counts.
    """

    takes: ClassVar[str] = "gguf"
    makes: ClassVar[str] = "gguf"
    libraries: ClassVar[tuple[str, ...]] = ("xllamacpp", "numpy")
    tools: ClassVar[str] = "llama_cpp"

    type: str = "q4_k_m"
    output_type: str = ""
    embedding_type: str = ""
    tensor_types: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.type not in MIXTURES:
            raise UserError(
                f"{self.type} is no type that llama.cpp quantizes a model to", f"choose from: {', '.join(MIXTURES)}"
            )
        for kind in (self.output_type, self.embedding_type, *(kind for _, kind in self.tensor_types)):
            if kind and kind not in TENSOR_TYPES:
                raise UserError(f"{kind} is no type of a tensor", f"choose from: {', '.join(TENSOR_TYPES)}")
        for pattern, _ in self.tensor_types:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"{pattern} is no regular expression: {error}", "give a part of a tensor's name") from None

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Write ``model.gguf``; a tensor is read, quantized and written in pieces."""
        gguf = open_gguf(source.file)
        matrix = source.folder / FILE_NAME
        importance: Importance = read_importance(matrix) if matrix.is_file() else {}
        blocks = read_blocks(source.folder, gguf)
        types = self._types(gguf, importance, [_BESIDE_CODES] if blocks and "output.weight" in gguf.tensors else [])
        if blocks:
            types = {name: _with_codes(name, kind, gguf, blocks) for name, kind in types.items()}
        target = folder / model_format("gguf").main_file
        _write(gguf, target, types, importance, _FILE_TYPES[self.type], blocks)
        copy_gguf_companions(source.folder, folder)
        written = open_gguf(target)
        counts = collections.Counter(tensor.type for tensor in written.tensors.values() if len(tensor.shape) > 1)
        detail = {**describe(written), "tensor_types": dict(sorted(counts.items())), "importance": bool(importance)}
        return PassResult(True, detail)

    def _types(self, gguf: GGUF, importance: Importance, rules: Sequence[tuple[str, str]]) -> dict[str, str]:
        """Return the type of each tensor, in the order of the file that is written; ``rules`` come after the user's."""
        given = [TensorFacts(name, tensor.shape, tensor.type) for name, tensor in gguf.tensors.items()]
        types = choose_types(
            self.type,
            given,
            facts_of(gguf, importance=bool(importance)),
            output=self.output_type.upper(),
            embeddings=self.embedding_type.upper(),
            overrides=[(pattern, kind.upper()) for pattern, kind in (*self.tensor_types, *rules)],
        )
        for name, kind in types.items():
            tensor = gguf.tensors[name]
            if kind != tensor.type and tensor.type not in _SOURCES:
                raise NotApplicableError(f"{name} is {tensor.type} already: only float weights are quantized")
            if kind != tensor.type and needs_importance(name, kind, self.type) and name not in importance:
                raise NotApplicableError(f"{name} in {kind} is garbage without an importance matrix: observe_imatrix makes one")
        return types


def _with_codes(name: str, kind: str, gguf: GGUF, blocks: Blocks) -> str:
    """The type of a tensor beside those whose codes are given: in the blocks of the model what was left stays as it is."""
    if name in blocks:
        return blocks[name][0]
    return gguf.tensors[name].type if name.startswith("blk.") else kind


def _write(gguf: GGUF, target: Path, types: Mapping[str, str], importance: Importance, file_type: int, blocks: Blocks) -> None:
    library = open_library()
    with target.open("wb") as stream, concurrent.futures.ThreadPoolExecutor(usable_threads()) as pool:
        stream.write(_header(library, gguf, types, importance, file_type))
        for name, kind in types.items():
            tensor = gguf.tensors[name]
            weights = importance.get(name)
            if weights is not None and weights.size != tensor.shape[-1] * (tensor.shape[0] if len(tensor.shape) > 2 else 1):
                if name != "token_embd.weight":
                    raise UserError(f"the importance matrix is of another model: {name} has {weights.size} inputs in it")
                weights = None
            if name in blocks:
                blocks[name][1].tofile(stream)
                size = blocks[name][1].nbytes
            elif kind == tensor.type:
                size = _copy(gguf, tensor, stream)
            else:
                size = _quantize(library, pool, gguf, tensor, kind, weights, stream)
            stream.write(b"\0" * (-size % gguf.alignment))


def _header(library: LlamaLibrary, gguf: GGUF, types: Mapping[str, str], importance: Importance, file_type: int) -> bytes:
    """All keys of the source, with the types that tensors will have."""
    tensors = ctypes.c_void_p()
    source = library.gguf_init_from_file(str(gguf.path).encode(), GGUFInit(True, ctypes.pointer(tensors)))
    if not source:
        raise CandidateRejectedError(Rejection.FAILED, f"llama.cpp cannot read it: {library.reasons()}")
    target = library.gguf_init_empty()
    library.gguf_set_kv(target, source)
    library.gguf_set_val_u32(target, b"general.quantization_version", _QUANTIZATION_VERSION)
    library.gguf_set_val_u32(target, b"general.file_type", file_type)
    if importance:
        library.gguf_set_val_str(target, b"quantize.imatrix.file", FILE_NAME.encode())
        library.gguf_set_val_u32(target, b"quantize.imatrix.entries_count", len(importance))
    for name, kind in types.items():
        library.gguf_add_tensor(target, library.ggml_get_tensor(tensors, name.encode()))
        library.gguf_set_tensor_type(target, name.encode(), TENSOR_TYPES[kind.lower()])
    header = ctypes.create_string_buffer(library.gguf_get_meta_size(target))
    library.gguf_get_meta_data(target, header)
    library.gguf_free(target)
    library.gguf_free(source)
    library.ggml_free(tensors)
    return header.raw


def _copy(gguf: GGUF, tensor: GGUFTensor, stream: BinaryIO) -> int:
    import numpy as np

    np.memmap(gguf.path, np.uint8, "r", tensor.offset, (tensor.size,)).tofile(stream)
    return tensor.size


def _quantize(
    library: LlamaLibrary,
    pool: concurrent.futures.Executor,
    gguf: GGUF,
    tensor: GGUFTensor,
    kind: str,
    importance: npt.NDArray[np.float32] | None,
    stream: BinaryIO,
) -> int:
    """Quantize a tensor in pieces of whole rows that no expert's end lies in; return the bytes that were written."""
    import numpy as np

    columns, rows_of_expert = tensor.shape[-1], tensor.shape[-2]
    width = tensor.size // tensor.parameters
    rows = np.memmap(gguf.path, np.uint8, "r", tensor.offset, (tensor.parameters // columns, columns * width))
    number = TENSOR_TYPES[kind.lower()]

    def piece(begin: int, end: int) -> bytes:
        values = _as_float32(library, tensor.type, rows[begin:end], columns)
        weights = None if importance is None else importance[begin // rows_of_expert].ctypes.data
        size = (end - begin) * library.ggml_row_size(number, columns)
        data = ctypes.create_string_buffer(size)
        library.ggml_quantize_chunk(number, values.ctypes.data, data, 0, end - begin, columns, weights)
        if not library.ggml_validate_row_data(number, data, size):
            raise CandidateRejectedError(Rejection.NOT_FINITE, f"a tensor of {list(tensor.shape)} is not finite in {kind}")
        return data.raw

    written = 0
    for pieces in _batches(_pieces(len(rows), rows_of_expert, max(1, _CHUNK // columns)), 4 * usable_threads()):
        for data in pool.map(lambda limits: piece(*limits), pieces):
            stream.write(data)
            written += len(data)
    return written


def _as_float32(library: LlamaLibrary, kind: str, rows: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.float32]:
    """Return weights [rows, columns]; llama.cpp's own conversion."""
    import numpy as np

    if kind == "F32":
        return np.ascontiguousarray(rows).view(np.float32)
    values = np.empty((len(rows), columns), np.float32)
    convert = library.ggml_fp16_to_fp32_row if kind == "F16" else library.ggml_bf16_to_fp32_row
    convert(rows.ctypes.data, values.ctypes.data, values.size)
    return values


def _pieces(rows: int, rows_of_expert: int, most: int) -> Iterator[tuple[int, int]]:
    for expert in range(0, rows, rows_of_expert):
        for begin in range(expert, expert + rows_of_expert, most):
            yield begin, min(begin + most, expert + rows_of_expert)


def _batches(pieces: Iterator[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    """So few at a time that what waits to be written stays small."""
    while batch := list(itertools.islice(pieces, size)):
        yield batch


def usable_threads() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
