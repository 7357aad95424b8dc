"""What is judged is what will be served: refused, left to the runtime, or as it was."""

import dataclasses
from pathlib import Path

import pytest

from mopt.artifacts.serving._base import ANY, EVERYTHING, ServingSystem, Settable
from mopt.artifacts.serving.triton import Triton
from mopt.errors import Rejection
from mopt.model.samples import Samples
from mopt.model.signature import Signature, TensorSpec
from mopt.passes.build_openvino import BuildOpenvino
from mopt.passes.calibrate_int8_nncf import CalibrateInt8Nncf
from mopt.passes.quantize_int8_nncf import QuantizeInt8Nncf
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.runtimes.onnxruntime_gpu import OnnxRuntimeGpu
from mopt.runtimes.openvino import OpenVINO
from mopt.search.served import as_served, served_otherwise, without_twins
from mopt.search.trial import Candidate
from mopt.system.plugins import load

BF16, PLAIN = ("avx2", "avx512_vnni", "avx512_bf16"), ("avx2",)
FLOAT = Candidate("fp32", (BuildOpenvino(),), OpenVINO(threads=2))
INT8 = Candidate("int8", (CalibrateInt8Nncf(calibration=Samples(Path(), "", 1)), QuantizeInt8Nncf()), OpenVINO(threads=2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Everything(ServingSystem):
    """A service in Python, which sets whatever it finds in the manifest."""

    settable = {"openvino": EVERYTHING}

    def write(self, folder, *, manifest, model_folder, golden):
        """Write nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoThreads(Everything):
    """Sets any precision, and no threads."""

    settable = {"openvino": Settable({"precision": ANY}, "take another one")}


def changed(candidate, **options):
    return dataclasses.replace(candidate, runtime=dataclasses.replace(candidate.runtime, **options))


def test_what_is_all_precision_is_refused_where_the_server_computes_in_another_one():
    refused = as_served(FLOAT, [Triton()], BF16).refused
    assert refused.rejection == Rejection.UNSUPPORTED
    assert (
        "triton cannot set precision = f32 for openvino, which takes bf16 on this CPU; openvino_model_server" in refused.reason
    )
    for route in ("plugin_config", "onnxruntime backend", "serve = []"):
        assert route in refused.reason


def test_where_the_default_is_not_known_it_is_not_taken_for_what_was_asked():
    refused = as_served(FLOAT, [Triton()], ("asimd", "asimddp")).refused
    assert "which chooses for itself on this CPU" in refused.reason


def test_what_is_quantized_is_judged_with_the_rest_as_it_is_served():
    assert as_served(INT8, [Triton()], BF16) == changed(INT8, precision="default")


@pytest.mark.parametrize("candidate", [FLOAT, INT8], ids=["float", "int8"])
def test_without_bf16_the_default_is_what_was_asked(candidate):
    assert as_served(candidate, [Triton()], PLAIN) == changed(candidate, precision="default")


def test_a_precision_that_the_server_can_ask_for_stays():
    half = changed(FLOAT, precision="bf16")
    assert as_served(half, [Triton()], BF16) == half


@pytest.mark.parametrize(("isa", "refused"), [(BF16, True), (PLAIN, False)], ids=["bf16", "plain"])
def test_what_a_recipe_asks_for_is_not_changed_in_silence(isa, refused):
    assert (as_served(INT8, [Triton()], isa, {"precision"}).refused is not None) is refused


def test_all_systems_must_be_able_to():
    assert as_served(FLOAT, [Everything()], BF16) == FLOAT
    for systems in ([Everything(), Triton()], [Triton(), Everything()]):
        assert as_served(FLOAT, systems, BF16).refused is not None
        assert as_served(INT8, systems, BF16).runtime.precision == "default"


def test_a_runtime_that_a_system_does_not_serve_is_refused():
    candidate = Candidate("fp32", (), OnnxRuntime(threads=2))
    assert as_served(candidate, [Everything()], PLAIN).refused.reason == f"{Everything().name} does not serve onnxruntime"


def test_an_option_without_a_default_of_the_library_is_refused():
    assert as_served(INT8, [NoThreads()], PLAIN).refused.reason == (
        f"{NoThreads().name} cannot set threads = 2 for openvino; take another one"
    )
    assert as_served(changed(INT8, threads=3), [Triton(), NoThreads()], PLAIN).refused is not None


def test_a_provider_that_a_server_does_not_have():
    for provider, refused in (("cuda", False), ("tensorrt", False), ("tensorrt_rtx", True)):
        candidate = Candidate("gpu", (), OnnxRuntimeGpu(provider=provider))
        assert (as_served(candidate, [Triton()], PLAIN).refused is not None) is refused


def test_what_has_one_precision_is_left_alone():
    plain = Candidate("fp32", (), OnnxRuntime(threads=2))
    assert as_served(plain, [Triton()], BF16) == plain


def test_the_second_of_two_that_compute_the_same_is_refused():
    served = as_served(INT8, [Triton()], BF16)
    half = dataclasses.replace(changed(INT8, precision="bf16"), name="int8-bf16")
    first, second = without_twins([served, half], BF16)
    assert first == served
    assert (second.refused.rejection, second.refused.reason) == (Rejection.UNCHANGED, "on this CPU the same as int8")
    assert without_twins([half], BF16) == [half]
    assert without_twins([served, half], PLAIN) == [served, half]


def test_what_is_refused_is_nobodys_twin():
    refused = as_served(FLOAT, [Triton()], BF16)
    again = dataclasses.replace(FLOAT, name="again")
    assert without_twins([refused, again], BF16) == [refused, again]


@pytest.mark.parametrize("name", sorted(Triton.settable))
def test_every_option_of_a_runtime_can_be_set_or_left_to_it(name):
    """Else no candidate of it would ever be served."""
    runtime = load("runtimes", name)
    options = {field.name for field in dataclasses.fields(runtime)}
    assert options <= Triton.settable[name].options.keys() | runtime.unset.keys()


def test_what_a_server_compiles_for_one_shape_is_judged_so():
    words = TensorSpec(name="x", dtype="float32", shape=("batch", 8))
    fixed = Signature(inputs=(words,), outputs=(words,), batch_axes={"x": 0})
    ragged = Signature(inputs=(words.model_copy(update={"shape": ("batch", "length")}),), outputs=(words,), batch_axes={"x": 0})
    for signature, shapes in ((fixed, "static"), (ragged, "dynamic")):
        assert as_served(INT8, [Triton()], BF16, signature=signature).runtime.shapes == shapes
    assert as_served(INT8, [Everything()], BF16, signature=fixed).runtime.shapes == "dynamic"
    left = OpenVINO(threads=2, precision="default")
    assert "shapes = static, and dynamic was judged" in served_otherwise(left, Triton(), BF16, fixed)
    assert served_otherwise(dataclasses.replace(left, shapes="static"), Triton(), BF16, fixed) == ""
