import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from mopt.errors import CandidateRejectedError, NotApplicableError
from mopt.model.packed import QuantizedFolder, open_quantized
from mopt.model.quantization import Activations, Weights
from mopt.model.tensors import PlannedTensor
from mopt.model.weight_checks import compare
from mopt.passes.language.export_compressed_tensors import ExportCompressedTensors, validate
from mopt.system.environments import find_environment, interpreter_of
from mopt.system.process import run
from tests.passes.language import exports, neutral

LAYER = "model.layers.0.self_attn.q_proj"
needs_environment = pytest.mark.skipif(find_environment("llm_compressor") is None, reason="mopt tools install llm_compressor")


def _planned(folder: Path) -> dict[str, Any]:
    """The tensors of one layer without the environment, which only reads the configuration."""
    step, quantized = ExportCompressedTensors(), open_quantized(folder)
    step.check(quantized)
    kept = {tensor.name: tensor for tensor in step._tensors(quantized, "BF16") if tensor.name.startswith(LAYER)}
    return {name.removeprefix(f"{LAYER}."): (tensor.dtype, _array(tensor)) for name, tensor in kept.items()}


def _array(tensor: PlannedTensor) -> Any:
    array = np.concatenate([np.atleast_1d(part) for part in tensor.parts()])
    assert array.shape == (tensor.shape or (1,))
    return array


def test_codes_go_along_the_inputs_with_8_added_and_zero_points_along_the_outputs(tmp_path: Path) -> None:
    tensors = _planned(exports.counting(tmp_path, Weights(group_size=64, symmetric=False)))
    assert {name: (kind, array.shape) for name, (kind, array) in tensors.items()} == {
        "weight_packed": ("I32", (128, 16)),
        "weight_scale": ("BF16", (128, 2)),
        "weight_zero_point": ("I32", (16, 2)),
        "weight_shape": ("I64", (2,)),
    }
    assert tensors["weight_packed"][1].view(np.uint32)[5, :3].tolist() == [0x76543210, 0xFEDCBA98, 0x76543210]
    assert tensors["weight_zero_point"][1].view(np.uint32)[0].tolist() == [0x87654321] * 2
    assert tensors["weight_shape"][1].tolist() == [128, 128]


def test_signed_codes_are_packed_with_the_middle_added(tmp_path: Path) -> None:
    tensors = _planned(exports.counting(tmp_path, Weights(group_size=64)))
    assert tensors["weight_packed"][1].view(np.uint32)[0, :2].tolist() == [0x76543210, 0xFEDCBA98]
    assert "weight_zero_point" not in tensors


def test_nvfp4_has_inverse_global_scales_and_the_first_input_below(tmp_path: Path) -> None:
    source = neutral.checkpoint(tmp_path / "source", blocks=1)
    options = neutral.SCHEMES["nvfp4"]
    folder = neutral.quantize(source, tmp_path / "neutral", **options)
    tensors = _planned(folder)
    assert {name: (kind, array.shape) for name, (kind, array) in tensors.items()} == {
        "weight_packed": ("U8", (128, 64)),
        "weight_scale": ("F8_E4M3", (128, 8)),
        "weight_global_scale": ("F32", (1,)),
        "input_global_scale": ("F32", (1,)),
    }
    assert tensors["input_global_scale"][1][0] == 32.0
    assert tensors["weight_global_scale"][1][0] == pytest.approx(448 * 6 / 2)


@pytest.mark.parametrize(
    ("weights", "activations", "reason"),
    [
        (Weights(symmetric=False), Activations(kind="int8"), "integers with zero points go with inputs that are not rounded"),
        (Weights(kind="fp8", bits=8, group_size=0), Activations(kind="int8"), "fp8 weights with int8 inputs have no scheme"),
    ],
)
def test_what_has_no_scheme_is_refused(weights: Weights, activations: Activations, reason: str, tmp_path: Path) -> None:
    source = neutral.checkpoint(tmp_path / "source", blocks=1)
    folder = neutral.quantize(source, tmp_path / "neutral", weights, activations)
    with pytest.raises(NotApplicableError, match=reason):
        _planned(folder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Unread(ExportCompressedTensors):
    """Without the environment: the library does not read the configuration."""

    tools: ClassVar[str] = ""

    def settings(self, quantized: QuantizedFolder) -> dict[str, Any]:
        return self.described(quantized)


FORMATS = {
    "w4a16": "pack-quantized",
    "w4a16-g32": "pack-quantized",
    "w4a16-asymmetric": "pack-quantized",
    "w8a16": "pack-quantized",
    "w8a16-g64": "pack-quantized",
    "w8a8": "int-quantized",
    "fp8-dynamic": "float-quantized",
    "fp8-static": "float-quantized",
    "nvfp4a16": "nvfp4-pack-quantized",
    "nvfp4": "nvfp4-pack-quantized",
    "mxfp4a16": "mxfp4-pack-quantized",
    "mxfp4a8": "mxfp4-pack-quantized",
    "mixed": "pack-quantized",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every scheme, each already equal to the neutral form and near the source."""
    return exports.agreeing(_Unread(), tmp_path_factory.mktemp("folders"))


def _settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return settings


@pytest.mark.slow
def test_every_scheme_comes_back(folders: dict[str, Path]) -> None:
    assert folders.keys() == neutral.SCHEMES.keys()
    settings = {name: _settings(folder) for name, folder in folders.items()}
    assert {name: kept["format"] for name, kept in settings.items()} == FORMATS
    assert len(settings["mixed"]["config_groups"]) == 2
    assert settings["mixed"]["config_groups"]["group_1"]["targets"] == ["model.layers.0.mlp.down_proj"]
    assert settings["w8a8"]["ignore"] == ["lm_head"]
    assert settings["w8a8"]["kv_cache_scheme"]["type"] == "float"
    assert settings["nvfp4"]["config_groups"]["group_0"]["input_activations"]["dynamic"] == "local"


@needs_environment
@pytest.mark.slow
@pytest.mark.servers
def test_the_library_reads_every_configuration(folders: dict[str, Path]) -> None:
    run(validate, [_settings(folder) for folder in folders.values()], python=interpreter_of("llm_compressor"))


@needs_environment
@pytest.mark.slow
@pytest.mark.servers
def test_a_configuration_that_the_library_does_not_know_ends_the_pass(tmp_path: Path) -> None:
    source = neutral.checkpoint(tmp_path / "source", blocks=1)
    quantized = neutral.quantize(source, tmp_path / "neutral", **neutral.SCHEMES["mixed"])
    folder = exports.export(ExportCompressedTensors(), quantized, tmp_path / "out")
    assert compare(quantized, folder) == []
    broken = _settings(folder) | {"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"strategy": "rows"}}}}
    with pytest.raises(CandidateRejectedError, match="rows"):
        run(validate, [broken], python=interpreter_of("llm_compressor"))
