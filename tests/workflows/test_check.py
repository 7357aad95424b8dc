from pathlib import Path

from mopt.workflows.check import check_recipe

RECIPE = """\
model = "model.onnx"
data = "samples.npz"

[search]
simplify = ["fold_constant"]

[[search.candidate]]
name = "mine"
runtime = "onnxruntime"
passes = [{ name = "quantize_int8_static", bits = 4 }]

[[search.candidate]]
name = "other"
runtime = "openvino"
"""


def test_every_mistake_in_candidates_and_simplifying_passes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mopt.toml"
    path.write_text(RECIPE)
    told = [(mistake.key, mistake.line, mistake.message, mistake.hint) for mistake in check_recipe(path)]
    assert [(key, message) for key, _, message, _ in told] == [
        ("search.simplify", "search.simplify: unknown pass: fold_constant"),
        ("search.candidate", "candidate mine: quantize_int8_static has no option bits"),
        ("search.candidate", "candidate other: openvino loads openvino, and every candidate starts from onnx"),
    ]
    assert told[0][1] == 5
    assert told[0][3] == "did you mean fold_constants?"


def test_with_a_target_that_is_unknown_only_that_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mopt.toml"
    path.write_text('target = "moon"\n' + RECIPE)
    assert [mistake.key for mistake in check_recipe(path)] == ["target"]
