"""The tall form of scores: one row per figure, with its metric's name and version."""

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd


class Score(NamedTuple):
    """A figure of a council (`agent_id` None) or of one of its seats.

    `phase` is initial (before any critique), final (after the last revision) or revision (the change
    between the two). `peer_id` is the other seat of a figure about two. `n` is the number of things
    that it was computed from: proposals, points, checks or comparisons.
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
    """A frame with one row per score and the columns of `Score`, which are there even without rows."""
    return pd.DataFrame(list(scores), columns=list(Score._fields))
