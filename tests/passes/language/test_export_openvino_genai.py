"""What NNCF is asked for is what the graph holds, and what cannot be is refused before anything is traced."""

import numpy as np
import pytest

from mopt.errors import NotApplicableError, UserError
from mopt.model.files import Model
from mopt.model.openvino_properties import FILE_NAME, OpenvinoProperties
from mopt.model.quantization import Weights
from mopt.model.tokens import write_windows
from mopt.passes.language.export_gptq import ExportGPTQ
from mopt.passes.language.export_openvino_genai import ExportOpenvinoGenai
from tests.genai import exported, lacking
from tests.language_models import TinyModel
from tests.passes.language.neutral import quantize

MISSING = lacking("openvino_genai")
REAL = [pytest.mark.slow, pytest.mark.servers, pytest.mark.skipif(bool(MISSING), reason=MISSING)]


@pytest.mark.parametrize("fields", [{"scale_estimation": True}, {"gptq": True}, {"ratio": 1.5}, {"group_size": 0}])
def test_what_makes_no_sense_is_refused(fields):
    with pytest.raises(UserError):
        ExportOpenvinoGenai(**fields)


def test_a_quantized_checkpoint_is_not_for_it(tmp_path):
    source = TinyModel().write(tmp_path / "source")
    neutral = quantize(source, tmp_path / "neutral", Weights(bits=4, group_size=32))
    (tmp_path / "gptq").mkdir()
    ExportGPTQ().apply(Model.at("quantized", neutral), tmp_path / "gptq")
    (tmp_path / "out").mkdir()
    with pytest.raises(NotApplicableError, match="quantized already"):
        ExportOpenvinoGenai().apply(Model.at("huggingface", tmp_path / "gptq"), tmp_path / "out")


def test_windows_are_named_by_their_content(tmp_path):
    windows = np.arange(64, dtype=np.int32).reshape(2, 32)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    keys = [
        ExportOpenvinoGenai(windows=write_windows(tmp_path / name, windows + shift)).key()["fields"]["windows"]
        for name, shift in (("a", 0), ("b", 1))
    ]
    assert keys[0] != keys[1]


class TestReal:
    pytestmark = REAL

    def test_each_kind_of_weights_is_held(self, tmp_path):
        tiny = TinyModel()
        source = tiny.write(tmp_path / "source")
        embeddings = 768 * 128
        linear = sum(int(np.prod(shape)) for name, shape in tiny.shapes().items() if "_proj." in name)
        properties = OpenvinoProperties(kv_cache="u8")
        (tmp_path / "windows").mkdir()
        text = np.random.default_rng(0).integers(3, 400, (8, 32)).astype(np.int32)
        windows = write_windows(tmp_path / "windows", text)
        steps = {
            "int8": ExportOpenvinoGenai(weights="int8", properties=properties),
            "all": ExportOpenvinoGenai(weights="int4", group_size=64, all_layers=True),
            "aware": ExportOpenvinoGenai(
                weights="int4", group_size=32, symmetric=False, ratio=0.7, awq=True, scale_estimation=True, windows=windows
            ),
        }
        held, sizes = {}, {}
        for name, step in steps.items():
            model, told = exported(step, source, tmp_path / name)
            held[name], sizes[name] = told["parameters"], model.size
            for file in ("openvino_tokenizer.xml", "openvino_detokenizer.xml", "config.json", "LICENSE", FILE_NAME):
                assert (model.folder / file).is_file()
            assert not (model.folder.parent / "traced").exists()
        assert held["int8"]["i8"] == linear + 2 * embeddings
        assert held["all"]["i4"] == linear + 2 * embeddings
        assert 0.5 * linear < held["aware"]["u4"] < 0.8 * linear
        assert held["aware"]["u4"] + held["aware"]["u8"] == linear + 2 * embeddings
        assert sizes["all"] < sizes["int8"]
        assert OpenvinoProperties.read(tmp_path / "int8" / "model") == properties

    def test_an_unknown_architecture_is_not_for_it(self, tmp_path):
        source = TinyModel(architecture="MinistralForCausalLM").write(tmp_path / "source")
        with pytest.raises(NotApplicableError, match="no export of MinistralForCausalLM"):
            exported(ExportOpenvinoGenai(weights="source"), source, tmp_path / "out")
