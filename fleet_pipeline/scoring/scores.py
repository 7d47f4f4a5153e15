"""The tall form of scores: one row per figure, under its metric's name and version."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd


class Score(NamedTuple):
    """A figure of a council (`agent_id` None) or of one of its seats.

    `phase` is initial (before any critique), final (after the last revision) or revision (what lies
    between). `peer_id` is the other seat of a figure that concerns two. `n` is how many things it was
    computed from: proposals, points, checks or comparisons.
    """

    deliberation_id: str
    agent_id: str | None
    peer_id: str | None
    phase: str
    metric: str
    version: str
    value: float
    n: int


def score_frame(scores: Iterable[Score]) -> pd.DataFrame:
    """As a frame with the columns of `Score`, also when there are none."""
    return pd.DataFrame(list(scores), columns=list(Score._fields))
