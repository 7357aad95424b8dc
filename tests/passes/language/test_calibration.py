"""Streams on disk, and what is measured at the inputs of layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopt.model.checkpoint import open_checkpoint
from mopt.model.quantization import Weights
from tests.language_models import TinyModel
from tests.passes.language.checkpoints import write_calibration

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_a_stream_gives_back_its_windows(tmp_path: Path) -> None:
    from mopt.passes.language._calibration import StreamWriter

    hidden = torch.arange(5 * 3 * 4, dtype=torch.float32).reshape(5, 3, 4)
    writer = StreamWriter(tmp_path / "x.bin")
    writer.append(hidden[:2])
    assert not (tmp_path / "x.bin").exists()
    writer.append(hidden[2:])
    stream = writer.close()
    assert (stream.count, stream.length, stream.hidden, stream.size) == (5, 3, 4, (tmp_path / "x.bin").stat().st_size)
    assert torch.equal(stream.read(3, 10), hidden[3:])
    assert torch.equal(stream.pick([4, 0]), hidden[[4, 0]])
    assert torch.equal(torch.cat(list(stream.batches())), hidden)


def test_what_is_measured_is_what_the_layers_get(tmp_path: Path) -> None:
    from mopt.passes.language._architecture import Architecture
    from mopt.passes.language._calibration import BlockWork, StreamWriter

    windows = write_calibration(tmp_path / "windows", count=3, length=16)
    architecture = Architecture(open_checkpoint(TinyModel().write(tmp_path / "source")))
    writer = StreamWriter(tmp_path / "x.bin")
    for hidden in architecture.embed(windows.load(), 2):
        writer.append(hidden)
    block = architecture.build(0, architecture.arguments(16)[0])
    work = BlockWork(block, {name: Weights(group_size=32) for name in block.layers}, None, writer.close())
    stages = work.stages(hessian=True)
    names = [[layer.name.rpartition(".")[2] for layer in group] for stage in stages for group in stage.groups]
    assert names == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    assert work.inputs is not None
    inputs = block.module.input_layernorm(work.inputs.read(0, 3)).reshape(-1, 128)
    (measured,) = work.measure(stages[0], hessian=True)
    assert measured.tokens == 48
    assert torch.allclose(measured.hessian, inputs.T @ inputs / 48, atol=1e-4)
    assert torch.allclose(measured.square, inputs.square().mean(0), atol=1e-4)
    assert torch.allclose(measured.mean, inputs.abs().mean(0), atol=1e-4)
    assert torch.equal(measured.largest, inputs.abs().amax(0))
