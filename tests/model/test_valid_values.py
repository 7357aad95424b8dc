import numpy as np
import pytest

from mopt.model.valid_values import valid_values
from tests.passes import graphs


@pytest.mark.parametrize(
    ("operators", "low", "high"),
    [
        ("y = Gather (table, i)", 0, 29),
        ("y = Gather <axis = 1> (table, i)", 0, 15),
        ("c = Cast <to = 7> (i) u = Unsqueeze (c, zero) y = Gather (table, u)", 0, 29),
        ("a = Gather (table, i) b = Gather <axis = 1> (table, i) y = Add (a, b)", 0, 15),
        ("y = GatherElements <axis = 1> (x, i)", 0, 7),
        ("y = GatherND (table, i)", 0, 15),
        ("y = Gather <axis = 2> (loose, i)", 0, 0),
        ("c = Cast <to = 1> (i) y = Div (x, c)", 1, 1),
        ("c = Cast <to = 1> (i) y = Add (x, c)", None, None),
    ],
)
def test_what_an_index_or_a_divisor_may_be(tmp_path, operators, low, high):
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (int32[batch, 2] i, float[batch, 8] x, float[batch, 2, length] loose) => (y) {{ {operators} }}
    """
    arrays = graphs.weights(table=(30, 16)) | {"zero": np.array([0])}
    expected = {} if low is None else {"i": (low, high)}
    assert valid_values(graphs.model(tmp_path, text, arrays).file) == expected
