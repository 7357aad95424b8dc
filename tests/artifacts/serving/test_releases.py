import re

import onnx
import pytest
from onnx import TensorProto, helper

from mopt.artifacts.serving._base import make_system
from mopt.artifacts.serving._releases import find_release, fitting_release, known_releases, release_warnings
from mopt.artifacts.serving.tf_serving import TfServing
from mopt.artifacts.serving.triton import Triton
from mopt.errors import NotApplicableError, UserError
from mopt.system import plugins
from tests.manifests import manifest

SYSTEMS = ("triton", "openvino_model_server", "tf_serving", "kserve")


def onnx_model(folder, opset=17, ir=8, ml=0):
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid("ai.onnx.ml", ml)] if ml else [])]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = ir
    onnx.save(model, folder / "model.onnx")
    return folder


def built(**changes):
    return manifest(versions={"onnxruntime": "1.32.0", "openvino": "2026.4.1"}, **changes)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_table_is_in_order_and_every_release_has_versions(system):
    releases = known_releases(system)
    assert len(releases) > 5
    assert len({release.name for release in releases}) == len(releases)
    assert all(release.versions and all(release.versions.values()) for release in releases)


def test_releases_go_by_number_and_not_by_letters():
    assert [release.name for release in known_releases("tf_serving")][:3] == ["2.6.2", "2.13.0", "2.13.1"]


@pytest.mark.parametrize("name", ["26.7", "27.01", "latest"])
def test_an_unknown_release_is_a_mistake_with_a_hint(name):
    with pytest.raises(UserError, match=f"unknown release of triton: {name}") as caught:
        make_system(f"triton@{name}")
    assert "26.0" in caught.value.hint


def test_a_system_without_releases_takes_none():
    with pytest.raises(UserError, match=r"bentoml has no releases to choose from: bentoml@1\.4"):
        make_system("bentoml@1.4")


def test_a_system_may_be_asked_for_the_release_of_another():
    assert make_system("kserve@26.07").release == "26.07"
    with pytest.raises(UserError, match=r"unknown release of triton: 0\.20\.0"):
        make_system("kserve@0.20.0")


@pytest.mark.parametrize("name", plugins.names("serving"))
def test_releases_that_can_be_named_are_in_a_table(name):
    releases = plugins.load("serving", name).releases
    assert not releases or known_releases(releases)


def test_what_kserve_starts_by_default_is_in_the_table_of_triton():
    assert find_release("triton", find_release("kserve", "0.20.0").versions["triton"]).versions["onnxruntime"] == "1.15.0"


@pytest.mark.parametrize(
    ("release", "model", "words"),
    [
        ("26.07", {"opset": 26, "ir": 13}, None),
        ("26.07", {"opset": 27}, "no release that is known here loads it, up to 26.08, and 26.07 would load opset 26"),
        ("25.07", {"opset": 23}, r"ONNX Runtime 1.22.0, which loads opset 22 at most, and the model has 23; 25.08 or newer"),
        ("25.12", {"ir": 12}, "loads IR version 11 at most, and the model has 12; 26.02 or newer loads it"),
        ("23.05", {"ml": 4}, "loads opset of ai.onnx.ml 3 at most"),
        ("24.12", {"opset": 23, "ir": 11}, "would load opset 21, IR version 10"),
    ],
)
def test_a_release_that_cannot_load_the_model_is_refused_with_one_that_can(tmp_path, release, model, words):
    folder, system = onnx_model(tmp_path, **model), Triton(release=release)
    if words is None:
        release_warnings(built(), system, folder)
    else:
        with pytest.raises(NotApplicableError, match=words):
            release_warnings(built(), system, folder)


def test_another_version_than_the_judged_one_is_told(tmp_path):
    (warning,) = release_warnings(built(), Triton(release="26.04"), onnx_model(tmp_path))
    assert "Judged with ONNX Runtime 1.32.0, and the release 26.04 has ONNX Runtime 1.24.4" in warning
    same = manifest(versions={"onnxruntime": "1.24.4"})
    assert release_warnings(same, Triton(release="26.04"), tmp_path) == []
    assert release_warnings(built(), Triton(), tmp_path) == []


@pytest.mark.parametrize(("opset", "release"), [(17, "26.08"), (14, "26.08")])
def test_openvino_goes_by_its_own_operators(tmp_path, opset, release):
    (tmp_path / "model.xml").write_text(f'<net version="11"><layer version="opset1"/><layer version="opset{opset}"/></net>')
    record = built(format="openvino", runtime="openvino", runtime_fields={})
    assert fitting_release(record, Triton(), tmp_path).name == release
    if opset == 17:
        with pytest.raises(
            NotApplicableError, match=r"OpenVINO 2026.1.0, which loads opset 16 at most.*26.06 or newer loads it"
        ):
            release_warnings(record, Triton(release="26.05"), tmp_path)
    else:
        (warning,) = release_warnings(record, Triton(release="26.05"), tmp_path)
        assert "Judged with OpenVINO 2026.4.1" in warning


@pytest.mark.parametrize(
    ("release", "words"), [("2.18.1", "need not load.*Take 2.19.1"), ("2.21.0", "has TensorFlow 2.21.0: it loads the model")]
)
def test_an_older_tensorflow_need_not_load_what_a_newer_one_wrote(tmp_path, release, words):
    record = manifest(format="savedmodel", runtime="tensorflow", versions={"tensorflow-cpu": "2.19.0"})
    (warning,) = release_warnings(record, TfServing(release=release), tmp_path)
    assert re.search(words, warning)


def test_an_engine_loads_in_its_own_version_alone(tmp_path):
    (tmp_path / "model.plan").write_bytes(b"engine")
    record = built(format="tensorrt", runtime="tensorrt", runtime_fields={"library": "tensorrt", "version": "10.16.1.11"})
    (warning,) = release_warnings(record, Triton(release="26.07"), tmp_path)
    assert "an engine loads in 10.16.1.11 alone" in warning


def test_the_newest_release_that_loads_it_is_taken_where_none_is_named(tmp_path):
    assert fitting_release(built(), Triton(), onnx_model(tmp_path, opset=26)).name == known_releases("triton")[-1].name
    assert fitting_release(built(), Triton(), onnx_model(tmp_path, opset=27)) is None
    assert fitting_release(built(), Triton(release="25.01"), tmp_path).name == "25.01"


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08", b"\x08\x08\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_demands_nothing(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    assert fitting_release(built(), Triton(), tmp_path) == known_releases("triton")[-1]
