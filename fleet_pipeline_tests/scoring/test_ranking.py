from dataclasses import asdict
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from fleet_pipeline.common.frames import records
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.scoring.options import Method, Weights
from fleet_pipeline.scoring.proposals import final_proposals, proposal_rows
from fleet_pipeline.scoring.ranking import ENOUGH, LEAST, rank, score
from fleet_pipeline.storage.schemas import UTTERANCES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_file
from fleet_pipeline.storage.transcripts import Provenance, write_transcript
from fleet_pipeline_tests.support.councils import OVERLONG, a_deliberation, failing, play
from fleet_pipeline_tests.support.rows import a_seat

pytestmark = pytest.mark.unit

NAN = float("nan")


def parts(*rows: tuple[float, ...], key: str = "d") -> pd.DataFrame:
    """A row is fit, coverage, novelty, checks and, where it has a fifth, form."""
    frame = pd.DataFrame([(*row, NAN)[:5] for row in rows], columns=["fit", "coverage", "novelty", "checks", "form"])
    frame["agent_id"] = [f"a{n}" for n in range(len(frame))]
    frame["deliberation_id"] = key
    return frame


def ranked(*scores: float, judge: list[float] | None = None, method: Method = "score", k: int = 64) -> pd.DataFrame:
    frame = pd.DataFrame({"deliberation_id": "d", "agent_id": [f"a{n}" for n in range(len(scores))], "score": scores})
    if judge is not None:
        frame["judge"] = judge
        frame["strength"] = [chance / (1.001 - chance) for chance in judge]
    return rank(frame, method, {"d": k})


def test_the_score_is_the_declared_weighted_mean_of_its_parts() -> None:
    weights = Weights(fit=0.4, coverage=0.2, novelty=0.1, checks=0.1, form=0.2)
    found = score(parts((0.5, 1.0, 0.5, 0.0, 0.6)), weights)
    relevance = (0.5 + 1.0) / 2
    assert found["relevance"].item() == pytest.approx(relevance)
    assert found["score"].item() == pytest.approx(0.4 * 0.5 + 0.2 * 1.0 + 0.1 * 0.5 * relevance + 0.2 * 0.6)


def test_an_absent_part_leaves_its_weight_to_the_others() -> None:
    assert score(parts((0.5, NAN, NAN, NAN)), Weights())["score"].item() == pytest.approx(0.5)


def test_weights_that_no_present_part_has_leave_no_lottery() -> None:
    """All scores were 0, and the winner drawn by lot, where coverage alone had weight and a task no points."""
    found = score(
        parts((0.2, NAN, 0.5, NAN), (0.6, NAN, 0.5, NAN)), Weights(fit=0, coverage=1, novelty=0, checks=0, form=0)
    )
    assert found["relevance"].tolist() == pytest.approx([0.2, 0.6])
    assert found["score"].iloc[0] < found["score"].iloc[1]


def test_novelty_and_sound_code_count_only_as_far_as_a_proposal_is_relevant() -> None:
    """A text on another subject is the most novel of all."""
    weights = Weights(fit=0.4, coverage=0.4, novelty=0.1, checks=0.1, form=0)
    beside, answer = score(parts((0.0, 0.0, 1.0, 1.0), (0.3, 0.3, 0.2, NAN)), weights)["score"]
    assert beside == 0
    assert answer > 0.2


def test_form_counts_in_full_from_some_relevance_on_and_least_without_any() -> None:
    weights = Weights(fit=0, coverage=1, novelty=0, checks=0, form=1)
    found = score(parts(*((0.0, share, NAN, NAN, 0.8) for share in (0.0, ENOUGH, 2 * ENOUGH, 1.0))), weights)
    counted = 2 * found["score"] - found["coverage"]
    assert counted.tolist() == pytest.approx([LEAST * 0.8, (LEAST + (1 - LEAST) / 2) * 0.8, 0.8, 0.8])


