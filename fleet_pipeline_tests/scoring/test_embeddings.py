"""Sentence embeddings: a real model, small, from a package."""

import pandas as pd
import pytest

from fleet_pipeline.common.errors import EmbeddingsUnavailable
from fleet_pipeline.scoring.embeddings import WORDS, Encoder
from fleet_pipeline.scoring.score import score_proposals
from fleet_pipeline_tests.scoring import measure
from fleet_pipeline_tests.support.councils import a_task

pytestmark = pytest.mark.engine

SAME = [
    "The cache is emptied every hour.",
    "Each hour all stored pages are thrown away.",
    "Pods restart when memory runs out.",
]


def test_texts_that_mean_the_same_in_other_words_are_alike(encoder: Encoder) -> None:
    matrix = encoder.similarities(SAME)
    assert matrix[0, 1] > matrix[0, 2] + 0.2
    assert ((matrix >= 0) & (matrix <= 1)).all()
    assert matrix.diagonal() == pytest.approx([1, 1, 1])


def test_the_end_of_a_long_text_counts_too(encoder: Encoder) -> None:
    """The model reads 256 pieces; without parts two long texts with one beginning would be equal."""
    beginning = "The cache is emptied every hour. " * (4 * WORDS // 6)
    matrix = encoder.similarities([beginning + SAME[2] * 60, beginning + SAME[1] * 60])
    assert matrix[0, 1] < 0.98


def test_texts_without_a_word_are_alike_only_to_themselves(encoder: Encoder) -> None:
    matrix = encoder.similarities(["", "", "words"])
    assert matrix[0, 1] == 1
    assert matrix[0, 2] == 0


def test_both_representations_are_stored_under_their_names_and_versions(encoder: Encoder) -> None:
    rows = [{"deliberation_id": "d", "agent_id": f"a{n}", "text": text} for n, text in enumerate(SAME)]
    scores = score_proposals(pd.DataFrame(rows), {"d": a_task()}, encoder=encoder).scores
    versions = scores.groupby("metric")["version"].agg(set)
    assert versions["vendi"] == {"lexical-1", encoder.version}
    assert versions["similarity_margin"] == {encoder.version}
    assert encoder.version.startswith("embedding:")
    assert scores["value"].notna().all()


def test_a_model_that_is_not_there_is_an_error_that_says_what_to_do(tmp_path) -> None:
    with pytest.raises(EmbeddingsUnavailable, match="scoring.embeddings"):
        Encoder(str(tmp_path / "nowhere"))


def test_sentence_embeddings_tell_paraphrases_from_different_answers(encoder: Encoder) -> None:
    for figure in measure.diversity_figures(measure.read_cases("final"), encoder):
        assert figure.reached, figure
