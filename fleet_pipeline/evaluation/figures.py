"""Rates with intervals, and differences of rates on the same repositories."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

_Z = 1.959964  # of 95 %
SAMPLES = 10_000


@dataclass(frozen=True)
class Case:
    """What came of one arm on one repository."""

    repository: str
    arm: str
    repeat: int
    solved: bool
    why: str  # it was not
    tested: str | None  # what the visible tests said of the winner's change
    completion_tokens: int
    prompt_tokens: int
    calls: int


@dataclass(frozen=True)
class Rate:
    """A share of `n` with the interval in which it lies with a probability of 95 %."""

    solved: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.solved / self.n if self.n else 0.0


def rate(solved: int, n: int) -> Rate:
    """The interval is Wilson's (1927), which holds for few cases and for shares of 0 and 1 as well."""
    if not n:
        return Rate(0, 0, 0.0, 1.0)
    share, spread = solved / n, _Z**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * (share * (1 - share) / n + spread / (4 * n)) ** 0.5
    return Rate(solved, n, max(middle - half, 0.0), min(middle + half, 1.0))


@dataclass(frozen=True)
class Difference:
    """Of two rates, the first less the second, with its 95 % interval."""

    value: float
    low: float
    high: float


def difference(first: Sequence[Case], second: Sequence[Case], seed: int = 0) -> Difference:
    """Over the repositories that both have, each with the mean of its repeats. The interval is a bootstrap over repositories: some are
    hard for everybody, and that is no difference between the two."""
    ours, theirs = _shares(first), _shares(second)
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return Difference(0.0, -1.0, 1.0)
    gaps = np.array([ours[name] - theirs[name] for name in both])
    draws = np.random.default_rng(seed).integers(len(gaps), size=(SAMPLES, len(gaps)))
    low, high = np.percentile(gaps[draws].mean(axis=1), [2.5, 97.5])
    return Difference(float(gaps.mean()), float(low), float(high))


def _shares(cases: Sequence[Case]) -> dict[str, float]:
    names = {case.repository for case in cases}
    return {name: fmean(case.solved for case in cases if case.repository == name) for name in names}
