"""The run over the decoder blocks: read, quantize, write, pass on; and where it was killed, go on."""

from __future__ import annotations

__all__ = ["drive"]

import contextlib
import ctypes
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mopt.errors import NotApplicableError
from mopt.model.checkpoint import copy_companions, open_checkpoint
from mopt.model.files import Model
from mopt.model.quantization import LayerQuantization, Quantization
from mopt.passes._base import PassResult
from mopt.passes.language._architecture import Architecture, Block
from mopt.passes.language._blockwise import BlockwisePass
from mopt.passes.language._calibration import TOKENS_AT_A_TIME, BlockWork, Stream, StreamWriter
from mopt.passes.language._selection import choose_weights
from mopt.passes.language._tensors import Copied, check_tensor, write_tensors
from mopt.system.digests import describe_fields, digest, file_digest, versions

_OUTSIDE = "outside.safetensors"
_WORK = "unfinished"
"""Folder of what is needed to go on; it is gone when the run has ended."""
_MMAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` of glibc's mallopt."""


def drive(step: BlockwisePass, source: Model, folder: Path) -> PassResult:
    """Quantize a checkpoint; what an earlier run of the same pass has finished in the folder is kept."""
    _return_memory()
    start = time.monotonic()
    run = _Run(step, source, folder)
    run.prepare()
    kept = run.finished()
    run.embed()
    for index in range(kept, run.architecture.count):
        run.block(index)
    detail = run.conclude()
    detail["kept_blocks"] = kept
    uniform = Quantization.read(folder).uniform
    detail["scheme"] = dataclasses.asdict(uniform) if uniform else None
    _say(f"quantized {run.architecture.count} blocks, {kept} of them before, in {time.monotonic() - start:.0f} s")
    return PassResult(modified=True, detail=detail)


class _Run:
    """A run of a pass on a checkpoint, and what is on disk of it."""

    def __init__(self, step: BlockwisePass, source: Model, folder: Path) -> None:
        self.step, self.folder, self.work = step, folder, folder / _WORK
        self.checkpoint = open_checkpoint(source.folder)
        self.architecture = Architecture(self.checkpoint)
        settings = {"pass": step.name, "fields": describe_fields(step), "libraries": versions(step.libraries)}
        self.key = digest({"source": source.digest, **settings})
        self.seconds: list[float] = []
        self.arguments: list[dict[str, Any]] = []
        if step.calibrates and step.windows is not None:
            self.arguments = self.architecture.arguments(step.windows.length)

    def prepare(self) -> None:
        """Keep what an earlier run of the same pass left; else begin with what lies outside of the blocks."""
        record = self.work / "run.json"
        if not record.is_file() or json.loads(record.read_text()).get("key") != self.key:
            for path in self.folder.iterdir() if self.folder.is_dir() else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.work.mkdir(parents=True, exist_ok=True)
            copy_companions(self.checkpoint.folder, self.folder)
            self._check()
            outside = self._outside()
            write_tensors(self.folder / _OUTSIDE, {name: Copied(self.checkpoint, name) for name in outside})
            _write_json(record, {"key": self.key})

    def finished(self) -> int:
        """Return how many blocks are whole on disk, with what the next one needs."""
        count = 0
        while count < self.architecture.count and self._is_whole(count):
            count += 1
        while count and self.step.calibrates and count < self.architecture.count and not self._has_streams(count):
            count -= 1
        return count

    def embed(self) -> None:
        """Write what the first block gets, unless it or what a later one gets is there."""
        if not self.step.calibrates or self.step.windows is None or self._last_stream() is not None:
            return
        writer = StreamWriter(self._stream_path("inputs", 0))
        windows = self.step.windows.load()
        for hidden in self.architecture.embed(windows, max(1, TOKENS_AT_A_TIME // self.step.windows.length)):
            writer.append(hidden)
        self._note_streams(0, {"inputs": writer.close()})

    def block(self, index: int) -> None:
        """Quantize a block, and write it and what the next one gets."""
        start = time.monotonic()
        block = self.architecture.build(index, self.arguments[index] if self.arguments else None)
        work = self._work_of(block)
        if not work.targets and not block.layers:
            raise NotApplicableError(f"block {index} has no linear layer")
        if work.reference is not None:
            work.target = self._pass_on(block, work.reference, f"reference-{index + 1}")
        if work.targets:
            self.step.quantize_block(work)
        scales: dict[str, torch.Tensor] = {}
        outputs = self._outputs(work, scales)
        self._write(work, scales)
        streams = {name: stream for name, stream in (("inputs", outputs), ("reference", work.target)) if stream is not None}
        if streams:
            self._note_streams(index + 1, streams)
        error = self._record_block(work, scales)
        for kind in ("inputs", "reference"):
            self._stream_path(kind, index).unlink(missing_ok=True)
        self._tell(index, f"{len(work.targets)} layers, relative error {error:.4f}", time.monotonic() - start)

    def conclude(self) -> dict[str, Any]:
        """Write ``quantization.json``; remove what was needed to go on."""
        records = [json.loads(self._record_path(index).read_text()) for index in range(self.architecture.count)]
        layers = {name: _layer(data) for record in records for name, data in record["layers"].items()}
        if not layers:
            raise NotApplicableError("no linear layer of the model can be quantized as it was asked")
        left = {name: reason for record in records for name, reason in record["left"].items()}
        left["lm_head"] = "shares its weights with the embedding" if self.architecture.tied else "gives the probabilities"
        tensors = {name: record["file"] for record in records for name in record["tensors"]}
        tokens = self.step.windows.count * self.step.windows.length if self.step.windows and self.step.calibrates else 0
        Quantization(
            algorithm=self.step.algorithm,
            layers=layers,
            left=left,
            tensors=tensors | dict.fromkeys(self._outside(), _OUTSIDE),
            kv_cache=self.step.kv_cache,
            kv_scales=any(record["kv_scales"] for record in records),
            calibration_tokens=tokens,
        ).write(self.folder)
        shutil.rmtree(self.work)
        notes = {name: note for record in records for name, note in record["notes"].items()}
        return _detail(self.step.algorithm, layers, left, notes, tokens)

    def _work_of(self, block: Block) -> BlockWork:
        targets = {}
        for name, layer in block.layers.items():
            choice = choose_weights(name, layer.shape[1], self.step.weights, self.step.leave, self.step.layers)
            if choice.weights is None:
                block.left[name] = choice.reason
            else:
                targets[name] = choice.weights
        inputs = self._stream("inputs", block.index) if self.step.calibrates else None
        reference = None
        if self.step.calibrates and self.step.needs_reference:
            # Nothing is quantized before the first block.
            reference = self._stream("reference", block.index) if block.index else inputs
        return BlockWork(block, targets, self.step.activations, inputs, reference)

    def _outside(self) -> list[str]:
        """Return the tensors that are of no block."""
        prefixes = tuple(self.architecture.prefix(index) for index in range(self.architecture.count))
        return [name for name in self.checkpoint.tensors if not name.startswith(prefixes)]

    def _check(self) -> None:
        """Refuse a model that is damaged in any of its blocks, before hours go into the first ones."""
        outside = set(self._outside())
        for name in self.checkpoint.tensors:
            if name not in outside:
                check_tensor(self.checkpoint, name)

    def _outputs(self, work: BlockWork, scales: dict[str, torch.Tensor]) -> Stream | None:
        """Pass the windows through the quantized block, and observe keys and values meanwhile."""
        last = work.block.index + 1 == self.architecture.count
        if work.inputs is None or (last and not self.step.kv_cache):
            return None
        with _watched_attention(self.step.kv_cache, scales, work.block):
            return self._pass_on(work.block, work.inputs, f"inputs-{work.block.index + 1}")

    def _pass_on(self, block: Block, inputs: Stream, name: str) -> Stream:
        kind, _, index = name.partition("-")
        writer = StreamWriter(self._stream_path(kind, int(index)))
        for batch in inputs.batches():
            writer.append(block.forward(batch))
        return writer.close()

    def _write(self, work: BlockWork, scales: dict[str, torch.Tensor]) -> None:
        block = work.block
        tensors: dict[str, torch.Tensor | Copied] = dict(scales)
        for name in self._names(block):
            layer = block.layers.get(name.removesuffix(".weight").removesuffix(".bias"))
            if layer is not None and layer.coded is not None and name.endswith(".weight"):
                tensors |= layer.coded.tensors(layer.name)
                if layer.input_scale is not None:
                    tensors[f"{layer.name}.input_scale"] = layer.input_scale
            else:
                tensors[name] = self._kept(name, layer, block)
        write_tensors(self.folder / _file_of(block.index), tensors)

    def _kept(self, name: str, layer: Any, block: Block) -> torch.Tensor | Copied:
        """Return a tensor that is not quantized: as it was, or with what was folded into it, in its own type."""
        kind = {"BF16": torch.bfloat16, "F16": torch.float16}.get(self.checkpoint.tensors[name].dtype, torch.float32)
        if layer is not None and (layer.scale_in is not None or layer.scale_out is not None):
            value = layer.matrix() if name.endswith(".weight") else layer.scaled_bias()
            return value.to(kind)
        if name in block.changed:
            return block.norms[name].data.to(kind)
        return Copied(self.checkpoint, name)

    def _names(self, block: Block) -> list[str]:
        return [name for name in self.checkpoint.tensors if name.startswith(block.prefix)]

    def _record_block(self, work: BlockWork, scales: dict[str, torch.Tensor]) -> float:
        """Say that a block is whole: the last that is written of it. Return the mean error of its layers."""
        block = work.block
        path = self.folder / _file_of(block.index)
        layers = {
            layer.name: dataclasses.asdict(
                LayerQuantization(
                    weights=work.targets[layer.name], activations=layer.activations, error=round(layer.error(), 6),
                    inputs=layer.shape[1], outputs=layer.shape[0],
                )
            )
            for layer in work.layers()
        }  # fmt: skip
        record = {
            "file": path.name,
            "size": path.stat().st_size,
            "digest": file_digest(path),
            "tensors": sorted(open_file_names(path)),
            "layers": layers,
            "left": block.left,
            "notes": work.notes,
            "kv_scales": bool(scales),
        }
        _write_json(self._record_path(block.index), record)
        return float(sum(data["error"] for data in layers.values()) / max(1, len(layers)))

    def _is_whole(self, index: int) -> bool:
        record = self._record_path(index)
        if not record.is_file():
            return False
        data = json.loads(record.read_text())
        path = self.folder / data["file"]
        whole = path.is_file() and path.stat().st_size == data["size"] and file_digest(path) == data["digest"]
        return bool(whole)

    def _has_streams(self, index: int) -> bool:
        record = self.work / f"streams-{index:05}.json"
        if not record.is_file():
            return False
        for kind, data in json.loads(record.read_text()).items():
            path = self._stream_path(kind, index)
            if not path.is_file() or file_digest(path) != data["digest"]:
                return False
        return True

    def _last_stream(self) -> int | None:
        finished = [index for index in range(self.architecture.count) if self._has_streams(index)]
        return max(finished) if finished else None

    def _note_streams(self, index: int, streams: dict[str, Stream]) -> None:
        record = {
            kind: {"shape": [stream.count, stream.length, stream.hidden], "digest": file_digest(stream.path)}
            for kind, stream in streams.items()
        }
        _write_json(self.work / f"streams-{index:05}.json", record)

    def _stream(self, kind: str, index: int) -> Stream:
        data = json.loads((self.work / f"streams-{index:05}.json").read_text())[kind]
        return Stream(self._stream_path(kind, index), *data["shape"])

    def _stream_path(self, kind: str, index: int) -> Path:
        return self.work / f"{kind}-{index:05}.bin"

    def _record_path(self, index: int) -> Path:
        return self.work / f"block-{index:05}.json"

    def _tell(self, index: int, done: str, seconds: float) -> None:
        self.seconds.append(seconds)
        rest = (self.architecture.count - index - 1) * sum(self.seconds) / len(self.seconds)
        _say(f"block {index + 1} of {self.architecture.count}: {done}, {seconds:.1f} s; {rest:.0f} s to go")


@contextlib.contextmanager
def _watched_attention(kind: str, scales: dict[str, torch.Tensor], block: Block) -> Iterator[None]:
    """Note the largest keys and values that attention gets, and put the scales of a cache under their names."""
    if not kind:
        yield
        return
    attention = torch.nn.functional.scaled_dot_product_attention
    largest = [0.0, 0.0]

    def watched(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        for place, tensor in enumerate((key, value)):
            largest[place] = max(largest[place], float(tensor.abs().max()))
        return attention(query, key, value, *rest, **named)

    torch.nn.functional.scaled_dot_product_attention = watched
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = attention
    name = next((name for name, _ in block.module.named_children() if "attn" in name or "attention" in name), "")
    if name and largest[0] > 0:
        most = 448.0 if kind == "fp8" else 127.0
        scales[f"{block.prefix}{name}.k_scale"] = torch.tensor([largest[0] / most])
        scales[f"{block.prefix}{name}.v_scale"] = torch.tensor([largest[1] / most])


def _detail(
    algorithm: str, layers: dict[str, LayerQuantization], left: dict[str, str], notes: dict[str, str], tokens: int
) -> dict[str, Any]:
    weights = sum(layer.inputs * layer.outputs for layer in layers.values())
    bits = sum(layer.weights.bits_per_weight(layer.inputs) * layer.inputs * layer.outputs for layer in layers.values())
    error = sum(layer.error * layer.inputs * layer.outputs for layer in layers.values())
    return {
        "algorithm": algorithm,
        "layers": len(layers),
        "left": left,
        "notes": notes,
        "bits_per_weight": round(bits / weights, 4),
        "error": round(error / weights, 6),
        "calibration_tokens": tokens,
    }


def open_file_names(path: Path) -> list[str]:
    """Return the names of the tensors in a file of safetensors that this module wrote."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return list(json.loads(stream.read(length)))


def _file_of(index: int) -> str:
    return f"block-{index:05}.safetensors"


def _layer(data: dict[str, Any]) -> LayerQuantization:
    from mopt.model.quantization import Activations, Weights

    activations = data["activations"]
    return LayerQuantization(
        **{**data, "weights": Weights(**data["weights"]), "activations": activations and Activations(**activations)}
    )


def _write_json(path: Path, data: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(data))
    partial.replace(path)


def _return_memory() -> None:
    """Have glibc give large pieces back as soon as they are free, instead of keeping them for later."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 20)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
