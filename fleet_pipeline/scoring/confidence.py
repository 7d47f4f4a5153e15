"""How likely the winner is better than the runner-up.

Calibrated on published answers of models of known strength (`fleet_pipeline_tests.scoring.real_answers`, docs/scores.md): P = 1 / (1 +
exp(-SLOPE x sqrt(margin))), the margin being that between the two scores. A margin ten times as large does not say ten times as much:
with the margin itself in place of its root the error of calibration was five times as large. Of many proposals the two best are
more alike in truth than of three, so that the same margin says less: the slope falls with the root of their number.
"""

import math

CONFIDENCE_VERSION = "2"
# By maximum likelihood over 3,200 councils of three. Of four, five and six the likeliest are 3.8, 3.2 and 3.0, as the root says.
SLOPE, COUNCIL = 4.4, 3
# What a judge makes of it is kept off 0 and 1: a few verdicts prove nothing.
SUREST = 0.99


def by_score(margin: float, proposals: int) -> float:
    """Of the first of `proposals` whose score is `margin` above that of the next: 0.5 for equals, less for one below it."""
    slope = SLOPE * math.sqrt(COUNCIL / max(proposals, COUNCIL))
    return 1 / (1 + math.exp(-slope * math.copysign(math.sqrt(abs(margin)), margin)))


def is_clear(confidence: float, clear_from: float, *, by_lot: bool) -> bool:
    """Whether a winner is a verdict. One that was drawn by lot is none, whatever is asked."""
    return confidence >= clear_from and not by_lot


def by_judge(winner: float, other: float) -> float:
    """By the Bradley-Terry model, from the two strengths. As good as the judge is."""
    return min(max(winner / (winner + other), 1 - SUREST), SUREST)
