"""``import mopt`` does what the commands do."""

import inspect
import subprocess
import sys

import pytest

import mopt
from mopt.errors import UserError
from tests.small import digits

VERBS = ("bench", "build", "drift", "explain", "gate", "inspect", "package", "push", "size", "verify", "verify_server")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def artifact(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifact")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOPT_CACHE", str(folder / "cache"))
        return mopt.build(
            model=str(small.model), data={"path": str(small.data), "label": "label"}, out=folder / "digits.mopt",
            search={"candidates": ["onnxruntime-fp32"], "max_batch": 2, "rounds": 5}, traffic={"rate": 50, "p99": "50ms"},
        )  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_offered_typed_and_documented(verb):
    function = getattr(mopt, verb)
    assert verb in dir(mopt)
    assert verb in mopt.__all__
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    named = [p for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty]
    assert not named
    assert "Raises:" in function.__doc__


def test_importing_mopt_imports_nothing_heavy():
    code = "import sys, mopt; mopt.__dir__(); print([m for m in ('numpy', 'pydantic', 'onnx', 'typer') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_name_that_is_not_there_is_no_attribute():
    with pytest.raises(AttributeError, match="biuld"):
        _ = mopt.biuld


@pytest.mark.slow
def test_the_whole_way_in_python(artifact, small, tmp_path):
    assert mopt.verify(artifact.folder).ok
    assert mopt.inspect(artifact.folder).artifact == artifact.manifest.name
    assert mopt.inspect(small.model).format == "onnx"
    verdict = mopt.gate(artifact.folder, artifact.folder, speed=False, tolerance="5pp")
    assert verdict.verdict == "pass"
    explained = mopt.explain(small.model, data={"path": str(small.data), "label": "label"}, candidate="onnxruntime-int8")
    assert explained.candidate == "onnxruntime-int8"
    assert any(layer.quantized for layer in explained.layers)
    benchmark = mopt.bench(artifact.folder, rate=200, p99="1s", duration="1s")
    assert benchmark.holds is not None
    sizing = mopt.size(artifact.folder, rate=100, p99="200ms", price=0.2)
    assert sizing.options[0].origin == "measured"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: mopt.gate(folder, folder, metrc="accuracy"), "unknown key"),
        (lambda folder: mopt.bench(folder, rate=-1), "rate"),
        (lambda folder: mopt.bench(folder, p99="soon"), "not a time"),
        (lambda folder: mopt.bench(folder, duration="1ms"), "--duration"),
        (lambda folder: mopt.size(folder), "the rate is missing"),
        (lambda folder: mopt.size(), "nothing to size"),
        (lambda folder: mopt.size(folder, rate=1, price=-1), "--price"),
        (lambda folder: mopt.explain(folder, candidate="nothing"), "nothing"),
        (lambda folder: mopt.inspect(folder / "nothing"), "not a model file"),
        (lambda folder: mopt.verify(folder / "nothing"), "not an artifact"),
    ],
)
def test_a_mistake_is_the_same_error_as_on_the_command_line(artifact, call, message):
    with pytest.raises(UserError) as caught:
        call(artifact.folder)
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("part", ["metric", "data"])
def test_code_that_an_artifact_names_is_not_run_unasked(artifact, tmp_path, part):
    """A stranger's artifact must not import what its recipe names."""
    import json
    import shutil

    folder = tmp_path / "stranger.mopt"
    shutil.copytree(artifact.folder, folder)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\ndef f(*a): pass\n")
    manifest = json.loads((folder / "manifest.json").read_text())
    evil = f"{tmp_path / 'evil.py'}:f"
    manifest["recipe"] |= {"metric": evil} if part == "metric" else {"data": {"path": evil}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for call in (lambda: mopt.gate(folder, folder, speed=False), lambda: mopt.explain(folder)):
        with pytest.raises(UserError, match="not run unasked") as caught:
            call()
        assert evil in caught.value.hint
    assert not (tmp_path / "ran").exists()
