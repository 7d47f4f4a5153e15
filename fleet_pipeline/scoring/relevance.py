"""How well a proposal fits its task and constraints. First version: lexical, not calibrated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache

import pandas as pd

from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.scoring.similarity import similarities

_WORD = re.compile(r"\w+")


def relevance(proposals: pd.DataFrame, tasks: Mapping[str, Task]) -> pd.DataFrame:
    """`deliberation_id`, `agent_id`, `similarity`, `coverage` of each proposal with a text.

    `similarity` is the TF-IDF cosine to the task's description, context, criteria and
    requirements. `coverage` is the mean over requirements of the share of the requirement's content
    words that the proposal uses; null without requirements. `tasks` is by deliberation id.
    """
    present = proposals[proposals["text"].notna()].reset_index(drop=True)
    scores = present[["deliberation_id", "agent_id"]].copy()
    references = {key: reference_text(tasks[key]) for key in present["deliberation_id"].unique()}
    texts = [*references.values(), *present["text"]]
    groups = [*references, *present["deliberation_id"]]
    similarity = [0.0] * len(present)
    for members, matrix in similarities(texts, groups):
        # The first member of each group is its reference.
        for column, place in enumerate(members[1:], start=1):
            similarity[place - len(references)] = float(matrix[0, column])
    scores["similarity"] = pd.Series(similarity, dtype="float64")
    scores["coverage"] = pd.Series(
        [
            coverage(text, tasks[key].constraints.requirements)
            for key, text in zip(present["deliberation_id"], present["text"], strict=True)
        ],
        dtype="float64",
    )
    return scores


def reference_text(task: Task) -> str:
    """All that a proposal should be about."""
    constraints = task.constraints
    return "\n".join([task.description, task.context, *constraints.rubric, *constraints.requirements])


def coverage(text: str, requirements: Sequence[str]) -> float | None:
    """Mean over requirements of the share of content words found in `text`; None without any."""
    said = _words(text)
    shares = []
    for requirement in requirements:
        wanted = _words(requirement) - _stop_words() or _words(requirement)
        if wanted:
            shares.append(len(wanted & said) / len(wanted))
    return sum(shares) / len(shares) if shares else None


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


@cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)
