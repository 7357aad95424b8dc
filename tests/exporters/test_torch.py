import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mopt.datasets.spec import ImageSpec, SourceDefaults
from mopt.errors import UserError
from mopt.exporters._base import apply_in_child, reference_in_child, run_onnxruntime
from mopt.exporters._parity import compare
from mopt.exporters.torch import ExportTorch

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'mopt[torch]'")
pytest.importorskip("onnxscript", reason="onnxscript is an extra: pip install 'mopt[torch]'")

MODELS = """
import torch
from sizes import WIDTH

def mlp():
    layers = torch.nn.Linear(8, WIDTH), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(WIDTH, 3)
    return torch.nn.Sequential(*layers).train(), torch.randn(1, 8)

class Several(torch.nn.Module):
    def forward(self, x, state, *, scale):
        return {"y": (x + state) * scale, "state": state * 2}

def several():
    return Several(), {"x": torch.randn(1, 4), "state": torch.randn(1, 4), "scale": torch.tensor(2.0)}

class Stubborn(torch.nn.Module):
    def forward(self, x):
        return x.view(2, 4) * 2

def stubborn():
    return Stubborn(), (torch.randn(2, 4),)

class Speech(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(2, 4, 3, stride=2)
    def forward(self, x, mask):
        return self.conv(x * mask[:, None]).mean(-1)

def speech():
    return Speech(), (torch.randn(1, 2, 20), torch.ones(1, 20))

class Flat(torch.nn.Module):
    def forward(self, x):
        return x.reshape(x.shape[0], 40) * 2

def flat():
    return Flat(), torch.randn(1, 2, 20)

class Preset:
    crop_size, resize_size, mean, std, interpolation = [8], [9], [0.5], [0.25], type("Mode", (), {"value": "bilinear"})

Preset.__name__ = "ImageClassification"

class Weights:
    meta = {"categories": ["tench", "goldfish"]}
    transforms = Preset

def torchvision():
    model = torch.nn.Conv2d(3, 2, 8)
    model.weights = Weights()
    return model, torch.zeros(1, 3, 8, 8)

def timm():
    model = torch.nn.Conv2d(3, 2, 8)
    model.pretrained_cfg = {"mean": (0.5,), "std": (0.25,), "crop_pct": 0.5, "interpolation": "bicubic"}
    return torch.nn.Sequential(model, torch.nn.Softmax(1)), torch.zeros(1, 3, 8, 8)

class Stored(torch.nn.Module):
    def __init__(self):
        super().__init__()
        from pathlib import Path
        self.w = torch.nn.Parameter(torch.load(Path(__file__).with_name("w.pth"), weights_only=True))
    def forward(self, x):
        return x @ self.w

def stored():
    return Stored(), torch.randn(2, 4)

def broken():
    raise ValueError("no weights today")

def nothing():
    return torch.nn.Linear(2, 2)

not_a_function = 3
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "models.py").write_text(textwrap.dedent(MODELS))
    (folder / "sizes.py").write_text("WIDTH = 16\n")
    torch.save(torch.ones(4, 2), folder / "w.pth")
    yield str(folder / "models.py")
    for name in ("models", "sizes"):
        sys.modules.pop(name, None)


def check(exporter: ExportTorch, feeds: list, folder: Path):
    """Export in a child, compare with PyTorch in another; return what was written."""
    folder.mkdir()
    written = apply_in_child(exporter, folder)
    expected = reference_in_child(exporter, feeds)
    assert compare(expected, run_onnxruntime(folder / "model.onnx", feeds)).problem == ""
    return written


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


@pytest.mark.slow
def test_a_function_with_a_dynamic_batch(models: str, tmp_path: Path) -> None:
    exporter = ExportTorch(source=f"{models}:mlp")
    written = check(exporter, [{"input": rows(size, 8)} for size in (1, 5)], tmp_path / "out")
    assert [str(spec) for spec in written.signature.inputs] == ["input: float32[batch, 8]"]
    assert [str(spec) for spec in written.signature.outputs] == ["output: float32[batch, 3]"]
    assert written.result.detail["read"] == [str(Path(models).with_name("sizes.py"))]


@pytest.mark.slow
def test_keyword_examples_and_a_dict_of_outputs(models: str, tmp_path: Path) -> None:
    feeds = [{"x": rows(3, 4), "state": rows(3, 4), "scale": np.array(0.5, np.float32)}]
    written = check(ExportTorch(source=f"{models}:several"), feeds, tmp_path / "out")
    assert [spec.name for spec in written.signature.inputs] == ["x", "state", "scale"]
    assert [spec.name for spec in written.signature.outputs] == ["y", "output_state"]


@pytest.mark.slow
def test_a_module_that_fixes_its_batch_says_so(models: str, tmp_path: Path) -> None:
    written = check(ExportTorch(source=f"{models}:stubborn"), [{"x": rows(2, 4)}], tmp_path / "out")
    assert written.signature.batch_size == 2
    assert written.result.detail["batch"].startswith("fixed to that of the example")


@pytest.mark.slow
def test_axes_that_are_left_free_are_right_at_other_lengths(models: str, tmp_path: Path) -> None:
    exporter = ExportTorch(source=f"{models}:speech").with_dynamic_axes({"x": {2: "time"}, "mask": {1: "time"}})
    assert exporter is not None
    feeds = [{"x": rows(size, 2, length), "mask": rows(size, length)} for size, length in ((1, 20), (3, 7), (2, 50))]
    written = check(exporter, feeds, tmp_path / "out")
    assert [str(spec) for spec in written.signature.inputs] == ["x: float32[batch, 2, time]", "mask: float32[batch, time]"]
    assert written.result.detail["dynamic axes"] == "right at mask [1, 40], x [1, 2, 40] as well"
    assert exporter.key() != ExportTorch(source=f"{models}:speech").key()


@pytest.mark.slow
def test_the_line_that_holds_a_length_is_named(models: str, tmp_path: Path) -> None:
    exporter = ExportTorch(source=f"{models}:flat").with_dynamic_axes({"x": {2: "time"}})
    assert exporter is not None
    with pytest.raises(UserError, match=r"the module holds axis 2 of x to 20, in models.py:\d+: return x.reshape\(x.shape"):
        apply_in_child(exporter, tmp_path)


@pytest.mark.parametrize(
    ("axes", "message"),
    [({"z": {1: "t"}}, "no input z, which dynamic_axes names"), ({"x": {3: "t"}}, "x has no axis 3")],
)
def test_axes_that_the_module_lacks_are_the_users_mistake(models: str, tmp_path: Path, axes: dict, message: str) -> None:
    exporter = ExportTorch(source=f"{models}:flat").with_dynamic_axes(axes)
    assert exporter is not None
    with pytest.raises(UserError, match=message):
        exporter.apply(tmp_path)


def test_an_exported_program_has_its_own_axes() -> None:
    assert ExportTorch(source="net.pt2").with_dynamic_axes({"x": {1: "t"}}) is None


def test_a_module_brings_how_its_pictures_are_prepared(models: str) -> None:
    torchvision = ExportTorch(source=f"{models}:torchvision").brings()
    assert torchvision.image == ImageSpec(resize=9, crop=8, mean=(0.5,), std=(0.25,))
    assert torchvision.classes == ("tench", "goldfish")
    timm = ExportTorch(source=f"{models}:timm").brings()
    assert timm.image == ImageSpec(resize=16, crop=(8, 8), interpolation="bicubic", mean=(0.5,), std=(0.25,))
    assert ExportTorch(source=f"{models}:mlp").brings() == SourceDefaults()


@pytest.mark.slow
def test_the_weights_that_the_code_reads_are_told(models: str, tmp_path: Path) -> None:
    exporter = ExportTorch(source=f"{models}:stored")
    written = check(exporter, [{"x": rows(1, 4)}], tmp_path / "out")
    weights = Path(models).with_name("w.pth")
    read = written.result.detail["read"]
    assert str(weights) in read
    before = exporter.digest(read)
    torch.save(torch.zeros(4, 2), weights)
    assert exporter.digest(read) != before


@pytest.mark.slow
def test_an_exported_program(tmp_path: Path) -> None:
    class Sum(torch.nn.Module):
        def forward(self, x, y):
            return x + y, x.sum(dim=1)

    shapes = {name: {0: torch.export.Dim("n")} for name in ("x", "y")}
    program = torch.export.export(Sum(), (torch.randn(2, 4), torch.randn(2, 4)), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "m.pt2")
    feeds = [{"x": rows(3, 4), "y": rows(3, 4)}]
    written = check(ExportTorch(source=str(tmp_path / "m.pt2")), feeds, tmp_path / "out")
    assert [spec.name for spec in written.signature.inputs] == ["x", "y"]
    assert [spec.name for spec in written.signature.outputs] == ["output_0", "output_1"]


def test_the_function_counts_for_the_digest(models: str) -> None:
    assert ExportTorch(source=f"{models}:mlp").digest() != ExportTorch(source=f"{models}:several").digest()


def test_a_module_on_the_path_is_found_by_its_name(models: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(models).parent)
    monkeypatch.delitem(sys.modules, "models", raising=False)  # another test's
    assert ExportTorch.matches("models:mlp")
    assert ExportTorch(source="models:mlp").files() == {"code": Path(models)}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", "raised ValueError: no weights today"),
        ("nothing", "must return"),
        ("not_a_function", "has no function not_a_function"),
        ("missing", "has no function missing"),
    ],
)
def test_what_the_function_does_wrong_is_said(models: str, tmp_path: Path, function: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ExportTorch(source=f"{models}:{function}").apply(tmp_path)
    assert caught.value.hint


def test_code_that_cannot_be_imported_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import a_library_that_is_not_there\n")
    with pytest.raises(UserError, match="raised ModuleNotFoundError while it was imported"):
        ExportTorch(source=f"{tmp_path / 'bad.py'}:model").apply(tmp_path)


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.ckpt"])
def test_weights_alone_are_refused(tmp_path: Path, name: str) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / name)
    assert ExportTorch.matches(str(tmp_path / name))
    with pytest.raises(UserError, match="not a model without the code") as caught:
        ExportTorch(source=str(tmp_path / name)).digest()
    assert "file.py:function" in caught.value.hint


def test_a_damaged_program_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="is not an exported program"):
        ExportTorch(source=str(tmp_path / "m.pt2")).apply(tmp_path)


@pytest.mark.slow
def test_a_program_with_a_hostile_pickle_does_not_run_it(tmp_path: Path) -> None:
    import io
    import zipfile

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.inner(x)

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    torch.export.save(torch.export.export(Linear(), (torch.randn(2, 4),)), tmp_path / "good.pt2")
    buffer = io.BytesIO()
    torch.save(Hostile(), buffer)
    with zipfile.ZipFile(tmp_path / "good.pt2") as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            examples = "sample_inputs" in name and name.endswith(".pt")
            bad.writestr(name, buffer.getvalue() if examples else data)
    with pytest.raises(UserError, match="cannot be loaded"):
        apply_in_child(ExportTorch(source=str(tmp_path / "bad.pt2")), tmp_path)
    assert not (tmp_path / "owned").exists()
