"""A layer that reads its weights when it computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopt.model.checkpoint import open_checkpoint
from mopt.model.quantization import Activations, Weights
from tests.language_models import TinyModel

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
NAME = "model.layers.0.mlp.up_proj"


def test_scales_are_undone_in_the_error_and_cancel_in_the_product(tmp_path: Path) -> None:
    from mopt.passes.language._layer import Layer
    from mopt.passes.language._schemes import encode, find_grid

    layer = Layer(open_checkpoint(TinyModel().write(tmp_path)), NAME, torch.ones(256))
    inputs = torch.linspace(-1, 1, 2 * 128).reshape(2, 128)
    before = layer(inputs)
    layer.scale_in, layer.scale_out = torch.linspace(1, 4, 128), torch.linspace(0.5, 2, 256)
    assert torch.allclose(layer(inputs / layer.scale_in) * layer.scale_out, before, atol=1e-4)
    layer.coded = encode(layer.matrix(), find_grid(layer.matrix(), Weights(bits=8, group_size=32)))
    assert 0 < layer.error() < 0.02


def test_inputs_are_rounded_once_it_is_quantized(tmp_path: Path) -> None:
    from mopt.passes.language._layer import Layer
    from mopt.passes.language._schemes import encode, find_grid

    layer = Layer(open_checkpoint(TinyModel().write(tmp_path)), NAME, None)
    layer.activations = Activations(kind="int8")
    inputs = torch.linspace(-1, 1, 128)[None]
    exact = inputs @ layer.matrix().T
    assert torch.allclose(layer(inputs), exact, atol=1e-5)
    layer.coded = encode(layer.matrix(), find_grid(layer.matrix(), Weights(bits=8, group_size=0)))
    rounded = layer(inputs)
    layer.activations = None
    assert not torch.equal(layer(inputs), rounded)
    assert torch.allclose(rounded, exact, atol=0.05)
