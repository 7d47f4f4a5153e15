"""Explains in plain words why the winner won, from the stored tables."""

from collections.abc import Mapping, Sequence

from fleet_pipeline.deliberation.rows import Method, OutcomeRow, ProposalRow, ProposalsFooter, ScoreRow
from fleet_pipeline.scoring.judge import CRITERION
from fleet_pipeline.scoring.ranking import PARTS, QUALIFIED, qualified

_WORDS = {
    "fit": "fits its task rather than others",
    "coverage": "covers requirements and criteria",
    "novelty": "differs from its nearest peer",
    "checks": "passes the checks on its code",
    "form": "says more, and lays it out better",
}
_MEASURES: Mapping[Method, str] = {
    "score": "score",
    "judge": "chance to win by the judge",
    "both": "mean of score and judge",
    "consensus": "likeness to the other proposals",
    "reward": "chance to be preferred by the reward model",
}
_VERIFIED = "a test passes that did not before, and none was broken"
MOST_TEXT = 160


def explain(
    outcome: OutcomeRow,
    seats: Sequence[ProposalRow],
    scoring: ProposalsFooter | None,
    scores: Sequence[ScoreRow],
    marked: Sequence[str] = (),
) -> list[str]:
    """Lines of text, from all that is stored of one deliberation. `scoring` says how its seats were scored, if they were;
    `marked` are the criteria that a judge gave marks for."""
    answered = sorted((seat for seat in seats if seat.score is not None), key=lambda seat: seat.rank or 0)
    winners = [seat for seat in answered if seat.winner]
    if not winners or scoring is None:
        reason = outcome.error_message or "no proposal was ranked"
        return [f"{outcome.deliberation_id} has no winner: it is {outcome.status}: {reason}"]
    winner, weights = winners[0], scoring.weights
    lines = _how_it_won(outcome, winner, scoring.method, answered)
    lines += _judge_lines(winner, scoring.method, scores, marked)
    lines += ["", "Its score and the others':"]
    first = "first" if outcome.clear_winner is False else "winner"
    lines += [_score_line(seat, weights, first) for seat in answered]
    lines += [*_next_best(winner, answered, weights), *_coverage(winner), *_findings(winner), *_conformity(outcome)]
    return lines


