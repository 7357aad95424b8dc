"""llama.cpp's C interface as the library in the xllamacpp wheel exports it, for the Python of environment ``llama_cpp``.

The structures are those of ``llama.h``, ``ggml.h``, ``ggml-cpu.h`` and ``gguf.h`` of llama.cpp build 11549, which the source
distribution of xllamacpp 2026.10.11549 carries. They change from build to build without notice, so the defaults of all of them
are compared with what that build documents before anything is passed.
"""

from __future__ import annotations

__all__ = [
    "FLASH_ATTENTION_AUTO",
    "TENSOR_TYPES",
    "Batch",
    "ContextParams",
    "EvalCallback",
    "GGUFInit",
    "LlamaLibrary",
    "ModelParams",
    "Tensor",
    "open_library",
]

import ctypes
import functools
import importlib.util
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mopt.errors import CandidateRejectedError, Rejection

_DISTRIBUTION, _VERSION = "xllamacpp", "2026.10.11549"
FLASH_ATTENTION_AUTO = -1
TENSOR_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_k": 10, "q3_k": 11, "q4_k": 12, "q5_k": 13,
    "q6_k": 14, "q8_k": 15, "iq2_xxs": 16, "iq2_xs": 17, "iq3_xxs": 18, "iq1_s": 19, "iq4_nl": 20, "iq3_s": 21, "iq2_s": 22,
    "iq4_xs": 23, "i8": 24, "i16": 25, "i32": 26, "i64": 27, "f64": 28, "iq1_m": 29, "bf16": 30, "tq1_0": 34, "tq2_0": 35,
    "mxfp4": 39, "nvfp4": 40,
}  # fmt: skip
"""``enum ggml_type``."""
_int8, _int32, _uint32, _int64 = ctypes.c_int8, ctypes.c_int32, ctypes.c_uint32, ctypes.c_int64
_size, _float, _bool, _pointer, _chars = ctypes.c_size_t, ctypes.c_float, ctypes.c_bool, ctypes.c_void_p, ctypes.c_char_p


class Tensor(ctypes.Structure):
    """``struct ggml_tensor``."""


Tensor._fields_ = [
    ("type", _int32),
    ("buffer", _pointer),
    ("ne", _int64 * 4),
    ("nb", _size * 4),
    ("op", _int32),
    ("op_params", _int32 * 16),
    ("flags", _int32),
    ("src", ctypes.POINTER(Tensor) * 10),
    ("view_src", _pointer),
    ("view_offs", _size),
    ("data", _pointer),
    ("name", ctypes.c_char * 64),
    ("extra", _pointer),
    ("padding", ctypes.c_char * 8),
]

EvalCallback = ctypes.CFUNCTYPE(_bool, ctypes.POINTER(Tensor), _bool, _pointer)
"""``ggml_backend_sched_eval_callback``: tensor, whether it only asks, what it was given; whether to go on."""
_LogCallback = ctypes.CFUNCTYPE(None, _int32, _chars, _pointer)


class ModelParams(ctypes.Structure):
    """``struct llama_model_params``."""

    _fields_ = (
        ("devices", _pointer),
        ("tensor_buft_overrides", _pointer),
        ("n_gpu_layers", _int32),
        ("split_mode", _int32),
        ("load_mode", _int32),
        ("lazy_mode", _int32),
        ("main_gpu", _int32),
        ("tensor_split", _pointer),
        ("progress_callback", _pointer),
        ("progress_callback_user_data", _pointer),
        ("kv_overrides", _pointer),
        ("vocab_only", _bool),
        ("check_tensors", _bool),
        ("use_extra_bufts", _bool),
        ("no_host", _bool),
        ("no_alloc", _bool),
        ("load_mtp", _bool),
    )


