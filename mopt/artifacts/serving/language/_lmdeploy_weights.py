"""What LMDeploy's own decoders make of a checkpoint's weights.

They are plain PyTorch, and run without its engine, which needs a GPU: only the enumeration of types of the extension is put in
its place. So this says that TurboMind reads the files as they were meant, and nothing of what its kernels compute.
"""

from __future__ import annotations

__all__ = ["decoding_problems", "prove_decoding"]

import functools
import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.model.checkpoint import open_checkpoint
from mopt.model.packed import PackedLayer, packed_layers
from mopt.records.serving import Proof
from mopt.system.environments import find_environment
from mopt.system.process import run

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ENVIRONMENT = "lmdeploy"
_PART = "weights, by its own decoders"
_FORMATS = {"awq": "AWQFormat", "gptq": "GPTQFormat", "compressed-tensors": "CompressedTensorFormat"}


def prove_decoding(folder: Path) -> Proof:
    """Decode every quantized layer of a checkpoint with LMDeploy, and compare the numbers with what they were meant to be.

    Args:
        folder: The checkpoint, AWQ, GPTQ or compressed-tensors.
    """
    environment = find_environment(ENVIRONMENT)
    if environment is None:
        return Proof(part=_PART, state="not proven", detail=f"mopt tools install {ENVIRONMENT} has not run")
    count, problems = run(decoding_problems, folder, python=environment.python)
    if problems:
        return Proof(part=_PART, state="failed", detail="; ".join(problems[:3]))
    version = environment.version("lmdeploy")
    return Proof(part=_PART, state="proven", detail=f"{count} layers, bit by bit, in LMDeploy {version}")


def decoding_problems(folder: Path) -> tuple[int, list[str]]:
    """Compare LMDeploy's numbers of each layer with ours; runs in its environment.

    Returns:
        How many layers there are, and what is wrong, each beginning with the name of a layer.
    """
    formats = _weight_format_module()
    layers = packed_layers(open_checkpoint(folder))
    problems = []
    for name, layer in layers.items():
        if problem := _problem(layer, formats):
            problems.append(f"{name}: {problem}")
    return len(layers), problems


def _problem(layer: PackedLayer, formats: Any) -> str:
    import numpy as np
    import torch

    if layer.packing not in _FORMATS:
        return f"LMDeploy has no decoder for {layer.packing}"
    tensors = {f".{name}": _tensor(layer, name) for name in layer.tensors}
    group = layer.shape[1] // layer.groups
    decoder = getattr(formats, _FORMATS[layer.packing])(block_in=group)
    known = {suffix: tensor for suffix, tensor in tensors.items() if suffix in decoder.suffix_map and suffix != ".bias"}
    if not decoder.accepts(known):
        return f"{_FORMATS[layer.packing]} does not take its tensors"
    parts = {
        decoder.suffix_map[suffix]: decoder.normalize(tensor, decoder.suffix_map[suffix]) for suffix, tensor in known.items()
    }
    scales = parts["scales"].to(torch.float32)
    zeros = parts["zeros"] if "zeros" in parts else decoder.synthesize_zeros(scales)
    decoded = _dequantized(parts["weight"].to(torch.float32), zeros.to(torch.float32), scales, group)
    ours = layer.unscaled(0, layer.shape[0])
    if decoded.shape != ours.shape:
        return f"decodes to {decoded.shape[0]} x {decoded.shape[1]} instead of {ours.shape[0]} x {ours.shape[1]}"
    different = int(np.count_nonzero(decoded != ours))
    return f"{different} of {ours.size} weights decode to other numbers" if different else ""


def _dequantized(codes: Any, zeros: Any, scales: Any, group: int) -> npt.NDArray[np.float32]:
    """Apply scales and zero points in TurboMind's layout, inputs first; return [out, in].

    The three decoders agree on the layout, and LMDeploy dequantizes in float16, which would hide what the numbers are.
    """
    wide_zeros = zeros.repeat_interleave(group, dim=0)[: codes.shape[0], : codes.shape[1]]
    wide_scales = scales.repeat_interleave(group, dim=0)[: codes.shape[0]]
    result: npt.NDArray[np.float32] = ((codes - wide_zeros) * wide_scales).t().contiguous().numpy()
    return result


def _tensor(layer: PackedLayer, name: str) -> Any:
    import numpy as np
    import torch

    kind = layer.tensors[name].dtype
    array = np.array(layer.raw(name))
    if kind == "BF16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


@functools.cache
def _weight_format_module() -> Any:
    """Import the decoders alone: LMDeploy's packages import its server, and their extension libcuda."""
    spec = importlib.util.find_spec("lmdeploy")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(next(iter(spec.submodule_search_locations)))
    for name, folder in (("lmdeploy", root), ("lmdeploy.turbomind", root / "turbomind")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    extension: Any = types.ModuleType("lmdeploy.turbomind._turbomind")
    extension.DataType = _AnyType()
    sys.modules[extension.__name__] = extension
    package._tm = extension  # type: ignore[attr-defined]
    return importlib.import_module("lmdeploy.turbomind.weight_format")


class _AnyType:
    """Stands for the extension's enumeration of types, of which the decoders only compare members."""

    def __getattr__(self, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name
