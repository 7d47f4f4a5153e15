"""The words by which every report marks what is not whole: a shortened answer, a council whose time was up; and those by which
it tells what tests say of a change.
"""

from fleet_pipeline.deliberation.action_rows import ArtifactRow
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


def verdict(row: ArtifactRow) -> str:
    """What tests say of an agent's change."""
    if row.tested is None:
        return "nothing was changed"
    if row.error:
        return f"{row.tested}: its tests could not be run: {row.error}"
    if row.tests_passed is None:
        return row.tested
    new, broken = len(row.tests_fixed), len(row.tests_broken)
    return f"{row.tested}: {row.tests_passed} tests pass, {new} of them anew; {broken} broken"


def particulars(row: ArtifactRow) -> dict[str, list[str]]:
    """The names that belong to a verdict, those that there are."""
    every = {
        "commits": row.commits,
        "files changed": row.files_changed,
        "tests that pass anew": row.tests_fixed,
        "tests broken": row.tests_broken,
        "tests edited": row.tests_edited,
        "left out by .gitignore": row.ignored,
    }
    return {title: names for title, names in every.items() if names}
