"""What mopt asks of NVIDIA's libraries is there, in the bindings of TensorRT 10 and 11 and of TensorRT for RTX."""

import ast
import ctypes
import importlib.util
import os
import re
from pathlib import Path

import pytest

from mopt.errors import MissingDependencyError
from mopt.system import nvidia

ROOT = Path(__file__).parents[2]
SOURCES = ("mopt/passes/_tensorrt.py", "mopt/runtimes/tensorrt.py")
OBJECTS = {
    "trt", "_trt", "builder", "network", "parser", "config", "profile", "error", "reader", "cache", "inspector", "_engine",
    "_context", "Severity", "BuilderFlag", "Runtime", "Logger",
}  # fmt: skip
OWN = {"logger", "errors", "lines", "log"}
"""Names of mopt's own logger."""


def asked() -> set[str]:
    """Every attribute that mopt reads of TensorRT's module and of the objects that it makes."""
    found: set[str] = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse((ROOT / source).read_text())):
            if isinstance(node, ast.Attribute) and root(node.value) in OBJECTS and root(node.value) is not None:
                found.add(node.attr)
    named = re.findall(
        r'"(VERSION_COMPATIBLE|SAME_COMPUTE_CAPABILITY|AMPERE_PLUS)"', (ROOT / "mopt/passes/build_tensorrt.py").read_text()
    )
    return (found | set(named)) - OWN - OBJECTS | {"Runtime", "Logger", "BuilderFlag"}


def root(node: ast.AST) -> str | None:
    if isinstance(node, ast.Call):
        return root(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr if node.attr in OBJECTS else root(node.value)
    return node.id if isinstance(node, ast.Name) else None


def lacking(names: set[str], package: Path) -> list[str]:
    """Names that no binary and no module of a package holds; a linker lets one string end in another."""
    content = b"".join(path.read_bytes() for path in package.rglob("*") if path.suffix in (".so", ".py"))
    return sorted(name for name in names if name.encode() + b"\0" not in content and b"def " + name.encode() not in content)


def bindings(version: str) -> Path:
    folder = Path(os.environ.get("MOPT_TENSORRT_BINDINGS", ROOT / ".venv" / "bindings")) / version
    if not folder.is_dir():
        pytest.skip(f"needs the bindings of TensorRT {version}: make .venv/.bindings")
    return folder


RTX_ONLY = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}


def test_enough_is_asked_for_this_to_mean_something():
    assert {
        "create_network",
        "build_serialized_network",
        "OnnxParser",
        "set_shape",
        "execute_async_v3",
        "STRONGLY_TYPED",
    } <= asked()
    assert len(asked()) > 50


@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_the_real_bindings_of_tensorrt_have_every_name(version):
    assert not lacking(asked() - RTX_ONLY, bindings(version))
    assert lacking({"execute_async_v9"}, bindings(version))


def test_the_real_bindings_of_tensorrt_for_rtx_have_every_name():
    if (spec := importlib.util.find_spec("tensorrt_rtx")) is None or spec.origin is None:
        pytest.skip("needs mopt[tensorrt-rtx]")
    assert not lacking(asked(), Path(spec.origin).parent.parent / "tensorrt_rtx_bindings")


@pytest.mark.parametrize(
    ("module", "source", "pattern", "extra"),
    [
        ("cuda.bindings.runtime", "mopt/runtimes/tensorrt.py", r"_cuda\.(\w+)", ("cudaMemcpyHostToDevice",)),
        ("pynvml", "mopt/system/nvidia.py", r"pynvml\.(\w+)", ()),
    ],
)
def test_nvidias_python_has_every_name(module, source, pattern, extra):
    library = pytest.importorskip(module)
    names = set(re.findall(pattern, (ROOT / source).read_text()))
    assert len(names) > 8
    assert not [name for name in names if not hasattr(library, name)]
    assert all(hasattr(library.cudaMemcpyKind, name) for name in extra)


def test_devices_agree_with_the_driver():
    nvidia.devices.cache_clear()
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert nvidia.devices() == ()
    else:
        assert all(re.fullmatch(r"\d+\.\d", device.capability) for device in nvidia.devices())


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(nvidia.importlib, "import_module", lambda name: (_ for _ in ()).throw(ModuleNotFoundError(name)))
    with pytest.raises(MissingDependencyError) as caught:
        nvidia.import_tensorrt("tensorrt_rtx")
    assert caught.value.hint == "pip install 'mopt[tensorrt-rtx]'"
