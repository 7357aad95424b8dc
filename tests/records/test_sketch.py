from mopt.records.sketch import FeatureSketch, Sketch

FEATURE = FeatureSketch(
    role="input", tensor="x", name="value", count=9, zeros=0, missing=0, mean=5, variance=1, least=1, greatest=9,
    edges=(1, 5, 9), ties=(0.1, 0.2, 0.3), ranks=(1, 5, 9), categories={"1": 9},
)  # fmt: skip


def test_the_weights_are_the_ranks_between_the_edges():
    assert FEATURE.weights == (1, 4, 4, 1)


def test_a_sketch_survives_json_with_an_infinite_edge():
    feature = FEATURE.model_copy(update={"edges": (1.0, 5.0, float("inf"))})
    sketch = Sketch(samples=9, class_scores=(), vocabularies={"t": (1, 2)}, features=(feature,))
    assert Sketch.model_validate_json(sketch.model_dump_json()) == sketch
