from mopt.artifacts.serving.language.tgi import Tgi
from tests.served_language import served, written


def test_the_launcher_is_told_the_packing_and_the_context(tmp_path):
    folder = written(Tgi(), tmp_path, served(method="awq"))
    command = "--model-id ../../model --max-total-tokens 128 --max-input-tokens 127 --port 8080 --quantize awq"
    assert command in (folder / "launch.sh").read_text()
    readme = (folder / "README.md").read_text()
    assert command in readme
    assert "archived" in readme


def test_its_own_options_are_known(tmp_path):
    model = served(kv_cache="fp8")
    (proof,) = Tgi().check(tmp_path, served=model, model_folder=tmp_path, environment=None)
    assert proof.state == "proven"
    assert "kv-cache-dtype" in proof.detail


def test_it_is_said_that_nobody_looks_after_it():
    assert "archived" in Tgi.unmaintained


def test_an_architecture_that_it_does_not_know_is_refused():
    assert "does not run Qwen3MoeForCausalLM" in Tgi().refuses(served(architecture="Qwen3MoeForCausalLM"))