class ContextParams(ctypes.Structure):
    """``struct llama_context_params``."""

    _fields_ = (
        ("n_ctx", _uint32),
        ("n_batch", _uint32),
        ("n_ubatch", _uint32),
        ("n_seq_max", _uint32),
        ("n_rs_seq", _uint32),
        ("n_outputs_max", _uint32),
        ("n_outputs_max_per_seq", _uint32),
        ("n_threads", _int32),
        ("n_threads_batch", _int32),
        ("ctx_type", _int32),
        ("rope_scaling_type", _int32),
        ("pooling_type", _int32),
        ("attention_type", _int32),
        ("flash_attn_type", _int32),
        ("rope_freq_base", _float),
        ("rope_freq_scale", _float),
        ("yarn_ext_factor", _float),
        ("yarn_attn_factor", _float),
        ("yarn_beta_fast", _float),
        ("yarn_beta_slow", _float),
        ("yarn_orig_ctx", _uint32),
        ("defrag_thold", _float),
        ("cb_eval", EvalCallback),
        ("cb_eval_user_data", _pointer),
        ("type_k", _int32),
        ("type_v", _int32),
        ("moe_cache_size", _size),
        ("abort_callback", _pointer),
        ("abort_callback_data", _pointer),
        ("embeddings", _bool),
        ("offload_kqv", _bool),
        ("no_perf", _bool),
        ("op_offload", _bool),
        ("swa_full", _bool),
        ("kv_unified", _bool),
        ("samplers", _pointer),
        ("n_samplers", _size),
        ("ctx_other", _pointer),
    )


class Batch(ctypes.Structure):
    """``struct llama_batch``."""

    _fields_ = (
        ("n_tokens", _int32),
        ("token", ctypes.POINTER(_int32)),
        ("embd", ctypes.POINTER(_float)),
        ("pos", ctypes.POINTER(_int32)),
        ("n_seq_id", ctypes.POINTER(_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(_int32))),
        ("logits", ctypes.POINTER(_int8)),
    )

    @classmethod
    def of(cls, tokens: Sequence[int], position: int, *, last_only: bool = False) -> Batch:
        """Make one of consecutive tokens of sequence 0 that start at a position; all, or the last alone, ask for logits."""
        count = len(tokens)
        sequence = (_int32 * 1)(0)
        return cls(
            n_tokens=count,
            token=(_int32 * count)(*tokens),
            pos=(_int32 * count)(*range(position, position + count)),
            n_seq_id=(_int32 * count)(*[1] * count),
            seq_id=(ctypes.POINTER(_int32) * count)(*[ctypes.cast(sequence, ctypes.POINTER(_int32))] * count),
            logits=(_int8 * count)(*[int(not last_only or index == count - 1) for index in range(count)]),
        )


class GGUFInit(ctypes.Structure):
    """``struct gguf_init_params``."""

    _fields_ = (("no_alloc", _bool), ("ctx", ctypes.POINTER(_pointer)))


class _TypeTraits(ctypes.Structure):
    """``struct ggml_type_traits_cpu``."""

    _fields_ = (("from_float", _pointer), ("vec_dot", _pointer), ("vec_dot_type", _int32), ("nrows", _int64))


_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (_LogCallback, _pointer)),
    "llama_print_system_info": (_chars, ()),
    "llama_version": (_chars, ()),
    "llama_model_load_from_file": (_pointer, (_chars, ModelParams)),
    "llama_model_free": (None, (_pointer,)),
    "llama_model_get_vocab": (_pointer, (_pointer,)),
    "llama_init_from_model": (_pointer, (_pointer, ContextParams)),
    "llama_free": (None, (_pointer,)),
    "llama_get_memory": (_pointer, (_pointer,)),
    "llama_memory_clear": (None, (_pointer, _bool)),
    "llama_decode": (_int32, (_pointer, Batch)),
    "llama_get_logits": (ctypes.POINTER(_float), (_pointer,)),
    "llama_vocab_n_tokens": (_int32, (_pointer,)),
    "llama_vocab_bos": (_int32, (_pointer,)),
    "llama_vocab_is_eog": (_bool, (_pointer, _int32)),
    "llama_tokenize": (_int32, (_pointer, _chars, _int32, ctypes.POINTER(_int32), _int32, _bool, _bool)),
    "llama_detokenize": (_int32, (_pointer, ctypes.POINTER(_int32), _int32, _chars, _int32, _bool, _bool)),
    "ggml_op_name": (_chars, (_int32,)),
    "ggml_quantize_chunk": (_size, (_int32, _pointer, _pointer, _int64, _int64, _int64, _pointer)),
    "ggml_validate_row_data": (_bool, (_int32, _pointer, _size)),
    "ggml_row_size": (_size, (_int32, _int64)),
    "ggml_blck_size": (_int64, (_int32,)),
    "ggml_fp16_to_fp32_row": (None, (_pointer, _pointer, _int64)),
    "ggml_bf16_to_fp32_row": (None, (_pointer, _pointer, _int64)),
    "ggml_type_name": (_chars, (_int32,)),
    "ggml_free": (None, (_pointer,)),
    "ggml_get_tensor": (_pointer, (_pointer, _chars)),
    "gguf_init_from_file": (_pointer, (_chars, GGUFInit)),
    "gguf_init_empty": (_pointer, ()),
    "gguf_free": (None, (_pointer,)),
    "gguf_set_kv": (None, (_pointer, _pointer)),
    "gguf_set_val_u32": (None, (_pointer, _chars, _uint32)),
    "gguf_set_val_str": (None, (_pointer, _chars, _chars)),
    "gguf_add_tensor": (None, (_pointer, _pointer)),
    "gguf_set_tensor_type": (None, (_pointer, _chars, _int32)),
    "gguf_get_meta_size": (_size, (_pointer,)),
    "gguf_get_meta_data": (None, (_pointer, _pointer)),
    "ggml_get_type_traits_cpu": (ctypes.POINTER(_TypeTraits), (_int32,)),
}


