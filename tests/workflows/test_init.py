import pytest

from mopt.passes.build_openvino import BuildOpenvino
from mopt.passes.calibrate_int8_nncf import CalibrateInt8Nncf
from mopt.passes.quantize_int8_nncf import QuantizeInt8Nncf
from mopt.passes.quantize_int8_static import QuantizeInt8Static
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.runtimes.openvino import OpenVINO
from mopt.search.compile import compile_passes
from mopt.search.trial import Candidate
from tests.passes import graphs

STEPS = {
    "onnxruntime": lambda data: ((QuantizeInt8Static(calibration=data),), OnnxRuntime(threads=1)),
    "nncf": lambda data: ((CalibrateInt8Nncf(calibration=data), QuantizeInt8Nncf()), OpenVINO(threads=1)),
    "openvino": lambda data: ((BuildOpenvino(),), OpenVINO(threads=1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("library", STEPS)
def test_no_library_keeps_notes_for_its_maker(tmp_path, monkeypatch, store, library):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    source, data = graphs.cnn(tmp_path / "model"), graphs.images(tmp_path / "data")
    steps, runtime = STEPS[library](data)
    compiled = compile_passes(Candidate(library, steps, runtime).passes, source, store)
    with SessionProcess(runtime, compiled.model) as session:
        session.run(data[0])
    assert [str(path.relative_to(home)) for path in home.rglob("*")] == []
