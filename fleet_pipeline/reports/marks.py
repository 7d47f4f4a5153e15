"""The words by which every report marks what is not whole: a shortened answer, a council whose time was up."""

from fleet_pipeline.deliberation.answers import Shortened
from fleet_pipeline.deliberation.rows import OutcomeRow
from fleet_pipeline.deliberation.transcript import Status

SHORTENED: dict[Shortened, str] = {
    "truncated": "cut at its token limit; its broken end is left out",
    "looped": "it repeated itself until it was stopped; all but the first time is left out",
}


def unclear(outcome: OutcomeRow) -> str:
    """What is said of a winner whose lead is too small to be a verdict, or ""."""
    if outcome.clear_winner is not False:
        return ""
    return (
        f"no clear winner: {outcome.winner_agent_id} is first, and better than the next with a probability of "
        f"{outcome.confidence:.2f}; the ranks are an order, and no verdict"
    )


def shortfall(outcome: OutcomeRow) -> str:
    """What a completed deliberation did not come to, or ""."""
    done, asked = outcome.rounds_done, outcome.rounds
    if outcome.status is not Status.COMPLETED or done is None or asked is None or done >= asked:
        return ""
    deadline = f" of {outcome.timeout_seconds:.0f} s" if outcome.timeout_seconds else ""
    return f"time was up after {done} of {asked} rounds: these are the proposals that stood at its deadline{deadline}"
