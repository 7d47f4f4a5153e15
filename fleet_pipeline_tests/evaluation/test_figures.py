"""Rates, intervals, and what each arm may spend."""

import pytest
from hypothesis import given, strategies as some

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.evaluation.arms import ARMS, BEST, COUNCIL, ONE, Arm
from fleet_pipeline.evaluation.figures import Case, difference, rate

pytestmark = pytest.mark.unit


def case(repository: str, arm: str, solved: bool, repeat: int = 1) -> Case:
    return Case(repository, arm, repeat, solved, "", None, 0, 0, 0)


@given(arm=some.sampled_from(ARMS), answers=some.integers(COUNCIL.least, 2_000))
def test_all_arms_have_the_same_ceiling_and_leave_less_than_a_step_of_each_turn(arm: Arm, answers: int) -> None:
    turns, critiques = arm.agents * (1 + arm.rounds), arm.agents * arm.rounds
    most = turns * arm.steps(answers) + critiques
    assert most <= answers < most + turns


def test_too_few_answers_are_refused_with_how_many_it_takes() -> None:
    assert [arm.steps(39) for arm in (ONE, BEST, COUNCIL)] == [39, 13, 6]
    assert [arm.least for arm in (ONE, BEST, COUNCIL)] == [1, 3, 9]
    for arm in ARMS:
        assert arm.steps(arm.least) == 1
    with pytest.raises(InvalidInput, match="8 answers are too few for a council of three; give 9 at least"):
        COUNCIL.steps(8)


@pytest.mark.parametrize(
    ("solved", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (1, 20, 0.0089, 0.2361)]
)  # fmt: skip
def test_an_interval_is_wilson_s(solved: int, n: int, low: float, high: float) -> None:
    found = rate(solved, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


@given(n=some.integers(0, 500), data=some.data())
def test_a_rate_lies_in_its_interval_and_both_between_0_and_1(n: int, data: some.DataObject) -> None:
    found = rate(data.draw(some.integers(0, n)), n)
    assert 0 <= found.low <= found.high <= 1
    assert n == 0 or found.low - 1e-12 <= found.value <= found.high + 1e-12


def test_a_difference_is_between_the_same_repositories() -> None:
    first = [case(name, "council", name in "abcdefgh") for name in "abcdefghij"]
    second = [case(name, "one", name in "ab") for name in "abcdefghijz"]
    found = difference(first, second)
    assert found.value == pytest.approx(0.6)
    assert 0 < found.low < 0.6 < found.high < 1
    assert difference(first, first) == difference(second, second)  # none at all
    assert difference(first, []).low == -1


def test_repeats_of_a_repository_count_as_one() -> None:
    often = [case("a", "council", n % 2 == 0, n) for n in range(100)] + [case("b", "council", True)]
    assert difference(often, [case("a", "one", False), case("b", "one", False)]).value == pytest.approx(0.75)
