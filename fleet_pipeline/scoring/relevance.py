"""How well a proposal fits its task: by sentences that speak of it and add to it.

A proposal that repeats its task shares every word with it and says nothing; one that solves it names
the task's things in sentences with things of its own. So the words of a task count as taken up where
a unit of the proposal (a sentence, a list item, a line of code) uses them *and* adds words that are
neither the task's nor so general that they fit any task. What is quoted word for word counts for a
quarter. Empty phrases add nothing and take nothing away.

`fit` holds that against wrong tasks: the share taken up of the own task, against the largest share of
another one. `coverage` is the same share of each requirement and criterion, with the unit that
covers it best as the evidence.
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

from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.scoring.embeddings import Encoder
from fleet_pipeline.scoring.scores import Score
from fleet_pipeline.scoring.text import content, general_stems, stems, units

ADDED = 3  # words of its own with which a unit counts in full
NEXT_TO = 0.5  # of what the units before and after add
QUOTED = 0.25
RUN = 4  # words in the task's order that are a quotation
GENERAL = 0.5  # weight of general words among those of the task
VERSION = "1"
POOL = 256  # tasks of the batch that can be a wrong task, beside those of `background.txt`
CONTROLS = 8  # of these the ones most like the proposal are tried
HALF = 0.1  # calibrated share at which `fit` is one half; answers of people have 0.16, to other tasks 0.02
COVERED = 0.3  # of a point's words, for it to count as covered in the evidence


class Evidence(NamedTuple):
    """What of a proposal speaks to one requirement or criterion. `share` is from 0 to 1."""

    point: str
    kind: str  # "requirement" or "criterion"
    share: float
    text: str  # the unit; empty where none does

    @property
    def covered(self) -> bool:
        return self.share >= COVERED


class Fit(NamedTuple):
    """How much better a proposal fits its own task than wrong ones; all from 0 to 1.

    `value` is x / (x + `HALF`) of x = own^2 / (own + wrong): the share of the own task's words that are taken
    up, and the largest such share of a wrong task.
    """

    value: float
    own: float
    wrong: float


@dataclass(frozen=True)
class _Reference:
    """A task as proposals are held against it."""

    words: frozenset[str]
    runs: frozenset[tuple[str, ...]]
    weights: Mapping[str, float]  # sum to 1

    def share(self, taken_up: Mapping[str, float]) -> float:
        return sum(self.weights[word] * degree for word, degree in taken_up.items())


class Relevance:
    """Scores proposals of a batch of tasks.

    The batch gives the wrong tasks, and tells how rare a word is among tasks. Tasks of the same text
    (other roles of one task) count once, and are nobody's wrong task.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        batch = sorted({reference_text(task) for task in tasks}, key=_lot)
        documents = {text: content(stems(text)) for text in [*batch, *_background()]}
        self._count = len(documents)
        self._spread = Counter(word for words in documents.values() for word in words)
        # Bounded: a batch may hold any number of tasks, and a reference is larger than its text.
        self._reference = lru_cache(maxsize=4 * POOL)(self._refer)
        self._point = lru_cache(maxsize=4 * POOL)(self._weigh_point)
        # The tasks that can be wrong ones. Those of the field are always among them: with other batches than one of
        # one task alone, scores would else jump.
        self._pool = list(dict.fromkeys([*batch[:POOL], *_background()]))
        weighed = [self._weights(documents[text]) for text in self._pool]
        self._row = {word: row for row, word in enumerate(dict.fromkeys(word for each in weighed for word in each))}
        self._weight = np.zeros((len(self._row) + 1, len(self._pool)), dtype=np.float32)  # the last row is of no word
        for column, each in enumerate(weighed):
            for word, weight in each.items():
                self._weight[self._row[word], column] = weight

    def fit(self, text: str, task: Task) -> Fit:
        own = self._reference(reference_text(task))
        read = _read(text)
        share = own.share(_taken_up(read, own))
        if not share:
            return Fit(0.0, 0.0, 0.0)
        wrong = 0.0
        for most, other in self._wrong(read, task):
            if most <= wrong:  # and so are those that follow
                break
            wrong = max(wrong, other.share(_taken_up(read, other)))
        calibrated = share * share / (share + wrong)
        return Fit(calibrated / (calibrated + HALF), share, wrong)

    def evidence(self, text: str, task: Task) -> list[Evidence]:
        """One for each requirement and criterion that holds a word, in their order."""
        own = self._reference(reference_text(task))
        read = _read(text)
        degrees = _degrees(read, own)
        found = []
        for kind, points in (("requirement", task.constraints.requirements), ("criterion", task.constraints.rubric)):
            for point in points:
                weights = self._point(point)
                if not weights:  # a point without a word to take up
                    continue
                best, place = 0.0, -1
                for index, degree in enumerate(degrees):
                    share = sum(weights.get(word, 0.0) * value for word, value in degree.items())
                    if share > best:
                        best, place = share, index
                found.append(Evidence(point, kind, min(best, 1.0), read[place].text if place >= 0 else ""))
        return found

    def _refer(self, text: str) -> _Reference:
        words = stems(text)
        return _Reference(content(words), _runs(words), self._weights(content(words)))

    def _weigh_point(self, point: str) -> dict[str, float]:
        return self._weights(content(stems(point)))

    def _weights(self, words: frozenset[str]) -> dict[str, float]:
        """Inverse document frequency among tasks, less for general words; they sum to 1."""
        general = general_stems()
        weights = {
            word: math.log((self._count + 1) / (self._spread[word] + 0.5)) * (GENERAL if word in general else 1.0)
            for word in words
        }
        total = sum(weights.values())
        return {word: weight / total for word, weight in weights.items()} if total > 0 else weights

    def _wrong(self, read: Sequence[_Unit], task: Task) -> list[tuple[float, _Reference]]:
        """The tasks most like the text, each with the weight of all words they share: no share can be larger."""
        words = frozenset[str]().union(*(unit.words for unit in read))
        shared = self._weight[[self._row.get(word, -1) for word in words]].sum(axis=0)
        order = np.argsort(-shared, kind="stable")[: CONTROLS + 1].tolist()
        own = reference_text(task)
        others = [place for place in order if shared[place] > 0 and self._pool[place] != own]
        # Single precision may round down what `fit` compares with.
        return [(float(shared[place]) + 1e-5, self._reference(self._pool[place])) for place in others[:CONTROLS]]