def parts_of(seat: ProposalRow, weights: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """(value that counts, share of the weight) of each part that the seat has. The score is the sum of the products."""
    present: dict[str, float] = {part: getattr(seat, part) for part in PARTS if getattr(seat, part) is not None}
    total = sum(weights[part] for part in present)
    relevance = seat.relevance or 0.0
    counted = {
        part: value * qualified(part, relevance) if part in QUALIFIED else value for part, value in present.items()
    }
    equal = 1 / len(present) if present else 0.0
    return {part: (value, weights[part] / total if total else equal) for part, value in counted.items()}


def _how_it_won(outcome: OutcomeRow, winner: ProposalRow, method: Method, answered: Sequence[ProposalRow]) -> list[str]:
    if winner.confidence is None:
        return [_best(winner, answered, "won")]
    if outcome.clear_winner is not False:
        return [
            _best(winner, answered, "won"),
            f"It is better than the next with a probability of {winner.confidence:.2f}.",
        ]
    return [
        f"There is no clear winner: the first is better than the next with a probability of {winner.confidence:.2f} only.",
        _best(winner, answered, "is first"),
        *_what_would_decide(winner, method, len(answered)),
    ]


def _what_would_decide(winner: ProposalRow, method: Method, answered: int) -> list[str]:
    remedies = []
    if method == "score":
        remedies.append('ask a judge that is worth asking ([judge] enabled, [scoring] method = "both")')
        remedies.append('or a reward model ([scoring] reward, method = "reward")')
    if winner.coverage is None:
        remedies.append("give the task requirements, so that it counts what is covered")
    remedies.append(f"read the best {min(answered, 3)} (`fleet show`)")
    return [f"What would decide: {'; '.join(remedies)}."]


def _best(winner: ProposalRow, answered: Sequence[ProposalRow], verb: str) -> str:
    agent, n = winner.agent_id, len(answered)
    if winner.won_by == "tests":
        if winner.tested == "verified":
            return f"{agent} {verb} by its tests: of {n} proposals it alone comes with a change that is verified ({_VERIFIED})."
        return f"{agent} {verb} by the tests of the others: each of the other changes broke one that passed before."
    if n == 1:
        return f"{agent} won as the only agent with a proposal (score {_number(winner.score)})."
    measure, choice = _MEASURES[winner.won_by or "score"], _number(winner.choice)
    candidates = [seat for seat in answered if seat.candidate]
    among = f"{n} proposals" if len(candidates) == n else f"the {len(candidates)} candidates of {n} proposals"
    if winner.by_lot:
        equals = [seat.agent_id for seat in candidates if seat.rank == winner.rank and seat is not winner]
        return (
            f"{agent} {verb} by lot: its {measure}, {choice}, is the best of {among} and equal to that of "
            f"{', '.join(equals)}. The lot depends on the ids alone."
        )
    return f"{agent} {verb} with the best {measure} of {among}: {choice}."


def _judge_lines(winner: ProposalRow, method: Method, scores: Sequence[ScoreRow], marked: Sequence[str]) -> list[str]:
    """What the judge says of the winner, and how reliable its verdicts are."""
    figures = {row.metric: row for row in scores if row.agent_id is None and row.metric.startswith("judge_")}
    lines = []
    if method in ("judge", "both") and winner.won_by == "score":
        lines.append("The judge was to decide, and no verdict on every proposal could be read: the score decided.")
    for metric, words in (
        ("judge_position_consistency", "It preferred the same proposal in both orders in {share:.0%} of pairs ({n})."),
        ("judge_repeat_stability", "Asked again it said the same in {share:.0%} of cases ({n})."),
    ):
        if row := figures.get(metric):
            lines.append(words.format(share=row.value, n=row.n).replace("%", " %"))
    for metric, words in (("judge_unparseable", "could not be read"), ("judge_unanswered", "never came")):
        row = figures.get(metric)
        if row and row.value > 0:
            lines.append(f"{round(row.value * row.n)} of its {row.n} answers {words}.")
    marks = {row.metric: row.value for row in scores if row.agent_id == winner.agent_id}
    for number, criterion in enumerate(marked, 1):
        if (mark := marks.get(f"{CRITERION}{number}")) is not None:
            lines.append(f"It marks {winner.agent_id} {mark:.1f} of 5: {_short(criterion)}")
    return ["", "The judge:", *(f"  {line}" for line in lines)] if lines else []


def _score_line(seat: ProposalRow, weights: Mapping[str, float], first: str) -> str:
    terms = [
        f"{share:.2f} x {_part(seat, part, value)}" for part, (value, share) in parts_of(seat, weights).items() if share
    ]
    mark = f"  {first}" if seat.winner else ""
    low, high = _number(seat.judge_low, 2), _number(seat.judge_high, 2)
    judged = "" if seat.judge is None else f"; judge {_number(seat.judge, 2)} ({low} to {high})"
    rated = (
        "" if seat.reward is None else f"; reward {_number(seat.reward, 2)} (preferred {_number(seat.preferred, 2)})"
    )
    tested = f"; its change: {seat.tested}" if seat.tested else ""
    return f"  {seat.rank}. {seat.agent_id}  {_number(seat.score)} = {' + '.join(terms)}{judged}{rated}{tested}{mark}"


def _part(seat: ProposalRow, part: str, counted: float) -> str:
    """By the number that every table has; where less of it counts, with how much."""
    value = float(getattr(seat, part))
    if not value or abs(value - counted) < 0.0005:
        return f"{part} {value:.3f}"
    return f"{part} {value:.3f} x {counted / value:.3f} (for its relevance)"


def _next_best(winner: ProposalRow, answered: Sequence[ProposalRow], weights: Mapping[str, float]) -> list[str]:
    if len(answered) < 2:
        return []
    other = next(seat for seat in answered if seat is not winner)
    mine, theirs = parts_of(winner, weights), parts_of(other, weights)
    gaps = {
        part: mine[part][0] * mine[part][1] - theirs[part][0] * theirs[part][1]
        for part in PARTS
        if part in mine and part in theirs
    }
    ahead = [f"{_WORDS[part]} (+{gap:.3f})" for part, gap in sorted(gaps.items(), key=lambda g: -g[1]) if gap > 0.0005]
    behind = [f"{_WORDS[part]} ({gap:.3f})" for part, gap in sorted(gaps.items(), key=lambda g: g[1]) if gap < -0.0005]
    lines = ["", f"Beside {other.agent_id}, the next:"]
    lines += [f"  ahead where it {'; '.join(ahead)}"] if ahead else ["  ahead in no part of the score"]
    lines += [f"  behind where it {'; '.join(behind)}"] if behind else []
    lines += ["  parts that only one of them has are shared out among its others"] if set(mine) != set(theirs) else []
    return lines


def _coverage(winner: ProposalRow) -> list[str]:
    evidence = winner.evidence
    if not evidence:
        return []
    covered = [entry for entry in evidence if entry.covered]
    lines = ["", f"It covers {len(covered)} of {len(evidence)} requirements and criteria:"]
    for entry in evidence:
        point = _short(entry.point)
        if entry.covered:
            lines.append(f'  [x] {point}\n      "{_short(entry.text)}"')
        else:
            lines.append(
                f"  [ ] {point}"
                + (f'\n      at most ({entry.share:.2f}): "{_short(entry.text)}"' if entry.text else "")
            )
    return lines


def _findings(winner: ProposalRow) -> list[str]:
    if not winner.findings:
        return ["", "It holds no code that could be checked."]
    passed = sorted({finding.check for finding in winner.findings if finding.passed})
    lines = ["", f"Checks passed: {', '.join(passed) or 'none'}."]
    lines += [f"  {one.check}, line {one.line}: {one.message}" for one in winner.findings if not one.passed]
    return lines


def _conformity(outcome: OutcomeRow) -> list[str]:
    before, after = outcome.initial_vendi, outcome.vendi
    if before is None or after is None or outcome.answered < 2:
        return []
    trend = "lowered" if after < before - 0.05 else "raised" if after > before + 0.05 else "hardly changed"
    return [
        "",
        f"Revision {trend} the council's diversity: {before:.2f} different proposals in effect before, {after:.2f} after.",
    ]


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_TEXT else f"{line[:MOST_TEXT]}..."
