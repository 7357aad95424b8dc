from collections.abc import Iterator

import pytest

from mopt.search.spaces._base import GraphTraits, SearchSpace, SpaceInputs
from mopt.search.trial import Candidate
from tests.search.cases import candidate
from tests.search.spaces.models import CNN, LSTM, TRANSFORMER, TREES, cpu, inputs


@pytest.mark.parametrize(
    ("traits", "transformer", "arithmetic"), [(CNN, False, 21), (TRANSFORMER, True, 24), (LSTM, False, 3), (TREES, False, 0)]
)
def test_attention_is_the_mark_of_a_transformer(traits: GraphTraits, transformer: bool, arithmetic: int) -> None:
    assert (traits.transformer, traits.arithmetic) == (transformer, arithmetic)


class Family(SearchSpace):
    """The least that a search space is."""

    def candidates(self, inputs: SpaceInputs) -> Iterator[Candidate]:
        yield candidate(f"mine-{inputs.threads}")


def test_the_least_that_a_space_is_has_candidates_and_nothing_else() -> None:
    asked = inputs(CNN, cpu())
    assert [each.name for each in Family().candidates(asked)] == ["mine-2"]
    assert list(Family().smaller(asked)) == []
    assert Family().defaults(asked) == {}
