import json

from mopt.records.explanation import Explanation, Layer
from tests.cli.running import run

LAYERS = (
    Layer(name="conv_0", kind="Conv", sqnr_db=12.34, ms=1.0, float_ms=2.0, arithmetic="int8", quantized=True, effect=-0.01),
    Layer(name="gemm_1", kind="Gemm", ms=0.5, float_ms=0.5, arithmetic="fp32", why="left in float for the quality"),
    Layer(name="matmul_2", kind="MatMul", sqnr_db=30.0, quantized=True, why="no kernel"),
)


def explained(monkeypatch, **changes):
    result = Explanation(
        model="m", candidate="onnxruntime-int8", runtime="onnxruntime", batch=1, total_ms=1.5, reference_ms=3.0,
        layers=LAYERS, passes=(), machine="a CPU", metric="accuracy",
    ).model_copy(update=changes)  # fmt: skip
    monkeypatch.setattr("mopt.workflows.explain.explain", lambda *_, **__: result)
    return result


def test_each_layer_is_a_row_and_what_gains_nothing_is_named(monkeypatch):
    explained(monkeypatch)
    shown = run("explain", "m.onnx", "--data", "a.npz", "--quiet").stdout
    rows = {line.split()[0]: " ".join(line.split()) for line in shown.splitlines() if line.split()}
    assert rows["conv_0"] == "conv_0 Conv 12.3 dB 1.00 ms 2.00 ms int8 -0.01"
    assert rows["matmul_2"] == "matmul_2 MatMul 30.0 dB fused no kernel"
    assert "in float  gemm_1: left there for the quality" in shown
    assert "no gain   matmul_2: quantized, and run in float" in shown
    assert "time      1.50 ms in all layers, 3.00 ms in the reference" in shown
    assert "Change of accuracy" in shown


def test_only_the_top_is_shown_and_effects_only_where_they_were_measured(monkeypatch):
    explained(monkeypatch, metric="")
    shown = run("explain", "m.onnx", "--data", "a.npz", "--quiet", "--top", 1).stdout
    assert "and 2 more layers; --top shows them" in shown
    assert "Change of" not in shown


def test_programs_get_every_layer(monkeypatch):
    result = explained(monkeypatch)
    shown = run("explain", "m.onnx", "--data", "a.npz", "--quiet", "--json", "--top", 1).stdout
    assert json.loads(shown) == json.loads(result.model_dump_json())
