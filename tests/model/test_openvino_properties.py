"""What is written beside a model is read again, and becomes what OpenVINO is told."""

from mopt.model.openvino_properties import FILE_NAME, OpenvinoProperties


def test_it_comes_back(tmp_path):
    properties = OpenvinoProperties(precision="bf16", kv_cache="u8", dynamic_group_size=0)
    properties.write(tmp_path)
    assert (tmp_path / FILE_NAME).is_file()
    assert OpenvinoProperties.read(tmp_path) == properties


def test_a_model_without_the_file_has_the_defaults(tmp_path):
    assert OpenvinoProperties.read(tmp_path) == OpenvinoProperties()


def test_openvino_is_told_all_of_it():
    told = OpenvinoProperties(precision="bf16", kv_cache="u8", dynamic_group_size=64).plugin(3)
    assert told == {
        "INFERENCE_NUM_THREADS": 3,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16",
        "KV_CACHE_PRECISION": "u8",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 64,
    }
