"""Lexical similarity of texts: cosines of their words, independent of any other text."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from fleet_pipeline.scoring.text import units

LEXICAL = "lexical-1"  # name and version of the representation, stored with every score made from it
Matrix = npt.NDArray[np.float64]


def similarities(texts: Sequence[str]) -> Matrix:
    """(n, n) cosines of logarithmic counts of word stems without stop words.

    Values are in [0, 1]: 1 for equal texts, 0 for texts that share no word. There is no inverse document
    frequency: with it, a third text would change how alike two are. In a council of three, the words that
    all use (those of the task) would count for nothing or for everything.
    """
    return next(similarities_of([texts]))


def similarities_of(groups: Sequence[Sequence[str]]) -> Iterator[Matrix]:
    """`similarities` of each group. All groups are counted together: for one council at a time, scikit-learn
    takes longer to check its arguments than to count."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=_words, sublinear_tf=True, use_idf=False)
    # The probe keeps the vocabulary from being empty when no text has a word.
    weights = vectorizer.fit_transform([*(text for group in groups for text in group), "probe"])
    start = 0
    for group in groups:
        rows = weights[start : start + len(group)]
        yield alike(group, (rows @ rows.T).toarray())
        start += len(group)


def alike(texts: Sequence[str], cosines: Matrix) -> Matrix:
    """Cosines as similarities in [0, 1]. Equal texts have 1, even where they hold no word to compare."""
    matrix: Matrix = np.clip(cosines, 0.0, 1.0)
    first_index: dict[str, int] = {}
    same = np.array([first_index.setdefault(text, index) for index, text in enumerate(texts)], dtype=int)
    matrix[same[:, None] == same[None, :]] = 1.0
    return matrix


def _words(text: str) -> list[str]:
    return [word for unit in units(text) for word in unit.stems if word[0] != "-"]
