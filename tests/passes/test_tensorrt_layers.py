from mopt.passes._tensorrt_layers import count_types, parse_layers
from mopt.records.engine import left_in_float

# As TensorRT for RTX 1.7 prints it, shortened in the strides.
TABLE = """Layers:
Name: __mye449_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: 
Name: Conv_0_myl0_2, LayerType: correlation, Inputs: [ { Name: a, Dimensions: [-1,4,16,16], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [8,4,3,3], Datatype: Int8, Format: (NHWC) Channel major format }, { Name: s, Dimensions: [1,8,1,1], Datatype: Float, Format: (NHWC) Channel major format }], Outputs: [ { Name: b, Dimensions: [-1,8,16,16], Datatype: Float, Format: (NHWC) Channel major format }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: Conv_0][ONNX Layer: image_dequantize]
Name: __myl_MulCast_myl0_3, LayerType: kgen, Inputs: [ { Name: b, Dimensions: [-1,8,16,16], Datatype: Float, Format: (NHWC) }], Constants: [], Outputs: [ { Name: c, Dimensions: [-1,8,16,16], Datatype: Half, Format: (NHWC) }], TacticName: x, StreamId: 0, Metadata: [ONNX Layer: Relu_1]
Name: Conv_2_myl0_4, LayerType: correlation, Inputs: [ { Name: c, Dimensions: [-1,8,16,16], Datatype: Half, Format: (NHWC) }], Constants: [ { Name: v, Dimensions: [8,8,1,1], Datatype: Half, Format: (NHWC) }], Outputs: [ { Name: d, Dimensions: [-1,8,16,16], Datatype: Half, Format: (NHWC) }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: Conv_2]
Name: __myl_ReplCastMulCastFc_myl0_5, LayerType: runtime_fusion, Inputs: [ { Name: d, Dimensions: [-1,64], Datatype: Half, Format: (Linear) }], Constants: [ { Name: u, Dimensions: [64,64], Datatype: Int4, Format: (Linear) }], Outputs: [ { Name: e, Dimensions: [-1,64], Datatype: Half, Format: (Linear) }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: MatMul_3]

I/O Tensors:
 Name: image, IOMode: Input, DataType: Float, Dimensions: [-1,3,16,16], Location: Device
"""  # noqa: E501, W291, it is what is printed
OTHER = (
    "Name: conv1 + relu, LayerType: CaskConvolution, Inputs: [ { Name: x, Dimensions: [1,3,8,8], Format/Datatype: Int8 }], "
    "Outputs: [ { Name: y, Dimensions: [1,8,8,8], Format/Datatype: Half }], ParameterType: Convolution, TacticName: sm80_xmma"
)


def test_layers_are_read_with_their_types_and_the_nodes_in_them():
    layers = parse_layers(["Some other message", TABLE])
    assert [layer.kind for layer in layers] == ["shape_call", "correlation", "kgen", "correlation", "runtime_fusion"]
    first = layers[1]
    assert (first.inputs, first.constants, first.outputs) == (("Int8",), ("Int8", "Float"), ("Float",))
    assert first.nodes == ("Conv_0", "image_dequantize")
    assert first.tactic == "__myelin_CASK_STUB"


def test_what_multiplies_is_counted_by_its_arithmetic():
    assert count_types(parse_layers([TABLE])) == {
        "correlation Int8": 1, "correlation Half": 1, "runtime_fusion Half x Int4": 1,
    }  # fmt: skip


def test_a_quantized_node_in_a_float_layer_is_named_with_its_neighbours():
    found = left_in_float(parse_layers([TABLE]), {"Conv_0", "Conv_2", "MatMul_3"})
    assert found == [
        {
            "layer": "Conv_2_myl0_4", "arithmetic": "Half", "after": "__myl_MulCast_myl0_3",
            "before": "__myl_ReplCastMulCastFc_myl0_5",
        }
    ]  # fmt: skip


def test_the_table_of_tensorrt_itself_has_no_constants():
    (layer,) = parse_layers([OTHER])
    assert (layer.kind, layer.inputs, layer.tactic) == ("CaskConvolution", ("Int8",), "sm80_xmma")
    assert layer.computes
