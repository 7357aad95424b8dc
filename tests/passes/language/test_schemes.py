"""Codes and scales of every format, against what the formats say."""

from __future__ import annotations

import itertools

import pytest

from mopt.model.quantization import Activations, Weights

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")

SCHEMES = [
    Weights(bits=4, group_size=32), Weights(bits=4, group_size=32, symmetric=False), Weights(bits=8, group_size=0),
    Weights(bits=8, group_size=64, symmetric=False), Weights(bits=8, group_size=-1), Weights(kind="fp8", bits=8, group_size=0),
    Weights(kind="fp8", bits=8, group_size=-1), Weights(kind="mxfp4", group_size=32), Weights(kind="nvfp4", group_size=16),
]  # fmt: skip


def _weight(rows: int = 24, columns: int = 128) -> object:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, columns, generator=generator) * 0.02


def _error(weight: object, scheme: Weights, **options: object) -> float:
    from mopt.passes.language._schemes import encode, find_grid

    coded = encode(weight, find_grid(weight, scheme, **options))
    return float((coded.dequantize() - weight).norm() / weight.norm())


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_matrix_survives_within_what_its_format_holds(scheme: Weights, search: bool) -> None:
    limit = {"int": 0.1 if scheme.bits == 4 else 0.012, "fp8": 0.03, "mxfp4": 0.14, "nvfp4": 0.1}[scheme.kind]
    assert 0 < _error(_weight(), scheme, search=search) < limit


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme.group_size != -1], ids=str)
def test_a_search_errs_no_more_than_plain_scales(scheme: Weights) -> None:
    assert _error(_weight(), scheme, search=True) <= _error(_weight(), scheme, search=False)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_what_is_on_the_grid_stays_where_it_is(scheme: Weights) -> None:
    from mopt.passes.language._schemes import encode, find_grid

    weight = _weight()
    grid = find_grid(weight, scheme)
    once = encode(weight, grid)
    again = encode(once.dequantize(), grid)
    assert torch.equal(again.dequantize(), once.dequantize())


def test_scales_of_integers_are_bfloat16_before_codes_are_chosen() -> None:
    from mopt.passes.language._schemes import find_grid

    for scheme in SCHEMES[:5]:
        scales = find_grid(_weight(), scheme, search=scheme.group_size > 0).scales
        assert torch.equal(scales, scales.bfloat16().float())


def test_importance_moves_the_error_to_where_it_counts_less() -> None:
    from mopt.passes.language._schemes import encode, find_grid

    weight, importance = _weight(), torch.ones(128)
    importance[::2] = 100.0
    scheme = Weights(bits=4, group_size=32)
    plain = encode(weight, find_grid(weight, scheme, search=True)).dequantize() - weight
    weighted = encode(weight, find_grid(weight, scheme, importance, search=True)).dequantize() - weight
    assert (weighted.square() * importance).sum() < (plain.square() * importance).sum()


def test_fp4_takes_the_nearest_of_its_values_and_the_even_code_of_two() -> None:
    from mopt.passes.language._schemes import E2M1, nearest

    middles = [(low + high) / 2 for low, high in itertools.pairwise(E2M1)]
    scheme = Weights(kind="mxfp4", group_size=32)
    result = nearest(torch.tensor([*E2M1, *middles, 9.0, -5.1]), torch.ones(()), None, scheme).tolist()
    even = [E2M1[index + index % 2] for index in range(len(middles))]
    assert result == [*E2M1, *even, 6.0, -6.0]


def test_all_fp4_codes_stand_for_their_values() -> None:
    from mopt.passes.language._schemes import E2M1, encode, find_grid

    values = torch.tensor([[*E2M1, *(-value for value in E2M1)] * 2])
    coded = encode(values, find_grid(values, Weights(kind="mxfp4", group_size=32)))
    assert torch.equal(coded.dequantize(), values)
    assert coded.codes[0, :8].tolist() == list(range(8))
    assert coded.codes[0, 9:16].tolist() == list(range(9, 16))
    assert coded.tensors("x")["x.scales"].tolist() == [[127]]


def test_a_row_of_zeros_has_a_scale_and_stays_zero() -> None:
    from mopt.passes.language._schemes import encode, find_grid

    for scheme, search in itertools.product(SCHEMES, (False, True)):
        weight = _weight()
        weight[0] = 0
        values = encode(weight, find_grid(weight, scheme, search=search and scheme.group_size != -1)).dequantize()
        assert torch.isfinite(values).all()
        assert not values[0].any()


@pytest.mark.parametrize("kind", ["int8", "fp8", "mxfp4", "nvfp4"])
def test_inputs_are_rounded_a_token_at_a_time(kind: str) -> None:
    from mopt.passes.language._schemes import round_inputs

    inputs = torch.stack([_weight(1, 64)[0], _weight(1, 64)[0] * 1000])[None]
    rounded = round_inputs(inputs, Activations(kind=kind), None)
    error = (rounded - inputs).norm(dim=-1) / inputs.norm(dim=-1)
    assert rounded.shape == inputs.shape
    assert (error < (0.02 if kind == "int8" else 0.2)).all()
    assert (error > 0).all()


def test_a_fixed_scale_of_inputs_cuts_what_is_larger() -> None:
    from mopt.passes.language._schemes import round_inputs

    rounded = round_inputs(torch.tensor([[1.0, 1000.0]]), Activations(kind="fp8", dynamic=False), torch.tensor([1.0]))
    assert rounded.tolist() == [[1.0, 448.0]]
