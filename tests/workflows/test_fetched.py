import json

import pytest

from mopt.datasets.spec import DataSpec, TextSpec
from mopt.recipe import make_recipe
from mopt.workflows import build, gate
from mopt.workflows._fetched import fetched_data, fetched_recipe
from tests import stores
from tests.small import digits


def test_everything_of_a_recipe_that_has_a_url_is_here_and_the_rest_stays():
    recipe = make_recipe(
        {
            "model": "file:///m/a.onnx", "data": {"path": "file:///d/a.npz", "calibration": 7}, "labels": "file:///l.csv",
            "metric": "f1",
        }
    )  # fmt: skip
    local = fetched_recipe(recipe)
    assert (local.model, local.data.path, local.labels) == ("/m/a.onnx", "/d/a.npz", "/l.csv")
    assert (local.name, local.metric, local.data.calibration) == ("a", "f1", 7)
    assert recipe.model == "file:///m/a.onnx", "what is recorded"


def test_a_tokenizer_is_fetched_with_the_samples():
    spec = fetched_data(DataSpec(path="x.csv", text=TextSpec(tokenizer="file:///t/tokenizer.json")))
    assert (spec.path, spec.text.tokenizer) == ("x.csv", "/t/tokenizer.json")
    assert fetched_data(DataSpec(path="random")) == DataSpec(path="random")


@pytest.mark.slow
def test_a_build_and_a_gate_from_an_object_store_name_urls_and_no_place_in_the_cache(tmp_path, monkeypatch):
    small = digits(tmp_path, 200)
    with stores.s3() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        from mopt.storage.s3 import S3

        files = S3("s3://bucket/x").filesystem()
        files.makedirs("bucket", exist_ok=True)  # moto's buckets are those of this process
        for path in (small.model, small.data):
            files.put_file(str(path), f"bucket/in/{path.name}")
        model, data = "s3://bucket/in/digits.onnx", "s3://bucket/in/digits.npz"
        search = {"effort": "quick", "candidates": ["onnxruntime-int8-dynamic"], "max_batch": 2}
        recipe = make_recipe({"model": model, "data": data, "serve": [], "search": search})
        artifact = build.build(recipe, out=tmp_path / "digits.mopt")
        manifest = artifact.manifest
        assert (manifest.name, manifest.source.source, manifest.data["source"]) == ("digits", model, data)
        assert (manifest.recipe["model"], manifest.recipe["data"]["path"]) == (model, data)
        verdict = gate.run_gate(str(artifact.folder), model, recipe, speed=False)
        assert verdict.verdict != "fail"
        assert (verdict.data, verdict.baseline.source) == (data, model)
        text = stores.everything_below(artifact.folder) + json.dumps(verdict.model_dump(mode="json"))
    assert str(tmp_path / "cache") not in text
    assert stores.SECRET not in text
