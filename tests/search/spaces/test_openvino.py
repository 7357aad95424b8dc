from mopt.search.spaces.openvino import OpenvinoSpace
from tests.search.spaces.models import CNN, TRANSFORMER, TREES, cpu, inputs


def candidates(traits, target):
    return {candidate.name: candidate for candidate in OpenvinoSpace().candidates(inputs(traits, target))}


def test_bf16_is_tried_where_the_cpu_has_it_and_only_there():
    assert "openvino-bf16" in candidates(CNN, cpu("avx2", "avx512_vnni", "avx512_bf16"))
    assert "openvino-bf16" not in candidates(CNN, cpu("avx2"))


def test_weights_have_seven_bits_where_the_cpu_saturates():
    assert candidates(CNN, cpu("avx2"))["openvino-int8"].passes[0].reduce_range == "all"
    assert candidates(CNN, cpu("avx2", "avx512_vnni"))["openvino-int8"].passes[0].reduce_range == "none"


def test_a_transformer_gets_its_own_rules():
    assert candidates(TRANSFORMER, cpu("avx2"))["openvino-int8"].passes[0].transformer
    assert "openvino-int8-weighted" not in candidates(TRANSFORMER, cpu("avx2"))


def test_trees_are_not_quantized_and_a_gpu_has_none():
    assert list(candidates(TREES, cpu("avx2"))) == ["openvino-fp32"]
    assert not candidates(CNN, "nvidia-l4")
    assert not candidates(CNN, "aws-g6-xlarge")
