from mopt.records.sizing import Curve, Sizing
from tests.sizings import option, sizing, span


def test_it_survives_json_where_nothing_holds_and_where_the_range_has_no_end():
    endless = option("other", spread=0.2, replicas=span(3).model_copy(update={"high": float("inf")}))
    curve = Curve(name="here", role="chosen", rates=(1.0, 2.0), values=(3.0, float("inf")))
    for made in (sizing(), sizing(option(), endless, cost=(curve,), daily=(1.0,) * 24)):
        assert Sizing.model_validate_json(made.model_dump_json()) == made
