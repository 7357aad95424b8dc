import json
import re

import pytest

from mopt.recipe import load_recipe, make_recipe
from tests.cli.running import run


@pytest.mark.slow
def test_init_writes_a_recipe_that_build_takes(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "mopt build" in run("init", small.model, "--data", small.data).output
    text = (tmp_path / "mopt.toml").read_text()
    assert "# input  pixels: float32[batch, 64]" in text
    recipe = make_recipe(load_recipe(tmp_path / "mopt.toml"))
    assert recipe.data.path == str(small.data)
    assert recipe.data.calibration == 128


def test_init_does_not_overwrite(small, tmp_path, monkeypatch):
    from mopt.errors import UserError

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mopt.toml").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        run("init", small.model)
    assert (tmp_path / "mopt.toml").read_text() == "mine"


def test_the_schema_knows_every_key():
    schema = json.loads(run("init", "--schema").output)
    assert {"model", "data", "tolerance", "traffic", "search"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_a_recipe_has_what_the_model_brings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mood"
    folder.mkdir()
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "bad", "1": "good"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 9}, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    run("init", "mood", "--data", "reviews.jsonl")
    data = make_recipe(load_recipe(tmp_path / "mopt.toml")).data
    assert data.classes == ("bad", "good")
    assert (data.text.tokenizer, data.text.max_length, data.text.padding) == ("mood/tokenizer.json", 512, "longest")
    assert data.image.resize == (8, 9)
    assert run("check", "mopt.toml").exit_code == 0


@pytest.mark.slow
def test_a_model_that_cannot_be_read_gets_a_recipe_that_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.pkl").write_bytes(b"no pickle")
    run("init", "m.pkl")
    assert "# what the model brings could not be read: m.pkl is a pickle" in (tmp_path / "mopt.toml").read_text()
    assert make_recipe(load_recipe(tmp_path / "mopt.toml")).model == "m.pkl"


def test_the_recipe_of_init_passes_the_check(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("init", small.model, "--data", small.data)
    assert run("check", "mopt.toml").exit_code == 0
    everything = (tmp_path / "mopt.toml").read_text().replace("\n# [", "\n[")
    (tmp_path / "mopt.toml").write_text(re.sub(r"^# (?=\w+ = )", "", everything, flags=re.MULTILINE))
    assert run("check", "mopt.toml").exit_code == 0