def relevance(proposals: pd.DataFrame, tasks: Mapping[str, Task], scorer: Relevance) -> pd.DataFrame:
    """`deliberation_id`, `agent_id`, `fit` and what it is made of, `coverage`, `evidence` of each proposal with a text.

    `coverage` is the mean share over requirements and criteria, null without any; `evidence` a list of
    `Evidence`. `tasks` is by deliberation id; `scorer` knows the batch they are of.
    """
    present = proposals[proposals["text"].notna()].reset_index(drop=True)
    scores = present[["deliberation_id", "agent_id"]].copy()
    fits, evidence = [], []
    for text, key in zip(present["text"], present["deliberation_id"], strict=True):
        fits.append(scorer.fit(text, tasks[key]))
        evidence.append(scorer.evidence(text, tasks[key]))
    for column, part in (("fit", "value"), ("own_share", "own"), ("wrong_share", "wrong")):
        scores[column] = pd.Series([getattr(fit, part) for fit in fits], dtype="float64")
    scores["coverage"] = pd.Series([_mean([found.share for found in each]) for each in evidence], dtype="float64")
    scores["evidence"] = pd.Series(evidence, dtype="object")
    return scores


class EmbeddedRelevance:
    """Likeness to the own task in a sentence-embedding space, beside that to the wrong tasks of the batch.

    Stored for analysis, and no part of the score: a task that is merely repeated is the most alike of all.
    """

    def __init__(self, tasks: Iterable[Task], encoder: Encoder) -> None:
        self._encoder = encoder
        batch = sorted({reference_text(task) for task in tasks}, key=_lot)[:POOL]
        self._pool = list(dict.fromkeys([*batch, *_background()]))
        self._vectors = encoder.encode(self._pool)

    def scores(self, proposals: pd.DataFrame, tasks: Mapping[str, Task]) -> Iterator[Score]:
        """`similarity` (-1 to 1) and `similarity_margin`: that less the largest to another task (-2 to 2)."""
        present = proposals[proposals["text"].notna()]
        references = [reference_text(tasks[key]) for key in present["deliberation_id"]]
        texts = self._encoder.encode(present["text"].tolist())
        distinct = {text: place for place, text in enumerate(dict.fromkeys(references))}
        own = self._encoder.encode(list(distinct))[[distinct[text] for text in references]]
        wrong = texts @ self._vectors.T
        for place, (key, agent) in enumerate(zip(present["deliberation_id"], present["agent_id"], strict=True)):
            likeness = float(texts[place] @ own[place])
            others = [value for value, text in zip(wrong[place], self._pool, strict=True) if text != references[place]]
            yield Score(key, agent, None, "final", "similarity", self._encoder.version, likeness, 1)
            yield Score(
                key,
                agent,
                None,
                "final",
                "similarity_margin",
                self._encoder.version,
                likeness - float(max(others)),
                len(others),
            )


