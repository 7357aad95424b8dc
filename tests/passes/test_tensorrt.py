from types import SimpleNamespace

import pytest

from mopt.errors import NotApplicableError
from mopt.passes._tensorrt import explain, target_of


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ("IBuilder::build: Error Code 4: network has dynamic or shape inputs, but no optimization profile", "no profile"),
        ("dimensions with this name have different values", "one name and different sizes"),
        ("kMIN dimension is greater than kOPT", "order min, opt, max"),
        ("Unsupported datatypes: fp8 on this platform", "8.9"),
        ("INT4 is not supported", "8.0"),
        ("DequantizeLinear: input has type Int32", "biases in float"),
        ("Assertion failed: shiftIsAllZeros", "symmetric"),
    ],
)  # fmt: skip
def test_what_a_message_means_is_said_beside_it(message, meaning):
    said = explain([message])
    assert meaning in said
    assert "(TensorRT: " in said
    assert "Error Code" not in said


def test_a_message_without_a_meaning_is_quoted_and_noise_is_not():
    noise = "CUDA initialization failure with error: 35"
    assert (
        explain(["In node 3: something odd\n--- Begin node ---\ninput: a\n--- End node ---", noise])
        == "TensorRT: In node 3: something odd"
    )
    assert explain([noise]) == "TensorRT: it gave no reason"
    assert len(explain(["x" * 1000])) < 300


def test_a_capability_that_is_not_built_for_is_told_with_those_that_are():
    library = SimpleNamespace(ComputeCapability=SimpleNamespace(SM89="ada", SM120="blackwell"))
    assert target_of(library, "8.9") == "ada"
    assert target_of(library, "12.0") == "blackwell"
    with pytest.raises(NotApplicableError, match=r"compute capability 9\.0, only for SM120, SM89"):
        target_of(library, "9.0")
