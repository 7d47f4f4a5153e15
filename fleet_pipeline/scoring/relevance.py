"""How well a proposal fits its task, by sentences that use the task's words and add words of their own.

A proposal that repeats its task shares every word with it and says nothing. A proposal that solves it names
the task's things in sentences with things of its own. So a word of the task counts as taken up where a unit
of the proposal (a sentence, a list item, a line of code) uses it *and* adds words. Added words are neither
the task's nor so general that they fit any task. Words quoted from the task count for a quarter. Empty
phrases add nothing and take nothing away.

`fit` compares the share of the own task that is taken up with the largest share of a wrong task.
`coverage` is the same share of each requirement and criterion. Its evidence is the unit that covers it best.

Words are in sets, and the order of a set differs from process to process. Sums over them are exact (`fsum`), so that
the same proposals have the same scores to the last bit in every process.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fleet_pipeline.deliberation.rows import Evidence
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.scoring.embeddings import Encoder
from fleet_pipeline.scoring.scores import Score
from fleet_pipeline.scoring.text import content, general_stems, stems, units

ADDED = 3  # added words with which a unit counts in full
NEXT_TO = 0.5  # how much the added words of the units before and after count
QUOTED = 0.25  # how much quoted words count
RUN = 4  # words in the task's order that make a quotation
GENERAL = 0.5  # weight of general words among those of the task
VERSION = "1"
POOL = 256  # tasks of the batch that can be wrong tasks, besides those of `background.txt`
CONTROLS = 8  # wrong tasks that are tried: the ones most like the proposal
HALF = 0.1  # calibrated share at which `fit` is one half; people's answers have 0.16, answers to other tasks 0.02
COVERED = 0.3  # share of a point's words from which the evidence calls it covered


class Fit(NamedTuple):
    """How much better a proposal fits its own task than wrong tasks. All values are 0 to 1.

    `own` is the share of the own task's words that are taken up, `wrong` the largest such share of a wrong task.
    `value` is x / (x + `HALF`), with x = own^2 / (own + wrong).
    """

    value: float
    own: float
    wrong: float


@dataclass(frozen=True)
class _Reference:
    """A task, prepared for comparison with proposals."""

    words: frozenset[str]
    runs: frozenset[tuple[str, ...]]
    weights: Mapping[str, float]  # sum to 1

    def share(self, taken_up: Mapping[str, float]) -> float:
        return math.fsum(self.weights[word] * degree for word, degree in taken_up.items())


class Relevance:
    """Scores the proposals of a batch of tasks.

    The batch gives the wrong tasks, and the rarity of words among tasks. Tasks of the same text (other
    roles of one task) count once, and are never wrong tasks of one another.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        batch = sorted({reference_text(task) for task in tasks}, key=_shuffle_key)
        documents = {text: content(stems(text)) for text in [*batch, *_background()]}
        self._count = len(documents)
        self._spread = Counter(word for words in documents.values() for word in words)
        # Bounded: a batch may hold any number of tasks, and a reference is larger than its text.
        self._reference = lru_cache(maxsize=4 * POOL)(self._make_reference)
        self._point = lru_cache(maxsize=4 * POOL)(self._weigh_point)
        # The possible wrong tasks. Those of the field are always among them: if only batches of one task used them,
        # scores would jump with the second task.
        self._pool = list(dict.fromkeys([*batch[:POOL], *_background()]))
        weighed = [self._weights(documents[text]) for text in self._pool]
        self._row = {word: row for row, word in enumerate(dict.fromkeys(word for words in weighed for word in words))}
        self._weight = np.zeros((len(self._row) + 1, len(self._pool)), dtype=np.float32)  # last row: unknown words
        for column, weights in enumerate(weighed):
            for word, weight in weights.items():
                self._weight[self._row[word], column] = weight

    def fit(self, text: str, task: Task) -> Fit:
        own = self._reference(reference_text(task))
        read = _read(text)
        share = own.share(_taken_up(read, own))
        if not share:
            return Fit(0.0, 0.0, 0.0)
        wrong = 0.0
        for bound, other in self._wrong_tasks(read, task):
            if bound <= wrong:  # the bounds that follow are no larger
                break
            wrong = max(wrong, other.share(_taken_up(read, other)))
        calibrated = share * share / (share + wrong)
        return Fit(calibrated / (calibrated + HALF), share, wrong)

    def evidence(self, text: str, task: Task) -> list[Evidence]:
        """The evidence for each requirement and criterion that holds a word, in their order."""
        own = self._reference(reference_text(task))
        read = _read(text)
        degrees = _degrees(read, own)
        evidence = []
        for kind, points in (("requirement", task.constraints.requirements), ("criterion", task.constraints.rubric)):
            for point in points:
                weights = self._point(point)
                if not weights:  # a point without a word to take up
                    continue
                best, best_index = 0.0, -1
                for index, degree in degrees.items():
                    share = math.fsum(weights[word] * value for word, value in degree.items() if word in weights)
                    if share > best:
                        best, best_index = share, index
                unit = read.units[best_index].text if best_index >= 0 else ""
                evidence.append(Evidence(point, kind, min(best, 1.0), best >= COVERED, unit))
        return evidence

    def _make_reference(self, text: str) -> _Reference:
        words = stems(text)
        return _Reference(content(words), frozenset(_runs(words)), self._weights(content(words)))

    def _weigh_point(self, point: str) -> dict[str, float]:
        return self._weights(content(stems(point)))

    def _weights(self, words: frozenset[str]) -> dict[str, float]:
        """Inverse document frequencies among tasks, lower for general words. They sum to 1."""
        general = general_stems()
        weights = {
            word: math.log((self._count + 1) / (self._spread[word] + 0.5)) * (GENERAL if word in general else 1.0)
            for word in words
        }
        total = math.fsum(weights.values())
        return {word: weight / total for word, weight in weights.items()} if total > 0 else weights

    def _wrong_tasks(self, read: _Text, task: Task) -> list[tuple[float, _Reference]]:
        """(upper bound of the share, task) of the wrong tasks most like the text, the largest bound first."""
        shared = self._weight[sorted(self._row.get(word, -1) for word in read.words)].sum(axis=0)
        order = np.argsort(-shared, kind="stable")[: CONTROLS + 1].tolist()
        own = reference_text(task)
        others = [index for index in order if shared[index] > 0 and self._pool[index] != own]
        # No share exceeds the weight of all shared words. The margin is for the rounding of single precision.
        return [(float(shared[index]) + 1e-5, self._reference(self._pool[index])) for index in others[:CONTROLS]]


