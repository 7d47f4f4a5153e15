"""How different the proposals of a council are, before and after revision, and who moved where."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from fleet_pipeline.scoring.embeddings import Encoder
from fleet_pipeline.scoring.scores import Score
from fleet_pipeline.scoring.similarity import LEXICAL, Matrix, similarities_of

NEAR = 0.8  # lexical similarity from which two proposals are near duplicates; paraphrases have about 0.6
ADOPTED = 0.05  # gain in similarity to a peer's opening proposal from which a revision moved towards it
_WORD = re.compile(r"\w+")


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


def near_duplicates(similarity: Matrix) -> float:
    """Share of proposals that could go without losing a kind: of each group linked by `NEAR` all but one."""
    from scipy.sparse.csgraph import connected_components

    groups, _ = connected_components(similarity >= NEAR, directed=False)
    return float(1 - groups / len(similarity))


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Share of different word n-grams among all of them (Li et al., 2016), 0 to 1; None without any.

    Texts are cut to the length of the shortest, because longer texts repeat more.
    """
    grams = [tuple(words[i : i + n]) for words in _length_matched(texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def compression_ratio(texts: Sequence[str]) -> float | None:
    """Bytes of all texts over their bytes compressed together (Shaib et al., 2024): high where they repeat.

    Of texts cut to the length of the shortest; None without a word.
    """
    # In an order of their own: bytes of compression depend on it.
    joined = "\n".join(sorted(" ".join(words) for words in _length_matched(texts))).encode()
    return len(joined) / len(zlib.compress(joined, 9)) if joined.strip() else None


def diversity(proposals: pd.DataFrame, encoder: Encoder | None = None) -> list[Score]:
    """All diversity scores of `final_proposals`, by deliberation in order of appearance.

    Without `initial_text` (proposals made elsewhere) there is no phase but the final one.
    """
    present = proposals[proposals["text"].notna()]
    councils = []
    for key, seats in present.groupby("deliberation_id", sort=False):
        revised = "initial_text" in seats and bool(seats["initial_text"].notna().all())
        initial = seats["initial_text"].tolist() if revised else None
        councils.append(_Council(str(key), seats["agent_id"].tolist(), initial, seats["text"].tolist()))
    if not councils:
        return []
    texts = [[*(council.initial or []), *council.final] for council in councils]
    compared = [(LEXICAL, similarities_of(texts))]
    if encoder:
        compared.append((encoder.version, encoder.similarities_of(texts)))
    scores: list[Score] = []
    for council in councils:
        scores += _of_council(council, [(version, next(matrices)) for version, matrices in compared])
    return scores


class _Council(NamedTuple):
    key: str
    agents: list[str]
    initial: list[str] | None
    final: list[str]


def _of_council(council: _Council, compared: list[tuple[str, Matrix]]) -> Iterator[Score]:
    """`compared` has the similarities of all texts, the initial ones first, by version."""
    key, agents, initial, final = council
    n = len(agents)
    for phase, texts in (("initial", initial), ("final", final)):
        if texts is not None:
            for metric, value in _of_words(texts):
                yield Score(key, None, None, phase, metric, "1", value, n)
    for version, both in compared:
        vendis = []
        for phase, texts, matrix in (("initial", initial, both[:n, :n]), ("final", final, both[-n:, -n:])):
            if texts is None:
                continue
            # Copies count once: another copy of anything may not make a council look more diverse.
            firsts = [place for place, text in enumerate(texts) if text not in texts[:place]]
            vendis.append(vendi(matrix[np.ix_(firsts, firsts)]))
            yield Score(key, None, None, phase, "vendi", version, vendis[-1], n)
            if version == LEXICAL:
                yield Score(key, None, None, phase, "near_duplicates", version, near_duplicates(matrix), n)
            distance = mean_distance(matrix)
            if distance is not None:
                yield Score(key, None, None, phase, "mean_distance", version, distance, n)
            for agent, nearest in zip(agents, nearest_distance(matrix), strict=True):
                if nearest is not None:
                    yield Score(key, agent, None, phase, "novelty", version, nearest, n)
        if initial is not None:
            # Below 0 the revision made the council less diverse: conformity.
            yield Score(key, None, None, "revision", "vendi_change", version, vendis[1] - vendis[0], n)
            yield from _moves(key, agents, both, version)


def _moves(key: str, agents: list[str], both: Matrix, version: str) -> Iterator[Score]:
    """How far each author moved from its opening proposal, and towards whose."""
    n = len(agents)
    for place, agent in enumerate(agents):
        yield Score(key, agent, None, "revision", "moved", version, 1 - float(both[place, n + place]), n)
        for peer, name in enumerate(agents):
            gain = float(both[n + place, peer] - both[place, peer])
            if peer != place and gain >= ADOPTED:
                yield Score(key, agent, name, "revision", "adopted", version, gain, n)


def _of_words(texts: list[str]) -> Iterator[tuple[str, float]]:
    yield "duplicates", (len(texts) - len(set(texts))) / len(texts)
    for metric, value in (("distinct_2", distinct_n(texts, 2)), ("compression_ratio", compression_ratio(texts))):
        if value is not None:
            yield metric, value


def _length_matched(texts: Sequence[str]) -> list[list[str]]:
    read = [_WORD.findall(text.lower()) for text in texts]
    shortest = min((len(words) for words in read if words), default=0)
    return [words[:shortest] for words in read]