def test_a_winner_has_a_confidence_that_grows_with_its_lead_and_falls_with_the_number_of_its_rivals() -> None:
    def confidence(*scores: float, **more: Any) -> float:
        found = ranked(*scores, **more)
        assert found["confidence"].notna().tolist() == found["winner"].tolist()
        return float(found.query("winner")["confidence"].item())

    assert confidence(0.5, 0.5, 0.1) == pytest.approx(0.5)
    assert 0.5 < confidence(0.5, 0.49, 0.1) < confidence(0.5, 0.4, 0.1) < confidence(0.9, 0.1, 0.1) < 1
    assert confidence(0.5, 0.4) == confidence(0.5, 0.4, 0.1) > confidence(0.5, 0.4, 0.1, 0.1, 0.1, 0.1)
    judged = confidence(0.5, 0.4, judge=[0.5, 0.8], method="judge")
    assert judged == pytest.approx(0.8, abs=1e-3)  # of strengths of 4 and 1
    assert confidence(0.5, 0.4, judge=[1.0, 0.0], method="judge") < 1
    assert ranked(0.5)["confidence"].isna().all()
    alone = confidence(0.5, 0.4, 0.3, judge=[0.2, 0.9, 0.5], method="judge", k=1)
    assert alone == confidence(0.5, 0.4, 0.3)  # by score, which made it the one candidate


def test_ranks_have_no_gaps_and_ties_are_said() -> None:
    found = ranked(0.9, 0.5, 0.5, 0.1)
    assert found["rank"].tolist() == [1, 2, 2, 3]
    assert found["tied"].tolist() == [False, True, True, False]
    assert found["winner"].tolist() == [True, False, False, False]
    assert found["won_by"].dropna().tolist() == ["score"]


def test_a_tied_winner_is_drawn_by_lot_says_so_and_is_not_always_the_first_agent() -> None:
    """The original scored everything 1.0, and the first agent won every deliberation."""
    councils = pd.concat([ranked(0.5, 0.5, 0.5).assign(deliberation_id=f"d{n}") for n in range(60)], ignore_index=True)
    winners = rank(councils.drop(columns=["judge"])).query("winner")
    assert set(winners["won_by"]) == {"score"}
    assert winners["by_lot"].all()
    counts = winners["agent_id"].value_counts()
    assert set(counts.index) == {"a0", "a1", "a2"}
    assert counts.max() < 40


def test_only_the_k_best_by_score_are_candidates_of_the_judge() -> None:
    found = ranked(0.9, 0.8, 0.7, 0.1, judge=[0.2, 0.6, 0.5, 0.99], method="judge", k=3)
    assert found["candidate"].tolist() == [True, True, True, False]
    assert found["rank"].tolist() == [3, 1, 2, 4]
    assert found.query("winner")["won_by"].tolist() == ["judge"]


def test_a_tie_at_the_k_th_place_makes_more_candidates_rather_than_a_lot() -> None:
    assert ranked(0.9, 0.5, 0.5, 0.1, k=2)["candidate"].tolist() == [True, True, True, False]


def test_both_is_the_mean_of_score_and_judge() -> None:
    found = ranked(0.9, 0.6, judge=[0.2, 0.7], method="both")
    assert found["choice"].tolist() == pytest.approx([0.55, 0.65])
    assert found["winner"].tolist() == [False, True]


def test_a_consensus_wins_over_a_better_score_and_is_trusted_no_further_than_the_scores_say() -> None:
    seats = pd.DataFrame(
        {"deliberation_id": "d", "agent_id": list("abc"), "score": [0.9, 0.5, 0.1], "consensus": [0.2, 0.6, 0.5]}
    )
    found = rank(seats, "consensus")
    assert found.query("winner")[["agent_id", "won_by"]].to_numpy().tolist() == [["b", "consensus"]]
    assert found["confidence"].max() > 0.5  # the next is c, whose score is lower
    against = rank(seats.assign(consensus=[0.5, 0.6, 0.2]), "consensus")
    assert against["confidence"].max() < 0.5  # the next is a
    alone = rank(seats.assign(consensus=[0.2, NAN, 0.5]), "consensus")
    assert alone.query("winner")[["agent_id", "won_by"]].to_numpy().tolist() == [["a", "score"]]


