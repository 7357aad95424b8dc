import numpy as np
import pytest

from mopt.errors import UserError
from mopt.profiles.machine import detect
from mopt.records.manifest import Golden
from mopt.workflows.verify import verify
from tests.workflows import artifacts


@pytest.fixture
def model(tmp_path):
    return artifacts.doubling(tmp_path / "model")


def test_what_answers_as_it_did_is_as_it_was_built(tmp_path, model):
    artifacts.write(tmp_path / "a", model)
    verification = verify(tmp_path / "a")
    assert verification.ok
    assert (verification.problems, verification.warnings) == ((), ())
    assert verification.samples == 3
    assert verification.largest_difference == {"y": 0.0, "same": 0.0}
    assert verification.summary == "y within 0, same within 0"


def test_a_file_that_was_changed_ends_the_check_before_anything_is_loaded(tmp_path, model):
    artifacts.write(tmp_path / "a", model)
    (tmp_path / "a" / "model" / "model.onnx").write_bytes(b"something else")
    verification = verify(tmp_path / "a")
    assert (verification.ok, verification.samples, verification.summary) == (False, 0, "not run: files differ")
    assert verification.problems == ("changed: model/model.onnx",)


@pytest.mark.parametrize(
    ("outputs", "problem"),
    [
        ({"y": np.float32([[0.5, 0]]), "same": np.float32([[0, 0]])}, "sample 0: output y differs by 0.5, allowed 1e-05"),
        ({"y": np.float32([[0]]), "same": np.float32([[0, 0]])}, "sample 0: output y has shape (1, 2), was (1, 1)"),
        ({"z": np.float32([[0, 0]])}, "sample 0: output z has shape None, was (1, 2)"),
        ({"y": np.int64([[0, 1]])}, "sample 0: output y differs"),
    ],
    ids=["value", "shape", "name", "integer"],
)
def test_an_answer_that_differs_is_named(tmp_path, model, outputs, problem):
    golden = artifacts.answers(artifacts.feeds())
    golden[0] = outputs
    artifacts.write(tmp_path / "a", model, golden_outputs=golden)
    verification = verify(tmp_path / "a")
    assert not verification.ok
    assert problem in verification.problems


def test_outputs_that_differ_from_run_to_run_are_compared_with_nothing(tmp_path, model):
    golden = [{"y": outputs["y"]} for outputs in artifacts.answers(artifacts.feeds())]
    written = Golden(count=3, tolerance={"y": 1e-5}, random=("same",))
    artifacts.write(tmp_path / "a", model, golden_outputs=golden, golden=written)
    verification = verify(tmp_path / "a")
    assert (verification.ok, verification.largest_difference) == (True, {"y": 0.0})
    assert verification.warnings == ("not compared, since they differ from run to run: same",)


def test_a_model_that_does_not_run_is_a_problem_and_no_crash(tmp_path, model):
    model.file.write_bytes(b"no model")
    artifacts.write(tmp_path / "a", model)
    verification = verify(tmp_path / "a")
    assert not verification.ok
    assert verification.problems[0].startswith("onnxruntime: ")


def test_another_machine_and_what_must_not_be_deployed_are_warned_of(tmp_path, model):
    here = detect()
    elsewhere = here.model_copy(update={"isa": ("another_isa",)})
    artifacts.write(tmp_path / "a", model, machine=elsewhere, deployable=False, not_deployable_because="the data is random")
    first, second = verify(tmp_path / "a").warnings
    assert first.startswith("built on another_isa, this machine has")
    assert second == "not deployable: the data is random"
    artifacts.write(tmp_path / "b", model, machine=here.model_copy(update={"cores": here.cores + 1}))
    (warning,) = verify(tmp_path / "b").warnings
    assert warning.startswith(f"measured on {here.cpu}, {here.cores + 1} cores")


def test_what_is_no_artifact_is_told(tmp_path):
    with pytest.raises(UserError, match="is not an artifact"):
        verify(tmp_path)


@pytest.mark.parametrize(("judged", "warned"), [("fp32", False), ("", False), ("int8+bf16", True)])
def test_a_precision_that_was_not_judged_is_warned_of(tmp_path, model, judged, warned):
    def told(record):
        return record.model_copy(update={"effective_precision": judged}) if record.name == written.chosen else record

    written = artifacts.write(tmp_path / "a", model)
    path = tmp_path / "a" / "manifest.json"
    path.write_text(written.model_copy(update={"trials": tuple(map(told, written.trials))}).model_dump_json())
    expected = ("onnxruntime computes in fp32 here, and int8+bf16 was judged: build it again here",) if warned else ()
    assert verify(tmp_path / "a").warnings == expected