class LlamaLibrary:
    """The library in this process: its functions, and the end of what it logged.

    Raises:
        CandidateRejectedError: When it is of another version, or its structures are not those that are known here.
    """

    def __init__(self) -> None:
        version = metadata.version(_DISTRIBUTION)
        if version != _VERSION:
            raise CandidateRejectedError(
                Rejection.UNSUPPORTED, f"{_DISTRIBUTION} is {version}; this mopt knows the C interface of {_VERSION} alone"
            )
        spec = importlib.util.find_spec(_DISTRIBUTION)
        assert spec is not None
        assert spec.submodule_search_locations
        (path,) = Path(spec.submodule_search_locations[0]).glob("xllamacpp*.so")
        self._library = ctypes.CDLL(str(path))
        self.log: list[str] = []
        self._callback = _LogCallback(lambda level, text, data: self.log.append(text.decode(errors="replace")))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._check_layouts()
        self._library.llama_log_set(self._callback, None)
        self._library.llama_backend_init()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    @property
    def version(self) -> str:
        """What the library calls itself."""
        return f"{metadata.version(_DISTRIBUTION)} (llama.cpp {self._library.llama_version().decode()})"

    def reasons(self, count: int = 3) -> str:
        """Return the last lines that it logged, for an error message."""
        lines = [line.strip() for line in "".join(self.log).splitlines() if line.strip()]
        return " | ".join(lines[-count:]) or "llama.cpp says nothing"

    def dot_type(self, tensor_type: int) -> str:
        """Return the type that inputs are rounded to before they are multiplied with weights of a type."""
        name: bytes = self._library.ggml_type_name(self._library.ggml_get_type_traits_cpu(tensor_type).contents.vec_dot_type)
        return name.decode()

    def _check_layouts(self) -> None:
        """Compare all defaults with the ones in the sources of that build; a field that moved shows in them."""
        model, context = self._library.llama_model_default_params(), self._library.llama_context_default_params()
        given = (
            (model.n_gpu_layers, model.split_mode, model.load_mode, model.lazy_mode, model.main_gpu, model.use_extra_bufts),
            (model.vocab_only, model.check_tensors, model.no_host, model.no_alloc, model.load_mtp),
            (context.n_ctx, context.n_batch, context.n_ubatch, context.n_seq_max, context.n_outputs_max_per_seq),
            (context.flash_attn_type, context.yarn_beta_slow, context.defrag_thold, context.type_k, context.type_v),
            (context.embeddings, context.offload_kqv, context.no_perf, context.op_offload, context.swa_full),
            (context.kv_unified, context.n_samplers, context.ctx_other, context.moe_cache_size),
        )
        documented = (
            (-1, 1, -1, 1, 0, True),
            (False, False, False, False, False),
            (512, 2048, 512, 1, 1),
            (FLASH_ATTENTION_AUTO, -1.0, -1.0, TENSOR_TYPES["f16"], TENSOR_TYPES["f16"]),
            (False, True, True, True, True),
            (False, 0, None, 0),
        )
        if given != documented:
            raise CandidateRejectedError(
                Rejection.UNSUPPORTED, f"the structures of {_DISTRIBUTION} {_VERSION} are not those of its sources: {given}"
            )


@functools.cache
def open_library() -> LlamaLibrary:
    """Load the library into this process, once."""
    return LlamaLibrary()
