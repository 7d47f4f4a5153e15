"""How different the proposals of a council are, before and after revision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fleet_pipeline.scoring.similarity import Matrix, similarities


def vendi(similarity: Matrix) -> float:
    """Vendi score of an (n, n) similarity matrix: the effective number of different items, 1 to n.

    exp of the Shannon entropy of the eigenvalues of K / n (Friedman and Dieng, 2023).
    """
    n = len(similarity)
    eigenvalues = np.linalg.eigvalsh(similarity / n)
    positive = eigenvalues[eigenvalues > 1e-12]
    return float(np.clip(np.exp(-np.sum(positive * np.log(positive))), 1.0, n))


def mean_distance(similarity: Matrix) -> float | None:
    """Mean of 1 - similarity over all pairs; None for a single item."""
    n = len(similarity)
    return float(1 - similarity[np.triu_indices(n, k=1)].mean()) if n > 1 else None


def nearest_distance(similarity: Matrix) -> list[float | None]:
    """Of each item, 1 - similarity to the most similar other; None for a single item."""
    if len(similarity) < 2:
        return [None] * len(similarity)
    others = similarity - 2 * np.eye(len(similarity))
    return [float(value) for value in 1 - others.max(axis=1)]


def diversity(proposals: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """(per proposal, per deliberation) diversity of `final_proposals`.

    Per proposal: `deliberation_id`, `agent_id`, `novelty`, `initial_novelty`. Per deliberation, by
    id: `vendi`, `mean_distance`, `duplicates`, `initial_vendi`, `initial_mean_distance`.
    """
    present = proposals[proposals["text"].notna()].reset_index(drop=True)
    scores = present[["deliberation_id", "agent_id"]].copy()
    figures: dict[str, dict[str, Any]] = {key: {} for key in present["deliberation_id"].unique()}
    groups = present["deliberation_id"].tolist()
    for column, prefix in (("initial_text", "initial_"), ("text", "")):
        texts = present[column].tolist()
        novelty: list[float | None] = [None] * len(texts)
        for members, matrix in similarities(texts, groups):
            for place, value in zip(members, nearest_distance(matrix), strict=True):
                novelty[place] = value
            figures[groups[members[0]]] |= {
                f"{prefix}vendi": vendi(matrix),
                f"{prefix}mean_distance": mean_distance(matrix),
            }
            if not prefix:
                figures[groups[members[0]]]["duplicates"] = len(members) - len({texts[place] for place in members})
        scores[f"{prefix}novelty"] = pd.Series(novelty, dtype="float64")
    return scores, figures
