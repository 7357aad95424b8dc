"""ONNX Runtime GenAI says what transformers says, and tells what it executes."""

import json
import shutil

import numpy as np
import pytest

from mopt.errors import CandidateRejectedError, NotApplicableError
from mopt.model.files import Model
from mopt.passes.language.export_onnxruntime_genai import ExportOnnxruntimeGenai
from mopt.runtimes.language._base import LanguageProcess
from mopt.runtimes.language.onnxruntime_genai import OnnxruntimeGenai, _kernels, _precision
from tests.genai import exported, lacking, transformers_says
from tests.language_models import TinyModel

MISSING = lacking("onnxruntime_genai")
REAL = [pytest.mark.slow, pytest.mark.servers, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
TEXT = "the state of the world"
PROMPT = np.array([1, 300, 310, 320])


class _Field:
    def __init__(self, name, i):
        self.name, self.i = name, i


class _Node:
    def __init__(self, op_type, **fields):
        self.op_type, self.attribute = op_type, [_Field(*item) for item in fields.items()]


def test_kernels_are_told_by_bits_and_activations():
    nodes = [
        _Node("MatMulNBits", bits=4, block_size=32, accuracy_level=4),
        _Node("MatMulNBits", bits=8, block_size=64),
        _Node("MatMul"),
        _Node("Add"),
        _Node("GroupQueryAttention"),
    ]
    kernels = list(_kernels(nodes))
    assert kernels == [
        "MatMulNBits int4 in blocks of 32, activations int8",
        "MatMulNBits int8 in blocks of 64, activations float32",
        "MatMul float32",
        "GroupQueryAttention",
    ]
    assert _precision(dict.fromkeys(kernels, 1)) == "int4+int8+fp32"
    assert _precision({"MatMul float32": 3}) == "fp32"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return TinyModel(groups=1, layers=2).write(tmp_path_factory.mktemp("source") / "model")


@pytest.fixture(scope="module")
def model(source, tmp_path_factory):
    return exported(ExportOnnxruntimeGenai(weights="fp32"), source, tmp_path_factory.mktemp("fp32") / "out")[0]


class TestReal:
    pytestmark = REAL

    def test_float32_is_transformers(self, source, model):
        windows = [np.random.default_rng(seed).integers(3, 400, size) for seed, size in enumerate((2, 60, 200))]
        said = transformers_says("onnxruntime_genai", source, windows, PROMPT, 24, TEXT)
        with LanguageProcess(OnnxruntimeGenai(threads=2, context=256), model) as session:
            for window, expected, scores in zip(windows, said.logprobs, session.score(windows, 3), strict=True):
                assert scores.logprob == pytest.approx(np.array(expected), abs=1e-3)
                assert scores.top_ids.shape == (len(window) - 1, 3)
            answer = session.generate(PROMPT, 24)
            again = session.generate(PROMPT, 24)
            assert list(answer.ids) == said.answer == list(again.ids)
            assert answer.first_seconds > 0
            assert answer.rest_seconds > 0
            assert session.tokenize(TEXT) == said.tokens
            assert said.tokens[0] == 1
            assert session.detokenize(said.tokens) == TEXT
            assert session.render([{"role": "user", "content": TEXT}]) == said.chat
            evidence = session.evidence()
        assert evidence["precision"] == "fp32"
        assert evidence["threads"] == 2
        assert evidence["vocabulary"] == 768
        assert evidence["versions"]["onnxruntime-genai"]

    def test_int4_executes_int4(self, source, tmp_path):
        step = ExportOnnxruntimeGenai(weights="int4", accuracy_level=4)
        small, _ = exported(step, source, tmp_path / "int4")
        with LanguageProcess(OnnxruntimeGenai(threads=1, context=256), small) as session:
            evidence = session.evidence()
        assert evidence["precision"] == "int4"
        assert evidence["kernels"]["MatMulNBits int4 in blocks of 32, activations int8"] == 11
        assert evidence["seen in"] == "optimized graph"

    def test_an_end_token_ends_the_answer_and_is_its_last(self, model, tmp_path):
        with LanguageProcess(OnnxruntimeGenai(threads=1, context=256), model) as session:
            ids = session.generate(PROMPT, 12).ids
        folder = shutil.copytree(model.folder, tmp_path / "model")
        path = folder / "genai_config.json"
        settings = json.loads(path.read_text())
        settings["model"]["eos_token_id"] = [2, ids[5]]
        path.write_text(json.dumps(settings))
        with LanguageProcess(OnnxruntimeGenai(threads=1, context=256), Model.at(model.format, folder)) as session:
            ended = session.generate(PROMPT, 12).ids
        assert ended == ids[: ids.index(ids[5]) + 1]

    def test_what_cannot_be_is_refused(self, model, tmp_path):
        with pytest.raises(CandidateRejectedError, match="made for 256 tokens"):
            LanguageProcess(OnnxruntimeGenai(threads=1, context=512), model)
        source = TinyModel(template=False).write(tmp_path / "source")
        plain, _ = exported(ExportOnnxruntimeGenai(weights="fp32"), source, tmp_path / "plain")
        with (
            LanguageProcess(OnnxruntimeGenai(threads=1, context=256), plain) as session,
            pytest.raises(NotApplicableError, match="no chat template"),
        ):
            session.render([{"role": "user", "content": TEXT}])