def relevance(proposals: pd.DataFrame, tasks: Mapping[str, Task], scorer: Relevance) -> pd.DataFrame:
    """One row per proposal with a text: its ids, `fit`, `own_share`, `wrong_share`, `coverage`, `evidence`.

    `coverage` is the mean share over requirements and criteria, null without any. `evidence` is a list of
    `Evidence`. `tasks` is by deliberation id. `scorer` knows their batch.
    """
    present = proposals[proposals["text"].notna()].reset_index(drop=True)
    scores = present[["deliberation_id", "agent_id"]].copy()
    fits, evidence = [], []
    for text, key in zip(present["text"], present["deliberation_id"], strict=True):
        fits.append(scorer.fit(text, tasks[key]))
        evidence.append(scorer.evidence(text, tasks[key]))
    for column, part in (("fit", "value"), ("own_share", "own"), ("wrong_share", "wrong")):
        scores[column] = pd.Series([getattr(fit, part) for fit in fits], dtype="float64")
    scores["coverage"] = pd.Series([_mean([point.share for point in points]) for points in evidence], dtype="float64")
    scores["evidence"] = pd.Series(evidence, dtype="object")
    return scores


class EmbeddedRelevance:
    """Similarity to the own task and to the wrong tasks of the batch, in a sentence-embedding space.

    Stored for analysis, and no part of the score: a task that is merely repeated is the most similar of all.
    """

    def __init__(self, tasks: Iterable[Task], encoder: Encoder) -> None:
        self._encoder = encoder
        batch = sorted({reference_text(task) for task in tasks}, key=_shuffle_key)[:POOL]
        self._pool = list(dict.fromkeys([*batch, *_background()]))
        self._vectors = encoder.encode(self._pool)

    def scores(self, proposals: pd.DataFrame, tasks: Mapping[str, Task]) -> Iterator[Score]:
        """`similarity` (-1 to 1) and `similarity_margin` (-2 to 2): similarity less the largest one to another task."""
        present = proposals[proposals["text"].notna()]
        references = [reference_text(tasks[key]) for key in present["deliberation_id"]]
        texts = self._encoder.encode(present["text"].tolist())
        index_of = {text: index for index, text in enumerate(dict.fromkeys(references))}
        own = self._encoder.encode(list(index_of))[[index_of[text] for text in references]]
        wrong = texts @ self._vectors.T
        for index, (key, agent) in enumerate(zip(present["deliberation_id"], present["agent_id"], strict=True)):
            similarity = float(texts[index] @ own[index])
            others = [value for value, text in zip(wrong[index], self._pool, strict=True) if text != references[index]]
            yield Score(key, agent, None, "final", "similarity", self._encoder.version, similarity, 1)
            yield Score(
                key,
                agent,
                None,
                "final",
                "similarity_margin",
                self._encoder.version,
                similarity - float(max(others)),
                len(others),
            )