def reference_text(task: Task) -> str:
    """All that a proposal should be about. The context is background, and no part of it."""
    constraints = task.constraints
    return "\n".join([task.description, *constraints.rubric, *constraints.requirements])


class _Unit(NamedTuple):
    text: str
    stems: tuple[str, ...]
    words: frozenset[str]
    special: frozenset[str]  # those that are not general
    runs: frozenset[tuple[str, ...]]


@lru_cache(maxsize=64)
def _read(text: str) -> tuple[_Unit, ...]:
    general = general_stems()
    read = ((unit, content(unit.stems)) for unit in units(text))
    return tuple(_Unit(unit.text, unit.stems, words, words - general, _runs(unit.stems)) for unit, words in read)


def _taken_up(read: Sequence[_Unit], task: _Reference) -> dict[str, float]:
    """Of the task's words that the text uses, the degree (0 to 1) of the unit that adds most to each."""
    best: dict[str, float] = {}
    for degree in _degrees(read, task):
        for word, value in degree.items():
            if value > best.get(word, 0.0):
                best[word] = value
    return best


def _degrees(read: Sequence[_Unit], task: _Reference) -> list[dict[str, float]]:
    """The task's words in each unit, with the degree to which they are taken up there."""
    added = [min(1.0, len(unit.special - task.words) / ADDED) for unit in read]
    degrees: list[dict[str, float]] = []
    for place, unit in enumerate(read):
        linked = unit.words & task.words
        if not linked:
            degrees.append({})
            continue
        around = max(added[max(place - 1, 0) : place + 2])
        degree = max(added[place], NEXT_TO * around)
        quoted = frozenset() if unit.runs.isdisjoint(task.runs) else linked - _unquoted(unit.stems, task.runs)
        degrees.append({word: QUOTED * added[place] if word in quoted else degree for word in linked})
    return degrees


def _unquoted(words: tuple[str, ...], runs: frozenset[tuple[str, ...]]) -> frozenset[str]:
    own = [True] * len(words)
    for start in range(len(words) - RUN + 1):
        if words[start : start + RUN] in runs:
            own[start : start + RUN] = [False] * RUN
    return frozenset(word for word, mine in zip(words, own, strict=True) if mine)


def _runs(words: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    return frozenset(words[start : start + RUN] for start in range(len(words) - RUN + 1))


def _lot(text: str) -> bytes:
    """An order that has nothing to do with the text or its place."""
    return hashlib.sha256(text.encode()).digest()


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


@cache
def _background() -> tuple[str, ...]:
    """Tasks of the field, so that a batch of one has wrong tasks too."""
    return tuple(Path(__file__).with_name("background.txt").read_text(encoding="utf-8").splitlines())
