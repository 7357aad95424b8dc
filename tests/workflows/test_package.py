import json

import numpy as np
import pytest

from mopt.artifacts.artifact import Artifact
from mopt.errors import UserError
from mopt.workflows.package import _again, package
from tests.manifests import manifest
from tests.workflows import artifacts


@pytest.fixture
def built(tmp_path):
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"))
    return tmp_path / "a"


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_files_are_added_in_place_and_belong_to_the_artifact(built):
    before = files(built)
    packaged = package(built, ["triton"])
    assert packaged.folder == built
    after = files(built)
    kept = before.keys() - {"manifest.json", "monitoring/README.md"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert {"serving/triton/double/config.pbtxt", "monitoring/triton/rules.yml"} <= after.keys()
    assert Artifact.open(built).manifest.recipe["serve"] == ["triton"]
    assert package(built, ["triton@26.07"]).manifest.recipe["serve"] == ["triton@26.07"]
    assert Artifact.open(built).problems() == []


def test_or_in_another_folder(built, tmp_path):
    before = files(built)
    package(built, ["triton"], out=tmp_path / "b")
    assert files(built) == before
    assert (tmp_path / "b" / "serving" / "triton").is_dir()
    with pytest.raises(UserError, match="exists already"):
        package(built, ["triton"], out=tmp_path / "b")
    package(built, ["triton"], out=tmp_path / "b", force=True)


def test_mistakes_change_nothing(built):
    before = files(built)
    for serve, words in (([], "no serving system is named"), (["trion"], "unknown serving system: trion")):
        with pytest.raises(UserError, match=words):
            package(built, serve)
    (built / "model" / "model.onnx").write_bytes(b"other")
    with pytest.raises(UserError, match="is not what was built"):
        package(built, ["triton"])
    assert {**files(built), "model/model.onnx": before["model/model.onnx"]} == before


OPENVINO = {"runtime": "openvino", "runtime_fields": {"threads": 1, "precision": "default", "shapes": "dynamic"}}


def judged_in_fp32(folder, source, isa=("avx2", "avx512_bf16")):
    machine = manifest().machine.model_copy(update={"isa": isa})
    artifacts.write(
        folder, source, runtime="openvino", runtime_fields={"threads": 1, "precision": "f32", "shapes": "dynamic"},
        machine=machine, format="onnx", target={"name": "cpu", "isa": list(isa)},
    )  # fmt: skip


def test_what_a_system_would_serve_otherwise_is_refused_with_the_way_out(tmp_path):
    judged_in_fp32(tmp_path / "a", artifacts.doubling(tmp_path / "model"))
    before = files(tmp_path / "a")
    with pytest.raises(UserError, match="triton would serve something else than what was judged: triton cannot set precision"):
        package(tmp_path / "a", ["triton"])
    assert files(tmp_path / "a") == before


@pytest.mark.parametrize("judge_again", [False, True])
def test_a_system_that_does_not_run_the_runtime_needs_another_build(tmp_path, judge_again):
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"))
    with pytest.raises(UserError, match="tf_serving does not serve onnxruntime, which runs") as caught:
        package(tmp_path / "a", ["tf_serving"], judge_again=judge_again)
    assert caught.value.hint == "mopt build with --serve tf_serving searches among what it serves"


@pytest.mark.slow
def test_or_it_is_judged_again_as_it_is_served(tmp_path, monkeypatch):
    monkeypatch.setenv("MOPT_CACHE", str(tmp_path / "cache"))
    model = artifacts.doubling(tmp_path / "model")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "double.npz", x=rng.standard_normal((64, 2), np.float32))
    judged_in_fp32(tmp_path / "a", model)
    record = json.loads((tmp_path / "a" / "manifest.json").read_text())
    record["recipe"] |= {
        "model": str(model.file), "data": {"path": str(tmp_path / "double.npz")}, "serve": [], "metric": "fidelity",
        "search": {"effort": "quick", "candidates": ["openvino-int8"]},
    }  # fmt: skip
    record["chosen"] = record["trials"][0]["name"]
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(record))
    again = package(tmp_path / "a", ["triton"], judge_again=True, out=tmp_path / "b")
    assert again.manifest.recipe["serve"] == ["triton"]
    assert (tmp_path / "b" / "serving" / "triton" / "double" / "config.pbtxt").is_file()
    assert again.manifest.machine.isa != ("avx2", "avx512_bf16")  # measured here


def test_a_mixed_variant_is_looked_for_where_it_came_from():
    winner = manifest().winner
    recipe = {"model": "m.onnx", "data": {"path": "a.npz"}, "serve": ["triton"]}
    for name, candidates in (("openvino-int8-mixed3-static", ("openvino-int8",)), ("openvino-int8", ("openvino-int8",))):
        trials = (manifest().reference, winner.model_copy(update={"name": name}))
        again = _again(manifest(recipe=recipe, chosen=name, trials=trials), ["bentoml"])
        assert again.search.candidates == candidates
        assert again.serve == ("triton", "bentoml")


def test_batches_that_a_system_does_not_make_are_not_promised(tmp_path):
    ragged = artifacts.signature().model_copy(
        update={"inputs": (artifacts.signature().inputs[0].model_copy(update={"shape": ("batch", "length")}),)}
    )
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"), signature=ragged, **OPENVINO)
    with pytest.raises(UserError, match="chosen for a server that puts requests together, and here the openvino backend pads"):
        package(tmp_path / "a", ["triton"])