def reference_text(task: Task) -> str:
    """The text that a proposal should be about. It leaves out the context, which is background."""
    constraints = task.constraints
    return "\n".join([task.description, *constraints.rubric, *constraints.requirements])


class _Text:
    """A proposal, prepared for comparison with tasks: its units, and in which of them each word stands.

    A text is compared with nine tasks, and shares few words with each: what is looked up by word is not looked for in
    every unit again.
    """

    def __init__(self, text: str) -> None:
        self.units = units(text)
        general = general_stems()
        self.at: dict[str, list[int]] = {}  # content words, to the units that hold them, in order
        self.special: list[int] = []  # how many words of each unit are not general
        for index, unit in enumerate(self.units):
            words = content(unit.stems)
            self.special.append(len(words - general))
            for word in words:
                self.at.setdefault(word, []).append(index)
        self.words = frozenset(self.at)


# One text is read for `fit` and for `evidence`.
_read = lru_cache(maxsize=2)(_Text)


def _taken_up(text: _Text, task: _Reference) -> dict[str, float]:
    """For each of the task's words that the text uses, the largest degree (0 to 1) in any unit."""
    best: dict[str, float] = {}
    for degree in _degrees(text, task).values():
        for word, value in degree.items():
            if value > best.get(word, 0.0):
                best[word] = value
    return best


def _degrees(text: _Text, task: _Reference) -> dict[int, dict[str, float]]:
    """For each unit that holds words of the task, in order: these words, and the degree (0 to 1) to which it takes them
    up."""
    general = general_stems()
    known = [0] * len(text.units)  # words of each unit that are special and the task's
    linked: dict[int, list[str]] = {}
    for word in text.words & task.words:
        special = word not in general
        for index in text.at[word]:
            linked.setdefault(index, []).append(word)
            known[index] += special
    added = [min(1.0, (count - own) / ADDED) for count, own in zip(text.special, known, strict=True)]
    degrees: dict[int, dict[str, float]] = {}
    for index in sorted(linked):
        degree = max(added[index], NEXT_TO * max(added[max(index - 1, 0) : index + 2]))
        degrees[index] = dict.fromkeys(linked[index], degree)
        words = text.units[index].stems
        if not task.runs.isdisjoint(_runs(words)):
            quoted = set(linked[index]) - _unquoted(words, task.runs)
            degrees[index] |= dict.fromkeys(quoted, QUOTED * added[index])
    return degrees


def _unquoted(words: tuple[str, ...], runs: frozenset[tuple[str, ...]]) -> frozenset[str]:
    unquoted = [True] * len(words)
    for start in range(len(words) - RUN + 1):
        if words[start : start + RUN] in runs:
            unquoted[start : start + RUN] = [False] * RUN
    return frozenset(word for word, kept in zip(words, unquoted, strict=True) if kept)


def _runs(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(RUN)))  # noqa: B905 - stops at the last full run


def _shuffle_key(text: str) -> bytes:
    """A sort key that depends on neither the meaning of a text nor its position."""
    return hashlib.sha256(text.encode()).digest()


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


@cache
def _background() -> tuple[str, ...]:
    """Tasks of the field, so that a batch of one task has wrong tasks too."""
    return tuple(Path(__file__).with_name("background.txt").read_text(encoding="utf-8").splitlines())
