"""How different a council's proposals are, before and after revision, and which author moved towards which."""

import re
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from fleet_pipeline.scoring.embeddings import Encoder
from fleet_pipeline.scoring.scores import Score
from fleet_pipeline.scoring.similarity import LEXICAL, Matrix, similarities_of

NEAR = 0.8  # least lexical similarity of near duplicates; paraphrases have about 0.6
ADOPTED = 0.05  # least gain in similarity to a peer's opening proposal that counts as a move towards it
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
    """For each item, 1 - similarity to the most similar other item; None for a single item."""
    if len(similarity) < 2:
        return [None] * len(similarity)
    others = similarity - 2 * np.eye(len(similarity))
    return [float(value) for value in 1 - others.max(axis=1)]


def near_duplicates(similarity: Matrix) -> float:
    """Share of redundant proposals, 0 to 1: all but one of each group that is linked by similarities from `NEAR`.

    The matrix must be symmetric.
    """
    alike = similarity >= NEAR
    groups, left = 0, set(range(len(similarity)))
    while left:
        groups += 1
        group = [left.pop()]
        while group:
            near = left.intersection(np.flatnonzero(alike[group.pop()]).tolist())
            left -= near
            group += near
    return float(1 - groups / len(similarity))


def length_matched(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text, cut to the length of the shortest that has any, because longer texts repeat more."""
    word_lists = [_WORD.findall(text.lower()) for text in texts]
    shortest = min((len(words) for words in word_lists if words), default=0)
    return [words[:shortest] for words in word_lists]


def distinct_n(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Share of distinct ones among all word n-grams (Li et al., 2016), 0 to 1; None without any. Texts are lists of words."""
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def compression_ratio(texts: Sequence[Sequence[str]]) -> float | None:
    """Bytes of all texts divided by their bytes compressed together (Shaib et al., 2024): high where texts repeat.

    Texts are lists of words. None without a word.
    """
    # Sorted, because the compressed size depends on the order.
    joined = "\n".join(sorted(" ".join(words) for words in texts)).encode()
    return len(joined) / len(zlib.compress(joined, 9)) if joined.strip() else None


def diversity(proposals: pd.DataFrame, encoder: Encoder | None = None) -> list[Score]:
    """All diversity scores of the rows of `final_proposals`, by deliberation in order of appearance.

    Without `initial_text` (proposals made elsewhere) there is only the final phase.
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
    representations = [(LEXICAL, similarities_of(texts))]
    if encoder:
        representations.append((encoder.version, encoder.similarities_of(texts)))
    scores: list[Score] = []
    for council in councils:
        scores += _council_scores(council, [(version, next(matrices)) for version, matrices in representations])
    return scores


class _Council(NamedTuple):
    key: str
    agents: list[str]
    initial: list[str] | None
    final: list[str]


def _council_scores(council: _Council, matrices: list[tuple[str, Matrix]]) -> Iterator[Score]:
    """`matrices` has (version, similarities of all texts) of each representation. Initial texts come first."""
    key, agents, initial, final = council
    n = len(agents)
    for phase, texts in (("initial", initial), ("final", final)):
        if texts is not None:
            for metric, value in _word_scores(texts):
                yield Score(key, None, None, phase, metric, "1", value, n)
    for version, joint in matrices:
        vendis = []
        for phase, texts, matrix in (("initial", initial, joint[:n, :n]), ("final", final, joint[-n:, -n:])):
            if texts is None:
                continue
            # Copies count once: an extra copy must not make a council look more diverse.
            firsts = [index for index, text in enumerate(texts) if text not in texts[:index]]
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
            if n > 2 and phase == "final":  # of two, both are as like the other
                for agent, likeness in zip(agents, (matrix.sum(axis=1) - 1) / (n - 1), strict=True):
                    yield Score(key, agent, None, phase, "consensus", version, float(likeness), n)
        if initial is not None:
            # Below 0, the revision made the council less diverse: conformity.
            yield Score(key, None, None, "revision", "vendi_change", version, vendis[1] - vendis[0], n)
            yield from _moves(key, agents, joint, version)


def _moves(key: str, agents: list[str], joint: Matrix, version: str) -> Iterator[Score]:
    """How far each author moved from its opening proposal, and towards which peers' opening proposals."""
    n = len(agents)
    for own, agent in enumerate(agents):
        yield Score(key, agent, None, "revision", "moved", version, 1 - float(joint[own, n + own]), n)
        for other, peer in enumerate(agents):
            gain = float(joint[n + own, other] - joint[own, other])
            if other != own and gain >= ADOPTED:
                yield Score(key, agent, peer, "revision", "adopted", version, gain, n)


def _word_scores(texts: list[str]) -> Iterator[tuple[str, float]]:
    yield "duplicates", (len(texts) - len(set(texts))) / len(texts)
    words = length_matched(texts)
    for metric, value in (("distinct_2", distinct_n(words, 2)), ("compression_ratio", compression_ratio(words))):
        if value is not None:
            yield metric, value
