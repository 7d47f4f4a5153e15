import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.scoring.diversity import (
    compression_ratio,
    distinct_n,
    diversity,
    length_matched,
    mean_distance,
    near_duplicates,
    nearest_distance,
    vendi,
)
from fleet_pipeline.scoring.scores import Score
from fleet_pipeline.scoring.similarity import LEXICAL, similarities

pytestmark = pytest.mark.unit

DIFFERENT = [
    "A token bucket refills at a fixed rate and each request takes one token.",
    "Sliding windows count events per client in Redis sorted sets.",
    "Put nginx in front and let limit_req shed the load.",
]


def frame(*councils: list[str], initial: list[str] | None = None) -> pd.DataFrame:
    rows = [
        {"deliberation_id": f"d{n}", "agent_id": f"a{seat}", "text": text, "initial_text": (initial or texts)[seat]}
        for n, texts in enumerate(councils)
        for seat, text in enumerate(texts)
    ]
    return pd.DataFrame(rows, columns=["deliberation_id", "agent_id", "text", "initial_text"])


def figures(texts: list[str], phase: str = "final", initial: list[str] | None = None) -> dict[str, float]:
    found = diversity(frame(texts, initial=initial))
    return {score.metric: score.value for score in found if score.phase == phase and score.agent_id is None}


def of_seats(scores: list[Score], metric: str) -> dict[str, float]:
    return {score.agent_id: score.value for score in scores if score.metric == metric and score.phase != "initial"}


@pytest.mark.parametrize("n", [1, 2, 3, 15, 64])
@pytest.mark.parametrize("text", ["the same words", "", "!!!", "漢字", "the of and"])
def test_n_copies_are_one_proposal_in_effect_at_distance_0(n: int, text: str) -> None:
    copies = figures([text] * n)
    assert copies["vendi"] == pytest.approx(1.0)
    assert copies["duplicates"] == pytest.approx((n - 1) / n)
    assert copies["near_duplicates"] == pytest.approx((n - 1) / n)
    assert copies.get("mean_distance") == (pytest.approx(0.0, abs=1e-9) if n > 1 else None)


@pytest.mark.parametrize("n", [2, 5, 20, 64])
def test_unrelated_texts_are_n_proposals_in_effect(n: int) -> None:
    texts = [" ".join(f"word{text}x{word}" for word in range(30)) for text in range(n)]
    assert figures(texts)["vendi"] == pytest.approx(n, rel=0.02)
    assert figures(texts)["mean_distance"] > 0.98


def test_copies_are_less_diverse_than_variants_and_those_than_different_answers() -> None:
    copies = [DIFFERENT[0]] * 3
    variants = [DIFFERENT[0], DIFFERENT[0] + " Bursts are allowed.", DIFFERENT[0].replace("fixed", "steady")]
    scores = [figures(texts)["vendi"] for texts in (copies, variants, DIFFERENT)]
    assert scores[0] < scores[1] < scores[2]


texts_of_any_kind = st.lists(st.text(max_size=60), min_size=1, max_size=8)
# Few words, so that texts share some: what random Unicode hardly ever does.
texts_that_share_words = st.lists(
    st.lists(st.sampled_from(["cache", "queue", "retry", "the", "limit", "index"]), max_size=8).map(" ".join),
    min_size=1,
    max_size=8,
)


@given(texts_of_any_kind | texts_that_share_words, st.data())
def test_scores_stay_in_their_ranges_on_any_text(texts: list[str], data) -> None:
    initial = data.draw(st.lists(st.text(max_size=60), min_size=len(texts), max_size=len(texts)))
    n = len(texts)
    ranges = {
        "vendi": (1, n), "mean_distance": (0, 1), "duplicates": (0, 1), "near_duplicates": (0, 1), "distinct_2": (0, 1),
        "compression_ratio": (0, 1_000), "novelty": (0, 1), "consensus": (0, 1), "moved": (0, 1), "adopted": (0, 1), "vendi_change": (1 - n, n - 1),
    }  # fmt: skip
    for score in diversity(frame(texts, initial=initial)):
        low, high = ranges[score.metric]
        assert low - 1e-9 <= score.value <= high + 1e-9, score


@given(texts_of_any_kind | texts_that_share_words, st.randoms())
def test_the_order_of_proposals_changes_no_score(texts: list[str], random) -> None:
    shuffled = texts.copy()
    random.shuffle(shuffled)
    one, two = figures(texts), figures(shuffled)
    assert one == pytest.approx(two)


@given(texts_of_any_kind | texts_that_share_words, st.data())
def test_another_copy_never_raises_the_vendi_score(texts: list[str], data) -> None:
    copied = [*texts, data.draw(st.sampled_from(texts))]
    assert figures(copied)["vendi"] <= figures(texts)["vendi"] + 1e-9


