import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from mopt.artifacts.serving._pbtxt import quote, tensor
from mopt.model.signature import TensorSpec


@pytest.mark.parametrize("text", ['a"b\\c', "tab\tline\nnull\0", "naïve 名", "'", "\x7f\x80"])
def test_quoting_comes_back(text):
    assert text_format.Parse(f"name: {quote(text)}", pb.ModelConfig()).name == text


@pytest.mark.parametrize(("batched", "dims"), [(True, [3, -1]), (False, [-1, 3, -1])])
def test_the_batch_axis_is_no_dim_where_triton_batches(batched, dims):
    spec = TensorSpec(name="x", dtype="int8", shape=("batch", 3, "length"))
    config = text_format.Parse("\n".join(tensor("output", spec, batched=batched)), pb.ModelConfig())
    assert (list(config.output[0].dims), config.output[0].data_type) == (dims, pb.TYPE_INT8)
