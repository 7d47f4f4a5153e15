from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_pipeline.scoring.diversity import diversity, mean_distance, nearest_distance, vendi
from fleet_pipeline.scoring.similarity import similarities

DIFFERENT = [
    "A token bucket refills at a fixed rate and each request takes one token.",
    "Sliding windows count events per client in Redis sorted sets.",
    "Put nginx in front and let limit_req shed the load.",
]


def frame(*councils: list[str]) -> pd.DataFrame:
    rows = [
        {"deliberation_id": f"d{n}", "agent_id": f"a{seat}", "text": text, "initial_text": text}
        for n, texts in enumerate(councils)
        for seat, text in enumerate(texts)
    ]
    return pd.DataFrame(rows, columns=["deliberation_id", "agent_id", "text", "initial_text"])


def matrix(texts: list[str]):
    ((_, found),) = similarities(texts, ["g"] * len(texts))
    return found


def figures(texts: list[str]) -> dict:
    return diversity(frame(texts))[1]["d0"]


@pytest.mark.parametrize("n", [1, 2, 3, 15, 64])
@pytest.mark.parametrize("text", ["the same words", "", "!!!", "漢字"])
def test_n_copies_are_one_proposal_in_effect(n: int, text: str) -> None:
    copies = figures([text] * n)
    assert copies["vendi"] == pytest.approx(1.0)
    assert copies["duplicates"] == n - 1
    assert copies["mean_distance"] == (pytest.approx(0.0, abs=1e-9) if n > 1 else None)


@pytest.mark.parametrize("n", [2, 5, 20])
def test_unrelated_texts_are_n_proposals_in_effect(n: int) -> None:
    texts = [" ".join(f"word{text}x{word}" for word in range(30)) for text in range(n)]
    assert figures(texts)["vendi"] == pytest.approx(n)
    assert figures(texts)["mean_distance"] == pytest.approx(1.0)


def test_copies_are_less_diverse_than_variants_and_those_than_different_answers() -> None:
    copies = [DIFFERENT[0]] * 3
    variants = [DIFFERENT[0], DIFFERENT[0] + " Bursts are allowed.", DIFFERENT[0].replace("fixed", "steady")]
    scores = [figures(texts)["vendi"] for texts in (copies, variants, DIFFERENT)]
    assert scores == sorted(scores)
    assert scores[0] < scores[1] < scores[2]


texts_of_any_kind = st.lists(st.text(max_size=60), min_size=1, max_size=8)


@settings(deadline=None)
@given(texts_of_any_kind)
def test_scores_stay_in_their_ranges_on_any_text(texts: list[str]) -> None:
    found = figures(texts)
    assert 1.0 <= found["vendi"] <= len(texts)
    assert found["mean_distance"] is None or 0.0 <= found["mean_distance"] <= 1.0
    scores, _ = diversity(frame(texts))
    assert scores["novelty"].dropna().between(0, 1).all()


@settings(deadline=None)
@given(texts_of_any_kind, st.randoms())
def test_the_order_of_proposals_changes_no_score(texts: list[str], random) -> None:
    shuffled = texts.copy()
    random.shuffle(shuffled)
    one, two = figures(texts), figures(shuffled)
    assert one == pytest.approx(two)


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(2, 5))
def test_vendi_of_known_matrices(s: float, n: int) -> None:
    """Two items of similarity s: eigenvalues (1 + s) / 2 and (1 - s) / 2."""
    p, q = (1 + s) / 2, (1 - s) / 2
    entropy = -sum(x * np.log(x) for x in (p, q) if x > 0)
    assert vendi(np.array([[1, s], [s, 1]])) == pytest.approx(np.exp(entropy), abs=1e-6)
    assert vendi(np.eye(n)) == pytest.approx(n)


@settings(deadline=None)
@given(texts_of_any_kind, texts_of_any_kind)
def test_a_council_s_scores_do_not_depend_on_which_others_are_scored_with_it(mine, other) -> None:
    alone, together = diversity(frame(mine))[1]["d0"], diversity(frame(mine, other))[1]["d0"]
    assert alone == pytest.approx(together)


def test_novelty_is_the_distance_to_the_nearest_peer() -> None:
    scores, _ = diversity(frame([DIFFERENT[0], DIFFERENT[0], DIFFERENT[1]]))
    novelty = scores["novelty"].tolist()
    assert novelty[0] == novelty[1] == pytest.approx(0.0, abs=1e-9)
    assert novelty[2] > 0.5


def test_an_agent_alone_has_no_distance() -> None:
    assert mean_distance(matrix(["one"])) is None
    assert nearest_distance(matrix(["one"])) == [None]
    assert figures(["one"])["vendi"] == 1.0


def test_before_and_after_revision_are_told_apart() -> None:
    proposals = frame(DIFFERENT)
    proposals["text"] = DIFFERENT[0]
    _, found = diversity(proposals)
    assert found["d0"]["initial_vendi"] > 2.5
    assert found["d0"]["vendi"] == pytest.approx(1.0)
    assert found["d0"]["duplicates"] == 2


def test_seats_without_a_proposal_are_left_out() -> None:
    proposals = frame([*DIFFERENT, None])
    scores, found = diversity(proposals)
    assert len(scores) == 3
    assert found["d0"]["vendi"] <= 3


def test_no_proposals_at_all_is_no_error() -> None:
    scores, found = diversity(frame())
    assert len(scores) == 0
    assert found == {}
