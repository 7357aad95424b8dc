from mopt.records.explanation import Explanation
from tests.cli.results import explanation


def test_an_infinite_signal_over_noise_survives_json():
    made = explanation()
    exact = made.layers[0].model_copy(update={"sqnr_db": float("inf")})
    made = made.model_copy(update={"layers": (exact, *made.layers[1:])})
    assert Explanation.model_validate_json(made.model_dump_json()) == made
    assert '"Infinity"' in made.model_dump_json()
