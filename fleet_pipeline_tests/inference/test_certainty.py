"""How sure an engine was of an answer: the figures, from log-probabilities."""

import math

import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.inference.certainty import Certainty, certainty

pytestmark = pytest.mark.unit


def test_the_figures_are_those_of_their_definitions() -> None:
    """Two tokens out of a vocabulary of four, all of whose log-probabilities are given."""
    first, second = [0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1]
    found = certainty([[math.log(p[0]), *map(math.log, p)] for p in (first, second)], 4)
    divergences = [-sum(math.log(4 * p) for p in of) / 4 for of in (first, second)]
    assert found is not None
    assert found.mean_logprob == pytest.approx((math.log(0.7) + math.log(0.4)) / 2)
    assert found.self_certainty == pytest.approx(sum(divergences) / 2)


def test_what_the_likeliest_leave_is_spread_evenly() -> None:
    whole = [0.5, 0.2, 0.1, 0.1, 0.1]
    of_two = certainty([[math.log(0.5), math.log(0.5), math.log(0.2)]], 5)
    of_all = certainty([[math.log(0.5), *map(math.log, whole)]], 5)
    assert of_two is not None
    assert of_all is not None
    assert of_two.self_certainty == pytest.approx(of_all.self_certainty)


def test_what_a_schema_forbids_has_no_part() -> None:
    found = certainty([[-0.1, -0.1, -math.inf]], 100)
    assert found == certainty([[-0.1, -0.1]], 100)
    assert found is not None
    assert found.self_certainty is not None
    assert math.isfinite(found.self_certainty)


def test_without_likeliest_there_is_the_mean_alone_and_without_a_token_nothing() -> None:
    assert certainty([[-1.0], [-3.0]], 100) == Certainty(-2.0, None)
    assert certainty([], 100) is None


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=20), st.integers(2, 10))
def test_no_distribution_is_less_sure_than_an_even_one(weights: list[float], shown: int) -> None:
    shares = sorted((weight / sum(weights) for weight in weights), reverse=True)
    likeliest = [math.log(share) for share in shares[:shown]]
    found = certainty([[likeliest[0], *likeliest]], len(shares))
    assert found is not None
    assert found.self_certainty is not None
    assert found.self_certainty >= -1e-9
    even = certainty([[-math.log(len(shares))] * (1 + min(shown, len(shares)))], len(shares))
    assert even is not None
    assert even.self_certainty == pytest.approx(0, abs=1e-6)