@pytest.mark.parametrize("judge", [[NAN, NAN], [0.9, NAN]])
def test_without_a_verdict_on_every_seat_the_score_decides_and_that_is_said(judge: list[float]) -> None:
    found = ranked(0.3, 0.6, judge=judge, method="judge")
    assert found["winner"].tolist() == [False, True]
    assert found["won_by"].dropna().tolist() == ["score"]


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 5), min_size=1, max_size=12), st.integers(1, 12), st.randoms())
def test_order_changes_neither_rank_nor_winner_and_each_council_has_one_winner(rows, k, random) -> None:
    frame = score(parts(*rows), Weights())
    frame["judge"] = frame["fit"]
    shuffled = frame.sample(frac=1, random_state=random.randrange(1_000))
    one, two = (rank(f, "both", {"d": k}).set_index("agent_id").sort_index() for f in (frame, shuffled))
    assert one["rank"].tolist() == two["rank"].tolist()
    assert one["winner"].tolist() == two["winner"].tolist()
    assert one["winner"].sum() == 1
    assert one.loc[one["winner"], "candidate"].all()
    assert sorted(set(one["rank"])) == list(range(1, one["rank"].max() + 1))
    assert one["score"].between(0, 1).all()


@pytest.mark.parametrize("weights", [{"fit": 0, "coverage": 0, "novelty": 1}, {"novelty": 2}, {"novelty": -1}])
def test_weights_that_say_nothing_are_refused(weights: dict) -> None:
    with pytest.raises(ValidationError):
        Weights(**weights)


def test_final_proposals_are_found_in_what_was_said() -> None:
    store, deliberation = Store("memory://finals"), a_deliberation(num_agents=4, rounds=2)
    transcript, _ = play(deliberation, failing("B", Phase.PROPOSE, OVERLONG))
    write_transcript(store, deliberation, transcript, Provenance("m", "scripted", "r", "f"), 0.0, 1.0)
    file = read_file(store, UTTERANCES, deliberation.id)
    assert file is not None
    found = final_proposals(file.content.to_pandas()).set_index("label")
    assert found["initial_text"].dropna().to_dict() == {seat: f"{seat} propose 0 on {seat}" for seat in "ACD"}
    assert found["text"].dropna().to_dict() == {seat: f"{seat} revise 2 on {seat}" for seat in "ACD"}
    assert found["revisions"].to_dict() == {"A": 2, "B": 0, "C": 2, "D": 2}
    assert found.loc["B", ["error_type", "error_message"]].tolist() == ["overlong", "too long"]
    assert found["error_type"].isna().to_dict() == {"A": True, "B": False, "C": True, "D": True}


def test_a_score_that_no_column_takes_is_an_error_and_not_lost() -> None:
    seats = pd.DataFrame([asdict(a_seat(1)) | {"novlety": 0.5}])
    with pytest.raises(ValidationError, match="novlety"):
        proposal_rows(records(seats), "run")
    assert proposal_rows(records(seats.drop(columns="novlety")), "run")[0].text == "a proposal"


def test_a_revision_that_did_not_count_leaves_the_proposal() -> None:
    store, deliberation = Store("memory://kept"), a_deliberation(num_agents=3)
    transcript, _ = play(deliberation, failing("C", Phase.REVISE, OVERLONG))
    write_transcript(store, deliberation, transcript, Provenance("m", "scripted", "r", "f"), 0.0, 1.0)
    file = read_file(store, UTTERANCES, deliberation.id)
    assert file is not None
    found = final_proposals(file.content.to_pandas()).set_index("label")
    assert found.loc["C", "text"] == found.loc["C", "initial_text"] == "C propose 0 on C"
    assert found["error_type"].isna().all()
