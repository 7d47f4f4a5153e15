"""Lexical similarity: TF-IDF cosine within each group of texts."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

_WORDS = r"(?u)\b\w+\b"
Matrix = npt.NDArray[np.float64]


def similarities(texts: Sequence[str], groups: Sequence[Hashable]) -> Iterator[tuple[list[int], Matrix]]:
    """For each group, in order of appearance: its texts' places, and their (n, n) cosine matrix.

    Words and word pairs, logarithmic term frequency, and inverse document frequency over the group
    alone, so that no other group changes a number. Values are in [0, 1]; equal texts have 1, texts
    that share no word 0. Counting is done once for all groups, which is where the time goes.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

    if not texts:
        return
    counter = CountVectorizer(token_pattern=_WORDS, ngram_range=(1, 2))
    # A probe text keeps the vocabulary from being empty when no text has a word.
    counts = counter.fit_transform([*texts, "probe"])
    places: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    for members in places.values():
        weights = TfidfTransformer(sublinear_tf=True).fit_transform(counts[members])
        matrix = np.clip((weights @ weights.T).toarray(), 0.0, 1.0)
        # Equal texts are alike even where they hold no word to compare.
        _, first = np.unique([texts[place] for place in members], return_inverse=True)
        matrix[first[:, None] == first[None, :]] = 1.0
        yield members, matrix
