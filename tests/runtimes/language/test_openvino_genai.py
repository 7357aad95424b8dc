"""OpenVINO GenAI says what transformers says, its pipeline and the graph that is scored are one, and it tells what it runs."""

import json
import shutil

import numpy as np
import pytest

from mopt.errors import CandidateRejectedError, NotApplicableError
from mopt.model.files import Model
from mopt.model.openvino_properties import OpenvinoProperties
from mopt.passes.language.export_openvino_genai import ExportOpenvinoGenai
from mopt.runtimes.language._base import LanguageProcess
from mopt.runtimes.language.openvino_genai import OpenvinoGenai, _precision
from tests.genai import exported, lacking, transformers_says
from tests.language_models import TinyModel

MISSING = lacking("openvino_genai")
REAL = [pytest.mark.slow, pytest.mark.servers, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
TEXT = "the state of the world"
PROMPT = np.array([1, 300, 310, 320])
EXACT = OpenvinoProperties(kv_cache="f32", dynamic_group_size=0)


def test_precision_is_that_of_the_weights():
    kernels = {"FullyConnected int8 weights, x": 1, "FullyConnected int4 weights, x": 14, "MatMul fp32": 1}
    assert _precision(kernels) == "int4+int8"
    assert _precision({"FullyConnected bf16 weights, x": 1}) == "bf16"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return TinyModel().write(tmp_path_factory.mktemp("source") / "model")


@pytest.fixture(scope="module")
def model(source, tmp_path_factory):
    step = ExportOpenvinoGenai(weights="fp32", properties=EXACT)
    return exported(step, source, tmp_path_factory.mktemp("fp32") / "out")[0]


class TestReal:
    pytestmark = REAL

    def test_float32_is_transformers(self, source, model):
        windows = [np.random.default_rng(seed).integers(3, 400, size) for seed, size in enumerate((2, 60, 200))]
        said = transformers_says("openvino_genai", source, windows, PROMPT, 24, TEXT)
        with LanguageProcess(OpenvinoGenai(threads=2, context=256), model) as session:
            for window, expected, scores in zip(windows, said.logprobs, session.score(windows, 3), strict=True):
                assert scores.logprob == pytest.approx(np.array(expected), abs=1e-3)
                assert scores.top_ids.shape == (len(window) - 1, 3)
            answer = session.generate(PROMPT, 24)
            again = session.generate(PROMPT, 24)
            assert list(answer.ids) == said.answer == list(again.ids)
            assert answer.first_seconds > 0
            assert answer.rest_seconds > 0
            assert session.tokenize(TEXT) == said.tokens
            assert session.detokenize(said.tokens) == TEXT
            assert session.render([{"role": "user", "content": TEXT}]) == said.chat
            evidence = session.evidence()
        assert evidence["precision"] == "fp32"
        assert evidence["properties"]["KV_CACHE_PRECISION"] == "f32"
        assert evidence["properties"]["INFERENCE_NUM_THREADS"] == evidence["threads"] == 2
        assert evidence["vocabulary"] == 768
        assert evidence["greedy tokens that pipeline and graph share"] == "16 of 16"
        assert evidence["versions"]["openvino-genai"]

    def test_int4_executes_int4_and_its_properties_hold(self, source, tmp_path):
        step = ExportOpenvinoGenai(
            weights="int4", group_size=64, properties=OpenvinoProperties(kv_cache="u8", dynamic_group_size=0)
        )
        small, told = exported(step, source, tmp_path / "int4")
        assert set(told["parameters"]) >= {"i4", "u8"}
        with LanguageProcess(OpenvinoGenai(threads=1, context=256), small) as session:
            evidence = session.evidence()
        assert evidence["precision"] == "int4+int8"  # the head is in INT8
        assert sum(count for name, count in evidence["kernels"].items() if "int4" in name) == 14
        assert evidence["properties"]["KV_CACHE_PRECISION"] == "u8"
        assert evidence["properties"]["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == 0

    def test_an_end_token_ends_the_answer_and_is_its_last(self, model, tmp_path):
        with LanguageProcess(OpenvinoGenai(threads=1, context=256), model) as session:
            ids = session.generate(PROMPT, 12).ids
        folder = shutil.copytree(model.folder, tmp_path / "model")
        path = folder / "generation_config.json"
        settings = json.loads(path.read_text())
        path.write_text(json.dumps({**settings, "eos_token_id": [2, ids[5]]}))
        with LanguageProcess(OpenvinoGenai(threads=1, context=256), Model.at(model.format, folder)) as session:
            ended = session.generate(PROMPT, 12).ids
        assert ended == ids[: ids.index(ids[5]) + 1]

    def test_what_cannot_be_is_refused(self, model, tmp_path):
        with pytest.raises(CandidateRejectedError, match="made for 256 tokens"):
            LanguageProcess(OpenvinoGenai(threads=1, context=512), model)
        source = TinyModel(template=False).write(tmp_path / "source")
        plain, _ = exported(ExportOpenvinoGenai(weights="source"), source, tmp_path / "plain")
        with (
            LanguageProcess(OpenvinoGenai(threads=1, context=256), plain) as session,
            pytest.raises(NotApplicableError, match="no chat template"),
        ):
            session.render([{"role": "user", "content": TEXT}])
