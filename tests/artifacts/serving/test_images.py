import json

import pytest

from mopt.artifacts.serving import _images
from mopt.artifacts.serving._images import (
    CLOUD_SETTABLE,
    checked_by,
    dockerfile,
    in_triton,
    publish_line,
    scaled_by,
    write_models,
)
from mopt.errors import NotApplicableError
from mopt.model.signature import Signature, TensorSpec
from mopt.system.environments import Environment
from tests.manifests import manifest

OPENVINO = {"runtime": "openvino", "format": "openvino", "runtime_fields": {"threads": 2, "precision": "f32"}}


@pytest.fixture
def write(tmp_path):
    def into(release="", raw_bytes=False, **changes):
        source = tmp_path / "model"
        source.mkdir()
        for name in ("model.onnx", "model.xml", "model.bin", "model.engine"):
            (source / name).write_bytes(name.encode())
        record = manifest(**changes)
        models = tmp_path / "out" / "models"
        models.parent.mkdir()
        image = write_models(
            models, beside=models.parent, manifest=record, model_folder=source, golden=[], release=release, raw_bytes=raw_bytes
        )
        return image, models

    return into


def test_triton_takes_what_it_runs_as_it_was_judged(write):
    image, models = write()
    assert image.uri.startswith("nvcr.io/nvidia/tritonserver:")
    assert in_triton(models)
    assert sorted(path.name for path in models.iterdir()) == ["resnet50"]


def test_the_release_that_is_named_is_the_images(write):
    image, _ = write("26.04")
    assert image.uri == "nvcr.io/nvidia/tritonserver:26.04-py3"


def test_another_runtime_than_the_judged_one_is_told(write):
    image, _ = write("26.04", versions={"onnxruntime": "1.22.0"})
    assert "with onnxruntime 1.24.4: 1.22.0 was judged" in image.about


def test_what_triton_would_pad_is_served_in_python(write):
    image, models = write(**OPENVINO)
    assert image.uri == ""
    assert not in_triton(models)
    assert json.loads((models / "served_model.json").read_text())["runtime_fields"]["precision"] == "f32"


def test_what_triton_cannot_be_told_is_served_in_python(write):
    image, _ = write(runtime_fields={"threads": 2, "spinning": False})
    assert image.uri == ""


@pytest.mark.parametrize(("raw_bytes", "triton"), [(False, False), (True, True)])
def test_half_precision_is_not_for_triton_where_requests_are_json(raw_bytes, triton, write):
    x, y = (TensorSpec(name=name, dtype="float16", shape=("batch", 3)) for name in ("x", "y"))
    signature = Signature(inputs=(x,), outputs=(y,), batch_axes={"x": 0, "y": 0})
    image, _ = write(signature=signature, raw_bytes=raw_bytes)
    assert image.triton is triton


def test_who_names_a_release_wants_triton(write):
    with pytest.raises(NotApplicableError, match="pads"):
        write("26.04", **OPENVINO)


def test_no_image_in_python_runs_an_engine(write):
    with pytest.raises(NotApplicableError, match="Triton cannot set odd"):
        write(runtime="tensorrt", format="tensorrt", runtime_fields={"graph": True, "odd": 1})


def test_candidates_are_judged_with_all_that_either_image_takes():
    assert CLOUD_SETTABLE["openvino"].takes("precision", "f32")
    assert CLOUD_SETTABLE["tensorrt"].takes("graph", True)
    assert not CLOUD_SETTABLE["tensorrt"].takes("odd", True)


def test_the_image_has_the_runtime_that_was_judged_and_is_no_root():
    record = manifest(**OPENVINO, versions={"openvino": "2026.4.1", "onnxruntime": "1.32.0"})
    text = dockerfile(record, "server==1", files=["a.py", "b/c.py"], command=["python", "a.py"], port=80, variables={"A": "b"})
    lines = text.splitlines()
    assert lines[0].startswith("FROM python:")
    assert "'openvino==2026.4.1' 'numpy' 'server==1'" in lines[1]
    assert "COPY a.py b/c.py ./" in lines
    assert "ENV PYTHONUNBUFFERED=1 A=b" in lines
    assert lines.index("USER 1000") < lines.index('ENTRYPOINT ["python", "a.py"]')


@pytest.mark.parametrize(("isa", "platform"), [(["avx2"], "linux/amd64"), (["asimd", "i8mm"], "linux/arm64")])
@pytest.mark.parametrize("image", ["", "nvcr.io/x:1"])
def test_an_image_is_for_the_targets_processor(isa, platform, image):
    assert f"--platform {platform} " in publish_line(manifest(target={"name": "x", "isa": isa}), image)


def test_how_many_replicas_and_why_is_said():
    batching = manifest().batching
    spare = batching.model_copy(update={"replicas": 3, "spare_replicas": 1, "peak_qps": 300.0})
    assert "One replica more for every 172 requests per second: 3 hold what was asked for, and 1 of them may be lost" in (
        scaled_by(manifest(batching=spare))
    )
    unknown = batching.model_copy(update={"rate": None, "utilization": None, "peak_qps": None})
    assert "not measured" in scaled_by(manifest(batching=unknown))


@pytest.fixture
def environment(tmp_path):
    """One whose python prints what its script's arguments hold."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nshift 2\ncat "$@"\n')
    python.chmod(0o755)
    return Environment("odd", tmp_path)


def test_mistakes_that_the_makers_types_find_are_told(environment, tmp_path):
    (tmp_path / "good").write_text("")
    (tmp_path / "bad").write_text("no such field\n")
    proven = checked_by(environment, "kserve_schema.py", "part", [tmp_path / "good"])
    failed = checked_by(environment, "kserve_schema.py", "part", [tmp_path / "good", tmp_path / "bad"])
    assert (proven.state, proven.detail) == ("proven", "good")
    assert (failed.state, failed.detail) == ("failed", "no such field")


def test_a_check_that_breaks_is_no_proof(environment, tmp_path):
    with pytest.raises(RuntimeError, match=r"kserve_schema\.py ended with 1"):
        checked_by(environment, "kserve_schema.py", "part", [tmp_path / "missing"])


def test_without_the_makers_types_nothing_is_proven():
    assert checked_by(None, "kserve_schema.py", "part", []).state == "not proven"


def test_the_scripts_are_there():
    for name in ("kserve_schema.py", "sagemaker_schema.py", "vertex_schema.py"):
        assert (_images.Path(_images.__file__).parent / "_files" / name).is_file()
