import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopt.system.digests import ContentAddressed, describe_fields, digest, file_digest, folder_digest, versions

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=15)
@given(st.dictionaries(st.text(), JSON))
def test_the_order_of_keys_and_a_way_through_json_change_nothing(value):
    backwards = dict(reversed(value.items()))
    assert digest(value) == digest(backwards) == digest(json.loads(json.dumps(value)))


@settings(max_examples=15)
@given(st.lists(JSON), st.lists(JSON))
def test_other_values_have_other_digests(left, right):
    assert (digest(left) == digest(right)) == (json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True))


def test_what_json_cannot_say_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        digest([float("nan")])
    with pytest.raises(TypeError):
        digest([Path()])


def test_a_file_is_known_by_its_bytes(tmp_path):
    (tmp_path / "empty").touch()
    assert file_digest(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("change", ["content", "name", "depth", "more"])
def test_a_folder_is_known_by_names_and_contents_and_not_by_its_place(tmp_path, change):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "f").write_text("x")
        (folder / "g").write_text("y")
    assert folder_digest(folders[0]) == folder_digest(folders[1])
    match change:
        case "content":
            (folders[1] / "g").write_text("z")
        case "name":
            (folders[1] / "g").rename(folders[1] / "h")
        case "depth":
            (folders[1] / "g").rename(folders[1] / "deep" / "g")
        case "more":
            (folders[1] / "h").touch()
    assert folder_digest(folders[0]) != folder_digest(folders[1])
    if change == "more":
        assert folder_digest(folders[0]) == folder_digest(folders[1], skip=["h"])


@dataclasses.dataclass(frozen=True)
class Named:
    digest: str


@dataclasses.dataclass(frozen=True)
class Step:
    model: Named
    sizes: tuple[int, ...] = (1, 2)
    inner: object = None


def test_fields_are_json_and_content_is_named_by_its_digest():
    described = describe_fields(Step(Named("abc"), inner=[Named("d"), Step(Named("e"))]))
    assert isinstance(Named("abc"), ContentAddressed)
    assert described == {
        "model": "abc",
        "sizes": [1, 2],
        "inner": ["d", {"model": "e", "sizes": [1, 2], "inner": None}],
    }


def test_a_library_that_is_missing_has_no_version():
    assert versions(["pytest", "no-such-library"]) == {"pytest": pytest.__version__, "no-such-library": ""}
