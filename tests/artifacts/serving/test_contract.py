"""What every serving system keeps to, checked without naming one."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mopt.artifacts.serving._base import ServingSystem
from mopt.errors import NotApplicableError
from mopt.model.formats import FORMATS, ModelFormat
from mopt.system import plugins
from mopt.system.digests import describe_fields, folder_digest
from tests.manifests import manifest

NAMES = plugins.names("serving")
GOLDEN = [{"images": np.zeros((1, 3, 224, 224), np.float32)}]


def _class(name: str) -> type[ServingSystem]:
    loaded = plugins.load("serving", name)
    assert issubclass(loaded, ServingSystem)
    return loaded


@pytest.mark.parametrize("name", NAMES)
def test_a_system_is_one_documented_name_with_a_test_file_of_its_own(name: str) -> None:
    module = importlib.import_module(f"mopt.artifacts.serving.{name}")
    assert len(module.__all__) == 1
    assert module.__all__[0].lower() == name.replace("_", "")
    assert (module.__doc__ or "").strip().endswith(".")
    assert inspect.getdoc(_class(name))
    assert _class(name)().name == name
    assert (Path(__file__).parent / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_it_has_nothing_but_defaults_and_is_frozen(name: str) -> None:
    kind = _class(name)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(kind))


@pytest.mark.parametrize("golden", [[], GOLDEN], ids=["no samples", "samples"])
@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("name", NAMES)
def test_it_writes_the_same_files_each_time_and_leaves_the_model_alone(
    name: str, form: ModelFormat, golden: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    for file in {form.main_file, form.readable_file}:
        (model / file).parent.mkdir(parents=True, exist_ok=True)
        (model / file).write_bytes(file.encode())
    before = folder_digest(model)
    written = [_write(name, form, golden, model, tmp_path / str(index)) for index in range(2)]
    assert written[0]
    assert written[0] == written[1]
    assert folder_digest(model) == before


def _write(name: str, form: ModelFormat, golden: list[dict[str, np.ndarray]], model: Path, folder: Path) -> str:
    """The digest of what is written; the reason where this system does not serve such a model."""
    folder.mkdir()
    record = manifest(format=form.name, data={"image": {"input": "images", "mean": [0.5]}})
    try:
        _class(name)().write(folder, manifest=record, model_folder=model, golden=golden)
    except NotApplicableError as error:
        return error.message
    for readme in folder.rglob("README.md"):
        assert readme.with_name("request.json").is_file() or "@request.json" not in readme.read_text()
    assert all(any(path.iterdir()) for path in folder.rglob("*") if path.is_dir()), "no copy keeps an empty folder"
    assert form.main_file.encode() in {content for path in folder.rglob("*") if path.is_file() for content in _contents(path)}
    return folder_digest(folder)


def _contents(path: Path) -> Iterator[bytes]:
    """What a file holds, and what the files hold that it is an archive of."""
    yield path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from map(archive.read, archive.namelist())
    elif path.name.endswith(".tar.gz"):
        with tarfile.open(path) as tar:
            yield from (file.read() for member in tar if (file := tar.extractfile(member)) is not None)


@pytest.mark.parametrize("name", NAMES)
def test_a_format_that_it_does_not_know_is_no_crash(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError):
        _class(name)().write(tmp_path, manifest=manifest(format="unknown"), model_folder=tmp_path, golden=[])


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_exports_or_where_its_figures_are(name: str) -> None:
    assert (_class(name).exported is None) == bool(_class(name).unexported)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_can_set_of_options_that_there_are(name: str) -> None:
    assert _class(name).settable
    for runtime, settable in _class(name).settable.items():
        options = {field.name for field in dataclasses.fields(plugins.load("runtimes", runtime))}
        assert settable.options.keys() <= options


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("runtime", "form"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_what_it_says_it_sets_is_in_its_files(name: str, runtime: str, form: str, tmp_path: Path) -> None:
    """Files for two and for three threads differ, and so do those for each precision that can be asked for."""
    settable = _class(name).settable.get(runtime)
    if settable is None:
        pytest.skip(f"{name} does not serve {runtime}")
    kind = plugins.load("runtimes", runtime)
    variants = [kind(threads=count) for count in (2, 3) if settable.takes("threads", count)]
    variants += [kind(threads=2, precision=value) for value in settable.options.get("precision", ())]
    if kind.unset:
        variants.append(kind(threads=2, **kind.unset))
    model = tmp_path / "model"
    model.mkdir()
    (model / FORMATS[form].main_file).write_bytes(b"model")
    written = set()
    for index, variant in enumerate(variants):
        folder = tmp_path / str(index)
        folder.mkdir()
        record = manifest(format=form, runtime=runtime, runtime_fields=describe_fields(variant))
        _class(name)().write(folder, manifest=record, model_folder=model, golden=[])
        written.add(folder_digest(folder))
    assert len(written) == len(variants) >= 2
