"""From a judge's verdicts to a ranking: Bradley-Terry strengths, their uncertainty, the judge's consistency."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fleet_pipeline.deliberation.exchange import AgentError
from fleet_pipeline.deliberation.rows import JudgementRow
from fleet_pipeline.scoring.scores import Score

VERSION = "2"
CRITERION = "judge_mark_"  # the metric of each criterion's mark, with its number
SAMPLES = 200  # bootstrap samples
INTERVAL = (2.5, 97.5)  # percentiles
# Half a win and half a defeat against an average peer. Without them, a proposal that won every
# comparison would be infinitely strong.
PRIOR = 0.5
STEPS = 100
_POINTS = {"first": 1.0, "equal": 0.5, "second": 0.0}  # of the proposal that was shown first
_UNANSWERED = frozenset({AgentError.DEADLINE, AgentError.ENGINE, AgentError.OVERLONG})
Floats = npt.NDArray[np.float64]


class Rating(NamedTuple):
    """A proposal's rating by the judge: its chance to win against an average peer of its council, 0 to 1."""

    value: float
    low: float
    high: float
    strength: float  # by Bradley and Terry: a's chance against b is a / (a + b)
    marks: list[float]  # mean mark of each criterion, 1 to 5
    comparisons: int


def rate_proposals(rows: Sequence[JudgementRow], seed: int) -> dict[str, Rating]:
    """Ratings by agent id, from one council's `judgements` rows. Only rows with a verdict count; empty without any.

    `seed` decides which comparisons the bootstrap draws.
    """
    verdicts = [row for row in rows if row.better is not None]
    agents = sorted({agent for row in verdicts for agent in (row.first_agent_id, row.second_agent_id)})
    if not agents:
        return {}
    index_of = {agent: index for index, agent in enumerate(agents)}
    games = _games(verdicts, agents)
    strength = strengths(_wins(games, len(agents))[None])
    value = chances(strength)[0]
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(verdicts), size=(SAMPLES, len(verdicts)))
    wins = np.stack([_wins(games[draw], len(agents)) for draw in draws])
    low, high = np.percentile(chances(strengths(wins)), INTERVAL, axis=0)
    marks: dict[str, list[list[int]]] = defaultdict(list)
    for row in verdicts:
        for agent, given in ((row.first_agent_id, row.first_marks), (row.second_agent_id, row.second_marks)):
            marks[agent].append(given or [])
    return {
        agent: Rating(
            float(value[index]),
            float(low[index]),
            float(high[index]),
            float(strength[0, index]),
            [float(mean) for mean in np.mean(marks[agent], axis=0)],
            len(marks[agent]),
        )
        for agent, index in index_of.items()
    }


def wins_of(rows: Sequence[JudgementRow], agents: Sequence[str]) -> Floats:
    """(n, n) points of row over column, among `agents`. Each row of `rows` has a verdict."""
    return _wins(_games(rows, agents), len(agents))


def _games(rows: Sequence[JudgementRow], agents: Sequence[str]) -> Floats:
    """(games, 3): places of the first and of the second proposal among `agents`, and points of the first."""
    index_of = {agent: index for index, agent in enumerate(agents)}
    return np.array(
        [
            (index_of[row.first_agent_id], index_of[row.second_agent_id], _POINTS[row.better])
            for row in rows
            if row.better
        ]
    )


def _wins(games: Floats, n: int) -> Floats:
    first, second = games[:, 0].astype(int), games[:, 1].astype(int)
    wins = np.zeros((n, n))
    np.add.at(wins, (first, second), games[:, 2])
    np.add.at(wins, (second, first), 1 - games[:, 2])
    return wins


def strengths(wins: Floats) -> Floats:
    """(samples, n) Bradley-Terry strengths, from (samples, n, n) wins of row over column.

    Bradley and Terry 1952, by the iteration of Hunter 2004 (MM algorithms for generalized
    Bradley-Terry models). Each has `PRIOR` wins and as many defeats against a peer of strength 1.
    """
    games = wins + wins.transpose(0, 2, 1)
    won = wins.sum(axis=2) + PRIOR
    strength = np.ones(won.shape)
    for _ in range(STEPS):
        pairs = (games / (strength[:, :, None] + strength[:, None, :])).sum(axis=2)
        strength = won / (pairs + 2 * PRIOR / (strength + 1))
    return strength


def chances(strength: Floats) -> Floats:
    """(samples, n) mean chance to win against another one, 0 to 1."""
    n = strength.shape[1]
    against = strength[:, :, None] / (strength[:, :, None] + strength[:, None, :])
    mean: Floats = (against.sum(axis=2) - 0.5) / max(n - 1, 1)
    return mean


def judge_scores(key: str, rows: Sequence[JudgementRow], found: Mapping[str, Rating]) -> list[Score]:
    """The ratings in tall form with a mark for each criterion, and the judge's consistency, stability, and unanswered and unparseable shares."""
    by_criterion = any(row.criteria for row in rows)  # of before that there is one mark over all
    scores = [
        Score(key, agent, None, "final", metric, VERSION, value, rating.comparisons)
        for agent, rating in found.items()
        for metric, value in (
            ("judge", rating.value),
            ("judge_low", rating.low),
            ("judge_high", rating.high),
            ("judge_mark", float(np.mean(rating.marks))),
            *((f"{CRITERION}{n}", mark) for n, mark in enumerate(rating.marks, 1) if by_criterion),
        )
    ]
    for metric, agreement in (
        ("judge_position_consistency", position_consistency(rows)),
        ("judge_repeat_stability", repeat_stability(rows)),
    ):
        if agreement:
            share, n = agreement
            scores.append(Score(key, None, None, "final", metric, VERSION, share, n))
    answered = [row for row in rows if row.error_type not in _UNANSWERED]
    for metric, counted, count in (
        ("judge_unanswered", rows, len(rows) - len(answered)),
        ("judge_unparseable", answered, sum(row.better is None for row in answered)),
    ):
        if counted:
            scores.append(Score(key, None, None, "final", metric, VERSION, count / len(counted), len(counted)))
    return scores


def position_consistency(rows: Sequence[JudgementRow]) -> tuple[float, int] | None:
    """(share of pairs judged alike in both orders, number of pairs); None where no pair has a verdict in both."""
    return _agreement(((row.repeat, frozenset((row.first_agent_id, row.second_agent_id))), row) for row in rows)


def repeat_stability(rows: Sequence[JudgementRow]) -> tuple[float, int] | None:
    """(share of agreeing pairs among repeats of the same question, number of such pairs); None without any."""
    return _agreement(((row.first_agent_id, row.second_agent_id), row) for row in rows)


def _agreement(groups: Iterable[tuple[Hashable, JudgementRow]]) -> tuple[float, int] | None:
    """(share of pairs of rows that prefer the same agent, number of pairs). The key before each row names its group."""
    preferred: dict[Hashable, list[str | None]] = defaultdict(list)
    for group, row in groups:
        if row.better is not None:
            better = {"first": row.first_agent_id, "second": row.second_agent_id}
            preferred[group].append(better.get(row.better))
    alike = [a == b for agents in preferred.values() for i, a in enumerate(agents) for b in agents[:i]]
    return (sum(alike) / len(alike), len(alike)) if alike else None
