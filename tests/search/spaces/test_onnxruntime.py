from mopt.search.spaces.onnxruntime import OnnxruntimeSpace
from tests.search.spaces.models import CNN, CONVOLUTIONS, TRANSFORMER, TREES, cpu, inputs


def candidates(traits, target):
    return {candidate.name: candidate for candidate in OnnxruntimeSpace().candidates(inputs(traits, target))}


def test_weights_have_seven_bits_where_the_cpu_saturates_and_activations_a_sign_on_arm():
    without, with_vnni, arm = (
        candidates(CNN, cpu(*isa))["onnxruntime-int8"].passes[-1]
        for isa in (("avx2",), ("avx2", "avx512_vnni"), ("asimd", "asimddp"))
    )
    assert (without.reduce_range, with_vnni.reduce_range, arm.reduce_range) == (True, False, False)
    assert (without.activations, arm.activations) == ("uint8", "int8")


def test_a_cnn_is_not_quantized_dynamically_and_trees_not_at_all():
    assert "onnxruntime-int8-dynamic" not in candidates(CONVOLUTIONS, cpu("avx2"))
    assert "onnxruntime-int8-dynamic" in candidates(TRANSFORMER, cpu("avx2"))
    assert list(candidates(TREES, cpu("avx2"))) == ["onnxruntime-fp32"]


def test_what_is_only_smaller_is_apart():
    assert [candidate.name for candidate in OnnxruntimeSpace().smaller(inputs(CNN, cpu("avx2")))] == [
        "onnxruntime-fp16",
        "onnxruntime-int4-hqq",
        "onnxruntime-int4-gptq",
    ]
