from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.scoring.proposals import final_proposals
from fleet_pipeline.scoring.ranking import Weights, rank
from fleet_pipeline.storage.rows import Provenance, write_transcript
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_rows
from fleet_pipeline_tests.deliberation.test_protocol import OVERLONG, failing
from fleet_pipeline_tests.helpers import a_deliberation, play

NAN = float("nan")


def scores(*rows: tuple[str, float, float, float]) -> pd.DataFrame:
    columns = ["deliberation_id", "similarity", "coverage", "novelty"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["agent_id"] = [f"a{n}" for n in range(len(frame))]
    return frame


def test_the_score_is_the_declared_weighted_mean_of_its_parts() -> None:
    ranked = rank(scores(("d", 0.5, 1.0, 0.0)), Weights(similarity=0.6, coverage=0.3, novelty=0.1))
    assert ranked["score"].item() == pytest.approx(0.6)
    assert ranked["relevance"].item() == pytest.approx((0.5 * 0.6 + 1.0 * 0.3) / 0.9)


def test_an_absent_part_leaves_its_weight_to_the_others() -> None:
    ranked = rank(scores(("d", 0.5, NAN, NAN)), Weights())
    assert ranked["score"].item() == pytest.approx(0.5)


def test_ranks_have_no_gaps_and_ties_are_said() -> None:
    ranked = rank(scores(("d", 0.9, 1, 1), ("d", 0.5, 1, 1), ("d", 0.5, 1, 1), ("d", 0.1, 1, 1)), Weights())
    assert ranked["rank"].tolist() == [1, 2, 2, 3]
    assert ranked["tied"].tolist() == [False, True, True, False]
    assert ranked["winner"].tolist() == [True, False, False, False]


def test_a_tied_winner_is_not_always_the_first_agent() -> None:
    """The original scored everything 1.0, and the first agent won every deliberation."""
    councils = [(f"d{n}", 0.5, 1.0, 1.0) for n in range(60) for _ in range(3)]
    frame = scores(*councils)
    frame["agent_id"] = [f"a{n % 3}" for n in range(len(frame))]
    winners = rank(frame, Weights()).query("winner")["agent_id"].value_counts()
    assert set(winners.index) == {"a0", "a1", "a2"}
    assert winners.max() < 40


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12),
    st.randoms(),
)
def test_order_changes_neither_rank_nor_winner_and_each_council_has_one_winner(parts, random) -> None:
    frame = scores(*[("d", *part) for part in parts])
    shuffled = frame.sample(frac=1, random_state=random.randrange(1_000))
    one, two = (rank(f, Weights()).set_index("agent_id").sort_index() for f in (frame, shuffled))
    assert one["rank"].tolist() == two["rank"].tolist()
    assert one["winner"].tolist() == two["winner"].tolist()
    assert one["winner"].sum() == 1
    assert sorted(set(one["rank"])) == list(range(1, one["rank"].max() + 1))


@pytest.mark.parametrize("weights", [{"similarity": 0, "coverage": 0, "novelty": 0}, {"novelty": 2}, {"novelty": -1}])
def test_weights_that_say_nothing_are_refused(weights: dict) -> None:
    with pytest.raises(ValidationError):
        Weights(**weights)


def test_final_proposals_are_found_in_what_was_said() -> None:
    store, deliberation = Store("memory://finals"), a_deliberation(num_agents=4, rounds=2)
    transcript, _ = play(deliberation, failing("B", Phase.PROPOSE, OVERLONG))
    write_transcript(store, deliberation, transcript, Provenance("m", "scripted", "r", "f"), 0.0, 1.0)
    table = read_rows(store, "utterances", deliberation.id)
    assert table is not None
    found = final_proposals(table.to_pandas()).set_index("label")
    assert found["initial_text"].dropna().to_dict() == {seat: f"{seat} propose 0 on {seat}" for seat in "ACD"}
    assert found["text"].dropna().to_dict() == {seat: f"{seat} revise 2 on {seat}" for seat in "ACD"}
    assert found["revisions"].to_dict() == {"A": 2, "B": 0, "C": 2, "D": 2}
    assert found.loc["B", ["error_type", "error_message"]].tolist() == ["overlong", "too long"]
    assert found["error_type"].isna().to_dict() == {"A": True, "B": False, "C": True, "D": True}


def test_a_revision_that_did_not_count_leaves_the_proposal() -> None:
    store, deliberation = Store("memory://kept"), a_deliberation(num_agents=3)
    transcript, _ = play(deliberation, failing("C", Phase.REVISE, OVERLONG))
    write_transcript(store, deliberation, transcript, Provenance("m", "scripted", "r", "f"), 0.0, 1.0)
    table = read_rows(store, "utterances", deliberation.id)
    assert table is not None
    found = final_proposals(table.to_pandas()).set_index("label")
    assert found.loc["C", "text"] == found.loc["C", "initial_text"] == "C propose 0 on C"
    assert found["error_type"].isna().all()
