import pytest

from mopt.artifacts.serving.language.sglang import Sglang
from tests.served_language import INT8_ALONE, served, written

yaml = pytest.importorskip("yaml")


def test_options_name_the_model_and_its_context(tmp_path):
    folder = written(Sglang(), tmp_path, served(kv_cache="fp8"))
    options = yaml.safe_load((folder / "sglang.yaml").read_text())
    assert options == {
        "model-path": "../../model", "served-model-name": "tiny", "context-length": 128, "port": 30000,
        "kv-cache-dtype": "fp8_e4m3",
    }  # fmt: skip
    assert "--context-length 128" in (folder / "README.md").read_text()


def test_its_own_options_are_known(tmp_path):
    system = Sglang()
    model = served(kv_cache="fp8")
    (proof,) = system.check(tmp_path, served=model, model_folder=tmp_path, environment=None)
    assert proof.state == "proven"


def test_what_cannot_be_judged_in_vllm_is_refused():
    assert "no kernel for int8" in Sglang().refuses(served(scheme=INT8_ALONE))
    assert Sglang().refuses(served()) == ""
