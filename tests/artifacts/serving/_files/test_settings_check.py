"""The check of settings with a server's own types, on types of our own."""

import json

import pydantic
import pytest

from mopt.artifacts.serving._files.settings_check import checked, main


class Inner(pydantic.BaseModel):
    size: int = 1


class Outer(pydantic.BaseModel):
    name: str
    parts: list[Inner] = []
    free: dict[str, int] = {}


@pytest.mark.parametrize(
    ("content", "mistakes"),
    [
        ({"name": "a", "parts": [{"size": 2}], "free": {"any": 1}}, []),
        ({"name": "a", "nmae": "b"}, ["file.nmae is known to nobody"]),
        ({"name": "a", "parts": [{"size": 2}, {"sizes": 3}]}, ["file.parts[1].sizes is known to nobody"]),
    ],
)
def test_what_a_type_would_ignore_is_a_mistake(content, mistakes):
    assert checked(Outer, content, "file") == mistakes


def test_a_wrong_value_is_a_mistake_in_one_line():
    (mistake,) = checked(Outer, {"name": "a", "parts": [{"size": "large"}]}, "file")
    assert mistake.startswith("file: 1 validation error for Outer parts.0.size")


def test_files_of_both_kinds_are_read(tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps({"name": "a", "other": 1}))
    (tmp_path / "b.yaml").write_text("name: b\nanother: 2\n")
    kind = "mopt.model.signature:TensorSpec"
    main([kind, str(tmp_path / "a.json"), kind, str(tmp_path / "b.yaml")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["a.json", "b.yaml"]