@given(st.floats(0, 1), st.integers(2, 5))
def test_vendi_of_known_matrices(s: float, n: int) -> None:
    """Two items of similarity s: eigenvalues (1 + s) / 2 and (1 - s) / 2."""
    p, q = (1 + s) / 2, (1 - s) / 2
    entropy = -sum(x * np.log(x) for x in (p, q) if x > 0)
    assert vendi(np.array([[1, s], [s, 1]])) == pytest.approx(np.exp(entropy), abs=1e-6)
    assert vendi(np.eye(n)) == pytest.approx(n)


@given(texts_of_any_kind, texts_of_any_kind)
def test_a_council_s_diversity_does_not_depend_on_which_others_are_scored_with_it(mine, other) -> None:
    together = [score for score in diversity(frame(mine, other)) if score.deliberation_id == "d0"]
    alone = diversity(frame(mine))
    assert [score._replace(value=0) for score in together] == [score._replace(value=0) for score in alone]
    assert [score.value for score in together] == pytest.approx([score.value for score in alone])


@pytest.mark.parametrize("text", ["", "word", "مرحبا بالعالم", "x " * 500_000, "a" * 1_000_000])
def test_texts_of_extreme_length_and_direction_are_scored(text: str) -> None:
    found = figures([text, DIFFERENT[0], DIFFERENT[1]])
    assert 2 <= found["vendi"] <= 3.000001


def test_novelty_is_the_distance_to_the_nearest_peer() -> None:
    novelty = of_seats(diversity(frame([DIFFERENT[0], DIFFERENT[0], DIFFERENT[1]])), "novelty")
    assert novelty["a0"] == novelty["a1"] == pytest.approx(0.0, abs=1e-9)
    assert novelty["a2"] > 0.5


def test_an_agent_alone_has_no_distance() -> None:
    assert mean_distance(np.eye(1)) is None
    assert nearest_distance(np.eye(1)) == [None]
    assert figures(["one"])["vendi"] == 1.0


def test_a_third_text_does_not_change_how_alike_two_are() -> None:
    alone, beside = similarities(DIFFERENT[:2]), similarities(DIFFERENT)
    assert beside[0, 1] == alone[0, 1]


def test_inflections_and_names_in_camel_and_snake_case_are_the_same_words() -> None:
    one, other = "Limits requests by tokenBucket", "limit a request by token_buckets"
    assert similarities([one, other])[0, 1] == pytest.approx(1.0)


def test_conformity_shows_as_a_loss_of_diversity_by_revision() -> None:
    change = figures([DIFFERENT[0]] * 3, phase="revision", initial=DIFFERENT)
    assert change["vendi_change"] == pytest.approx(1.0 - figures(DIFFERENT)["vendi"])
    assert change["vendi_change"] < -1.5


def test_who_moved_and_towards_whom() -> None:
    revised = [DIFFERENT[0], f"{DIFFERENT[1]} {DIFFERENT[0]}", DIFFERENT[2]]
    scores = diversity(frame(revised, initial=DIFFERENT))
    moved = of_seats(scores, "moved")
    assert moved["a0"] == moved["a2"] == pytest.approx(0.0, abs=1e-9)
    assert moved["a1"] > 0.2
    assert [(s.agent_id, s.peer_id) for s in scores if s.metric == "adopted"] == [("a1", "a0")]


def test_every_figure_has_its_version_and_number() -> None:
    for score in diversity(frame(DIFFERENT)):
        assert score.version == (
            LEXICAL if score.metric not in ("duplicates", "distinct_2", "compression_ratio") else "1"
        )
        assert score.n == 3


def test_proposals_that_were_never_revised_have_no_other_phase() -> None:
    proposals = frame(DIFFERENT).drop(columns="initial_text")
    assert {score.phase for score in diversity(proposals)} == {"final"}


def test_seats_without_a_proposal_are_left_out_and_none_at_all_is_no_error() -> None:
    assert {score.n for score in diversity(frame([*DIFFERENT, None]))} == {3}
    assert diversity(frame()) == []


def test_distinct_n_and_compression_are_of_texts_cut_to_one_length() -> None:
    """Longer texts repeat more: without this the longer council would look the less diverse one."""
    short, long = "alpha beta gamma delta", "alpha beta gamma delta " + "epsilon " * 50
    assert distinct_n(length_matched([short, long]), 2) == distinct_n(length_matched([short, short]), 2) == 0.5
    assert compression_ratio(length_matched([short, long])) == compression_ratio(length_matched([short, short]))
    assert distinct_n([["one"]], 2) is None
    assert compression_ratio(length_matched(["", " "])) is None


@given(st.integers(1, 9).flatmap(lambda n: st.lists(st.booleans(), min_size=n * n, max_size=n * n)))
def test_near_duplicates_are_all_but_one_of_each_linked_group(links: list[bool]) -> None:
    from scipy.sparse.csgraph import connected_components

    n = round(len(links) ** 0.5)
    upper = np.triu(np.array(links).reshape(n, n), 1)
    matrix = (upper | upper.T).astype(float) + np.eye(n)
    groups, _ = connected_components(matrix, directed=False)
    assert near_duplicates(matrix) == float(1 - groups / n)
