import dataclasses
import json

import pytest

from mopt.model.quantization import FILE_NAME, Activations, LayerQuantization, Quantization, Weights


def _layer(**fields):
    return LayerQuantization(weights=Weights(**fields), error=0.1, inputs=256, outputs=128)


@pytest.mark.parametrize(
    ("weights", "inputs", "expected"),
    [
        (Weights(bits=4, group_size=128), 4096, 4.125),
        (Weights(bits=4, group_size=128, symmetric=False), 4096, 4.15625),
        (Weights(bits=4, group_size=32), 4096, 4.5),
        (Weights(bits=8, group_size=0), 4096, 8 + 16 / 4096),
        (Weights(bits=8, group_size=-1), 4096, 8 + 16 / 4096),
        (Weights(kind="mxfp4", group_size=32), 4096, 4.25),
        (Weights(kind="nvfp4", group_size=16), 4096, 4.5),
        (Weights(kind="fp8", bits=8, group_size=0), 1024, 8 + 16 / 1024),
    ],
)
def test_bits_a_weight_count_scales_and_zero_points(weights, inputs, expected):
    assert weights.bits_per_weight(inputs) == expected


def test_what_is_written_is_read_again(tmp_path):
    written = Quantization(
        algorithm="gptq",
        layers={
            "model.layers.0.mlp.up_proj": _layer(bits=4),
            "model.layers.0.mlp.down_proj": dataclasses.replace(_layer(bits=8), activations=Activations(kind="int8")),
        },
        left={"lm_head": "the output layer"},
        tensors={"model.layers.0.mlp.up_proj.codes": "block-00000.safetensors"},
        kv_cache="fp8",
        calibration_tokens=4096,
    )
    written.write(tmp_path)
    assert Quantization.read(tmp_path) == written
    assert json.loads((tmp_path / FILE_NAME).read_text())["algorithm"] == "gptq"


def test_what_has_no_such_field_is_not_read(tmp_path):
    Quantization(algorithm="rtn", layers={"a": _layer()}, left={}, tensors={}).write(tmp_path)
    data = json.loads((tmp_path / FILE_NAME).read_text())
    data["layers"]["a"]["weights"]["colour"] = "red"
    (tmp_path / FILE_NAME).write_text(json.dumps(data))
    with pytest.raises(TypeError, match="colour"):
        Quantization.read(tmp_path)


@pytest.mark.parametrize(
    ("layers", "uniform"),
    [
        ({"a": _layer(), "b": dataclasses.replace(_layer(), error=0.3, inputs=512)}, LayerQuantization(weights=Weights())),
        ({"a": _layer(), "b": _layer(bits=8)}, None),
        ({"a": _layer(), "b": dataclasses.replace(_layer(), activations=Activations(kind="fp8"))}, None),
        ({}, None),
    ],
    ids=["same", "mixed-bits", "mixed-activations", "nothing"],
)
def test_layers_that_share_a_scheme_are_uniform(layers, uniform):
    assert Quantization(algorithm="rtn", layers=layers, left={}, tensors={}).uniform == uniform
