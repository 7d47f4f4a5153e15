"""From verdicts to a ranking: Bradley-Terry against another's implementation, and what the judge is worth."""

from dataclasses import replace
from itertools import permutations

import choix
import numpy as np
import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.deliberation.exchange import AgentError
from fleet_pipeline.deliberation.rows import JudgementRow
from fleet_pipeline.scoring.confidence import by_judge
from fleet_pipeline.scoring.judge import (
    chances,
    judge_scores,
    position_consistency,
    rate_proposals,
    repeat_stability,
    strengths,
)
from fleet_pipeline_tests.scoring import pairing
from fleet_pipeline_tests.support.rows import a_judgement

pytestmark = pytest.mark.unit


def row(first: str, second: str, better: str | None, repeat: int = 1, marks=([3], [3])) -> JudgementRow:
    first_marks, second_marks = marks if better else (None, None)
    return a_judgement(first, second, repeat=repeat, better=better, first_marks=first_marks, second_marks=second_marks)


def by_merit(order: str, repeats: int = 2) -> list[JudgementRow]:
    """A judge that always prefers the earlier letter of `order`."""
    return [
        row(a, b, "first" if order.index(a) < order.index(b) else "second", repeat)
        for a, b in permutations(order, 2)
        for repeat in range(1, repeats + 1)
    ]


def test_strengths_agree_with_another_implementation() -> None:
    """choix's regularisation is of another kind, so the data are many and the ours is small beside them."""
    rng = np.random.default_rng(0)
    true = np.array([3.0, 1.5, 1.0, 0.4])
    pairs = [(i, j) for i, j in permutations(range(4), 2) for _ in range(500)]
    games = [(i, j) if rng.random() < true[i] / (true[i] + true[j]) else (j, i) for i, j in pairs]
    wins = np.zeros((1, 4, 4))
    for winner, loser in games:
        wins[0, winner, loser] += 1
    ours = np.log(strengths(wins)[0])
    theirs = choix.ilsr_pairwise(4, games, alpha=1e-4)
    assert ours - ours.mean() == pytest.approx(theirs - theirs.mean(), abs=0.01)


def test_a_proposal_that_wins_every_comparison_is_first_and_not_infinitely_strong() -> None:
    found = rate_proposals(by_merit("CAB"), seed=0)
    assert sorted(found, key=lambda agent: -found[agent].value) == ["C", "A", "B"]
    assert 0.75 < found["C"].value < 1
    assert 0 < found["B"].value < 0.25


def test_of_two_proposals_the_confidence_is_the_chance_by_bradley_and_terry() -> None:
    """Three wins to one, and half a win and half a defeat against an average peer for each: it was told as 0.87."""
    found = rate_proposals([row("A", "B", "first", n) for n in (1, 2, 3)] + [row("B", "A", "first")], seed=0)
    sure = by_judge(found["A"].strength, found["B"].strength)
    assert sure == pytest.approx(found["A"].value)
    assert 0.65 < sure < 0.75


def test_the_interval_holds_the_value_and_narrows_with_more_verdicts() -> None:
    mixed = [row("A", "B", better, n) for n, better in enumerate(["first", "second", "first", "equal"] * 3)]
    few, many = rate_proposals(mixed[:4], seed=0)["A"], rate_proposals(mixed * 10, seed=0)["A"]
    assert few.low <= few.value <= few.high
    assert many.high - many.low < few.high - few.low


def test_the_same_verdicts_have_the_same_intervals() -> None:
    assert rate_proposals(by_merit("ABC"), seed=3) == rate_proposals(by_merit("ABC"), seed=3)


def test_a_judge_that_always_prefers_what_it_reads_first_ranks_nobody_and_is_found_out() -> None:
    rows = [row(a, b, "first") for a, b in permutations("ABC", 2)]
    assert {agent: of.value for agent, of in rate_proposals(rows, seed=0).items()} == pytest.approx(
        dict.fromkeys("ABC", 0.5)
    )
    assert position_consistency(rows) == (0.0, 3)


def test_consistency_and_stability_are_shares_of_pairs_that_agree() -> None:
    steady = by_merit("ABC")
    assert position_consistency(steady) == (1.0, 6)
    assert repeat_stability(steady) == (1.0, 6)
    wavering = [
        row("A", "B", "first", 1),
        row("A", "B", "second", 2),
        row("B", "A", "equal", 1),
        row("B", "A", "equal", 2),
    ]
    assert repeat_stability(wavering) == (0.5, 2)
    assert position_consistency(wavering) == (0.0, 2)
    assert repeat_stability([row("A", "B", "first")]) is None


def test_an_answer_that_could_not_be_read_is_counted_and_not_guessed() -> None:
    rows = [*by_merit("AB", repeats=1), row("A", "B", None, 2), row("B", "A", None, 2)]
    assert rate_proposals(rows, seed=0) == rate_proposals(by_merit("AB", repeats=1), seed=0)
    figures = {score.metric: (score.value, score.n) for score in judge_scores("d", rows, rate_proposals(rows, seed=0))}
    assert figures["judge_unparseable"] == (0.5, 4)
    assert figures["judge_unanswered"] == (0.0, 4)
    assert rate_proposals([row("A", "B", None)], seed=0) == {}


def test_a_judge_that_was_not_heard_is_not_one_that_cannot_be_read() -> None:
    rows = [*by_merit("AB", repeats=1), replace(row("A", "B", None, 2), error_type=AgentError.DEADLINE)]
    figures = {score.metric: (score.value, score.n) for score in judge_scores("d", rows, rate_proposals(rows, seed=0))}
    assert figures["judge_unanswered"] == (pytest.approx(1 / 3), 3)
    assert figures["judge_unparseable"] == (0.0, 2)


def test_marks_are_means_over_every_comparison_of_a_proposal_by_criterion_and_over_all() -> None:
    rows = [row("A", "B", "first", marks=([5, 3], [2, 1])), row("B", "A", "second", marks=([1, 1], [4, 4]))]
    found = rate_proposals(rows, seed=0)
    assert {agent: of.marks for agent, of in found.items()} == {"A": [4.5, 3.5], "B": [1.5, 1.0]}
    stored = {(score.agent_id, score.metric): score.value for score in judge_scores("d", rows, found)}
    assert [stored["A", metric] for metric in ("judge_mark", "judge_mark_1", "judge_mark_2")] == [4.0, 4.5, 3.5]
    assert stored["B", "judge_mark"] == 1.25


def test_questions_on_the_leader_and_those_near_it_find_the_best_more_often_than_as_many_spread_evenly() -> None:
    assert pairing.found(8, 300, evenly=False) > pairing.found(8, 300, evenly=True) + 0.08


verdicts = st.lists(
    st.tuples(st.permutations("ABCD"), st.sampled_from(["first", "second", "equal", None]), st.integers(1, 3)),
    max_size=20,
)


@given(verdicts, st.randoms())
def test_chances_are_between_0_and_1_and_the_order_of_verdicts_changes_none(drawn, random) -> None:
    rows = [row(order[0], order[1], better, repeat) for order, better, repeat in drawn]
    found = rate_proposals(rows, seed=0)
    assert all(0 < of.value < 1 and 0 <= of.low <= of.high <= 1 for of in found.values())
    random.shuffle(rows)
    again = rate_proposals(rows, seed=0)
    assert {agent: of.value for agent, of in again.items()} == pytest.approx({a: of.value for a, of in found.items()})


def test_chances_of_equals_are_one_half_in_a_council_of_any_size() -> None:
    for n in (2, 3, 64):
        assert chances(np.ones((1, n)))[0] == pytest.approx([0.5] * n)
