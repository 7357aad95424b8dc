import pytest

from mopt.records.engine import EngineLayer, left_in_float


def layer(name="conv", kind="correlation", inputs=("Int8",), constants=("Int8", "Float"), **changes):
    return EngineLayer(name=name, kind=kind, inputs=inputs, constants=constants, outputs=("Half",), **changes)


@pytest.mark.parametrize(
    ("inputs", "constants", "arithmetic", "narrow"),
    [
        (("Int8",), ("Int8", "Float"), "Int8", True),
        (("Half",), ("Half",), "Half", False),
        (("Half",), ("Int4", "Half"), "Half x Int4", True),
        (("Float", "FP8"), (), "FP8", True),
        (("BF16",), ("Float",), "BF16", False),
        ((), (), "", False),
    ],
)
def test_what_is_multiplied(inputs, constants, arithmetic, narrow):
    made = layer(inputs=inputs, constants=constants)
    assert (made.arithmetic, made.narrow) == (arithmetic, narrow)


@pytest.mark.parametrize(
    ("name", "kind", "computes"),
    [
        ("a", "CaskConvolution", True),
        ("a", "kgen", False),
        ("__myl_MulAddFc_myl0_3", "runtime_fusion", True),
        ("__myl_MulCast_myl0_3", "kgen", False),
        ("xx_mha_v2", "kgen", True),
    ],
)
def test_what_is_a_product_alone_or_fused(name, kind, computes):
    assert layer(name, kind).computes == computes


def test_what_was_quantized_and_runs_in_float_is_named_with_its_neighbours():
    layers = [
        layer("first", "kgen"),
        layer("float", inputs=("Half",), constants=("Half",), nodes=("Conv_1",)),
        layer("meant", inputs=("Half",), constants=("Half",), nodes=("Conv_2",)),
        layer("good", nodes=("Conv_3",)),
    ]
    assert left_in_float(layers, {"Conv_1", "Conv_3"}) == [
        {"layer": "float", "arithmetic": "Half", "after": "first", "before": "meant"}
    ]
