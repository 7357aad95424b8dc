from mopt.artifacts.serving.language import _lmdeploy_weights
from mopt.artifacts.serving.language.lmdeploy import Lmdeploy
from tests.served_language import INT8, served, written


def test_its_command_line_is_told_the_packing(tmp_path):
    folder = written(Lmdeploy(), tmp_path, served(method="awq"))
    assert "api_server ../../model --model-name tiny" in (folder / "serve.sh").read_text()
    assert "--model-format awq" in (folder / "README.md").read_text()


def test_its_own_options_are_known(tmp_path):
    plain = served(method="none", scheme=None)
    (proof,) = Lmdeploy().check(tmp_path, served=plain, model_folder=tmp_path, environment=None)
    assert proof.state == "proven"


def test_weights_are_read_by_its_decoders_where_they_are_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(_lmdeploy_weights, "find_environment", lambda _: None)
    options, weights = Lmdeploy().check(tmp_path, served=served(), model_folder=tmp_path, environment=None)
    assert options.state == "proven"
    assert weights.state == "not proven"
    assert "mopt tools install lmdeploy" in weights.detail


def test_what_turbomind_does_not_load_is_refused():
    system = Lmdeploy()
    assert system.refuses(served()) == ""
    assert system.refuses(served(method="none", scheme=None)) == ""
    assert "int8/int8 of compressed-tensors" in system.refuses(served(scheme=INT8))
    assert "KV cache" in system.refuses(served(kv_cache="fp8"))
    assert "does not run Gemma2ForCausalLM" in system.refuses(served(architecture="Gemma2ForCausalLM"))
