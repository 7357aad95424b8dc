from mopt.records.description import ModelDescription


def test_what_is_not_known_is_left_out_for_programs():
    described = ModelDescription(
        format="openvino", file="m.xml", size_bytes=3, inputs=({"name": "x", "dtype": "f32", "shape": ["?", 3]},), outputs=(),
        weights={"f32": (1, 12)}, operators={"MatMul": 1},
    )  # fmt: skip
    assert ModelDescription.model_validate_json(described.model_dump_json()) == described
    shown = described.model_dump(mode="json", exclude_defaults=True)
    assert {"opset", "producer", "parameters", "artifact", "chosen"}.isdisjoint(shown)
