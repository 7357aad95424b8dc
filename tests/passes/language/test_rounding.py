"""GPTQ against rounding to nearest, against llm-compressor's, and at its edges."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import mopt
from mopt.model.quantization import Weights
from mopt.system.environments import find_environment

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
WEIGHTS = Weights(bits=4, group_size=32)


def _case(rows: int = 16, columns: int = 160) -> tuple[object, object]:
    """A matrix, and the mean of ``x x^T`` of correlated inputs."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator)
    inputs = torch.randn(2000, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return weight, inputs.T @ inputs / 2000


def _output_error(weight: object, hessian: object, values: object) -> float:
    difference = values - weight
    return float(((difference @ hessian) * difference).sum())


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    "scheme", [WEIGHTS, Weights(bits=4, group_size=32, symmetric=False), Weights(kind="nvfp4", group_size=16)], ids=str
)
def test_outputs_err_less_than_when_rounded_to_nearest(scheme: Weights, ordered: bool) -> None:
    from mopt.passes.language._rounding import Rounding, factorize, gptq
    from mopt.passes.language._schemes import encode, find_grid

    weight, hessian = _case()
    grid = find_grid(weight, scheme)
    factor = factorize(hessian.clone(), Rounding(ordered=ordered))
    assert factor is not None
    nearest = _output_error(weight, hessian, encode(weight, grid).dequantize())
    assert _output_error(weight, hessian, gptq(weight.clone(), factor, grid).dequantize()) < 0.7 * nearest


def test_the_factor_is_that_of_the_damped_hessian_in_the_order_of_its_diagonal() -> None:
    from mopt.passes.language._rounding import Rounding, factorize

    _, hessian = _case()
    factor = factorize(hessian.clone(), Rounding(damping=0.05))
    assert factor is not None
    assert factor.order.tolist() == torch.argsort(hessian.diagonal(), descending=True).tolist()
    damped = hessian + 0.05 * hessian.diagonal().mean() * torch.eye(len(hessian))
    expected = damped[factor.order][:, factor.order]
    assert torch.equal(factor.upper, factor.upper.triu())
    assert torch.allclose(factor.upper @ factor.upper.T, expected, rtol=1e-4, atol=1e-2)


def test_a_hessian_that_is_none_is_not_factorized() -> None:
    from mopt.passes.language._rounding import Rounding, factorize

    assert factorize(torch.tensor([[1.0, 5.0], [5.0, 1.0]]), Rounding()) is None


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    from mopt.passes.language._rounding import Rounding, factorize, gptq
    from mopt.passes.language._schemes import find_grid

    weight, hessian = _case()
    hessian[5] = 0
    hessian[:, 5] = 0
    factor = factorize(hessian.clone(), Rounding())
    assert factor is not None
    values = gptq(weight.clone(), factor, find_grid(weight, WEIGHTS)).dequantize()
    assert torch.isfinite(values).all()
    assert (values[:, 5] - weight[:, 5]).abs().max() < 1


_PEER = """
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("mopt", sys.argv[1])
sys.modules["mopt"] = mopt = importlib.util.module_from_spec(spec); spec.loader.exec_module(mopt)
from compressed_tensors.quantization import QuantizationArgs
from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
from mopt.model.quantization import Weights
from mopt.passes.language._rounding import Rounding, factorize, gptq
from mopt.passes.language._schemes import find_grid
torch.manual_seed(0)
weight = torch.randn(16, 160); inputs = torch.randn(2000, 160) @ torch.randn(160, 160); hessian = inputs.T @ inputs / 2000
grid = find_grid(weight, Weights(bits=4, group_size=32))
for order in (None, "static"):
    arguments = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32, actorder=order)
    scales, zeros = grid.scales[None], torch.zeros_like(grid.scales[None])
    theirs, _, _ = quantize_weight(weight[None].clone(), hessian[None].clone(), scales, zeros, None, arguments)
    ours = gptq(weight.clone(), factorize(hessian.clone(), Rounding(ordered=order is not None)), grid).dequantize()
    print("same:", float((ours == theirs[0]).float().mean()))
"""


@pytest.mark.servers
def test_codes_are_those_of_llm_compressor() -> None:
    environment = find_environment("llm_compressor")
    if environment is None:
        pytest.skip("needs mopt tools install llm_compressor")
    command = [str(environment.python), "-I", "-c", _PEER, str(Path(mopt.__file__))]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    shares = [float(line.removeprefix("same: ")) for line in result.stdout.splitlines() if line.startswith("same: ")]
    assert len(shares) == 2
    assert min(shares) > 0.999
