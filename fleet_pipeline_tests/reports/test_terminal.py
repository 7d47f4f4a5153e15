"""Tables on terminals of any width, and in pipes."""

import io

import pytest
from rich.console import Console

from fleet_pipeline.cli.common import console
from fleet_pipeline.deliberation.exchange import AgentError
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.transcript import Status, Transcript
from fleet_pipeline.events.payloads import Status as Standing
from fleet_pipeline.reports.terminal import deliberation_page, overview, run_table, status_table
from fleet_pipeline.services.progress import Progress
from fleet_pipeline_tests.support.rows import a_seat, a_status, an_outcome, an_utterance

pytestmark = pytest.mark.unit

IDS = ["ci-cd-pipeline.devops", "3f2b1c1e-2b1d-4c55-9a7f-0a1b2c3d4e5f.architect", f"{'x' * 60}.dev", f"{'y' * 120}.dev"]
OUTCOMES = {"vendi": 2.37, "answered": 3, "mean_relevance": 0.891, "winner_score": 0.861}


@pytest.mark.parametrize("key", IDS)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_long_id_takes_no_other_column_off_the_table(key: str, width: int) -> None:
    """From 84 characters on there was nothing but the id."""
    rows = [an_outcome(deliberation_id=key, **OUTCOMES), an_outcome(deliberation_id="b.qa", status=Status.TIMEOUT)]
    out = Console(file=io.StringIO(), width=width)
    out.print(run_table(rows))
    text = out.file.getvalue()
    for cell in ("completed", "timeout", "002", "0.861", "2.37 of 3", "0.891"):
        assert cell in text
    folded = "".join(line.partition("  ")[0] for line in text.splitlines()[1:])
    assert key in folded
    answers = [
        a_status(
            deliberation_id=key, status=Standing.IN_PROGRESS, total_agents=3, winner_score=0.861, run_id="0123456789"
        )
    ]
    out.print(status_table(answers))
    assert all(cell in out.file.getvalue() for cell in ("IN_PROGRESS", "0 of 3", "01234567"))


def test_a_task_of_any_length_leaves_the_winner_in_sight() -> None:
    """A file in base64 filled 622 lines."""
    out = Console(file=io.StringIO(), width=80)
    out.print(deliberation_page(an_outcome(description="QUJD" * 12_000), [a_seat(1, "The winner", winner=True)], []))
    assert out.file.getvalue().count("\n") < 80
    assert "44,000 more characters" in out.file.getvalue()


def test_a_lead_too_small_for_a_verdict_is_no_winner_anywhere() -> None:
    unclear = an_outcome(deliberation_id="a.dev", confidence=0.57, clear_winner=False, **OUTCOMES)
    clear = an_outcome(deliberation_id="b.dev", confidence=0.9, clear_winner=True, **OUTCOMES)
    out = Console(file=io.StringIO(), width=120)
    out.print(run_table([unclear, clear]))
    lines = out.file.getvalue().splitlines()
    assert [" 002 ? " in line for line in lines[1:3]] == [True, False]
    assert "no clear winner in 1 of 2 (marked ?): `fleet explain ID` says what would decide" in lines[3]
    out.print(status_table([a_status(winner_id="agent-dev-002", clear_winner=False)]))
    assert out.file.getvalue().count("002 ?") == 2
    out.print(deliberation_page(unclear, [a_seat(2, "Redis.", winner=True, rank=1)], []))
    page = out.file.getvalue().partition("a.dev  completed")[2]
    assert "no clear winner: agent-dev-002 is first, and better than the next with a probability of 0.57" in page
    assert "[first] rank 1" in page
    assert "[winner]" not in page


def test_why_a_deliberation_failed_is_told_below_the_table_and_no_more_than_ten_are() -> None:
    rows = [
        an_outcome(deliberation_id=f"t{n}.dev", status=Status.FAILED, error_message=f"no. {n}\nquorum")
        for n in range(12)
    ]
    out = Console(file=io.StringIO(), width=100)
    out.print(run_table(rows))
    assert "t0.dev: failed: no. 0 quorum" in out.file.getvalue()
    assert "t11.dev: failed" not in out.file.getvalue()
    assert "... and 2 more; `fleet show ID` says why" in out.file.getvalue()


def printed(renderable) -> str:
    out = Console(file=io.StringIO(), width=200)
    out.print(renderable)
    return out.file.getvalue()


def test_answers_that_are_not_whole_and_councils_whose_time_was_up_are_told_below_the_table() -> None:
    short = {"rounds": 3, "rounds_done": 1, "timeout_seconds": 120.0}
    text = printed(run_table([an_outcome(truncated=2), an_outcome(deliberation_id="t2.dev", looped=1, **short)]))
    assert "2 answers were cut at max_tokens and 1 repeated themselves" in text
    assert "t2.dev: time was up after 1 of 3 rounds" in text
    assert "deadline of 120 s" in text
    whole = printed(run_table([an_outcome(rounds=1, rounds_done=1)]))
    assert "cut at max_tokens" not in whole
    assert "time was up" not in whole


def test_a_page_marks_what_is_shortened_and_shows_what_was_being_said_when_time_was_up() -> None:
    late = {"error_type": AgentError.DEADLINE, "error_message": "time was up"}
    said = [
        an_utterance(phase=Phase.CRITIQUE, round=1, label="B", text="It lo", **late),
        an_utterance(agent_id="agent-dev-002", about_agent_id="agent-dev-002", label="B", text="We cou", **late),
    ]
    seats = [a_seat(1, winner=True, shortened="looped"), a_seat(2, None, error_type=AgentError.DEADLINE)]
    text = printed(deliberation_page(an_outcome(truncated=1), seats, said))
    assert "[it repeated itself until it was stopped; all but the first time is left out]" in text
    assert "critique 1, by B, unfinished (deadline)" in text
    assert "It lo" in text
    assert "propose 0, by B, unfinished (deadline)" in text
    assert "We cou" in text
    assert "1 were cut at max_tokens" in text


@pytest.mark.parametrize("key", IDS)
def test_a_table_in_a_pipe_has_every_row_on_one_line(key: str) -> None:
    out = io.StringIO()
    console(out).print(run_table([an_outcome(deliberation_id=key, **OUTCOMES)]))
    (row,) = [line for line in out.getvalue().splitlines() if key in line]
    assert row.split() == [key, "completed", "002", "0.861", "2.37", "of", "3", "0.891"]


def test_deliberations_that_failed_for_one_reason_are_told_in_one_line() -> None:
    rows = [
        an_outcome(deliberation_id=f"t{n}.dev", status=Status.TIMEOUT, error_message="time was up") for n in range(7)
    ]
    rows.append(an_outcome(deliberation_id="other.dev", status=Status.FAILED, error_message="the engine broke"))
    lines = printed(run_table(rows)).splitlines()
    assert "t0.dev, t1.dev, t2.dev, t3.dev, t4.dev and 2 more: timeout: time was up" in lines
    assert "other.dev: failed: the engine broke" in lines


def test_the_overview_of_all_deliberations_says_why_some_failed() -> None:
    states = {"a.dev": "COMPLETED", "b.dev": "FAILED", "c.dev": "FAILED", "d.dev": "PENDING"}
    text = printed(overview(states, {}, "storage", {"b.dev": "no quorum", "c.dev": "no quorum"}))
    assert "b.dev, c.dev: FAILED: no quorum" in text


def test_a_page_tells_the_course_in_its_order_with_opening_proposals_and_what_revisions_changed() -> None:
    seats = [a_seat(1, "Use a lease.", winner=True, rank=1), a_seat(2, "Use Redis.", rank=2)]
    second = {"agent_id": "agent-dev-002", "label": "B"}
    said = [
        an_utterance(text="Use a lock."),
        an_utterance(text="Use Redis.", about_agent_id="agent-dev-002", **second),
        an_utterance(phase=Phase.CRITIQUE, round=1, text="It may be held for ever.", **second),
        an_utterance(phase=Phase.REVISE, round=1, text="Use a lease."),
        an_utterance(phase=Phase.REVISE, round=1, text="Use Redis.", about_agent_id="agent-dev-002", **second),
    ]
    course = printed(deliberation_page(an_outcome(), seats, said)).partition("Opening proposals")[2]
    in_order = [
        "agent-dev-001 (A)", "Use a lock.", "agent-dev-002 (B)", "the proposal above",
        "Round 1: critiques", "agent-dev-002 (B) on the proposal of agent-dev-001", "It may be held for ever.",
        "Round 1: revisions", "1 words came, 1 went", "Use a [-lock.-] {+lease.+}", "no word was changed",
    ]  # fmt: skip
    at = 0
    for text in in_order:
        at = course.index(text, at)


def test_a_page_of_proposals_alone_has_no_course() -> None:
    page = printed(
        deliberation_page(an_outcome(), [a_seat(1, "Use a lock.", winner=True)], [an_utterance(text="Use a lock.")])
    )
    assert "Opening proposals" not in page


def test_progress_fits_into_eighty_columns() -> None:
    progress = Progress(
        total=1_000, completed=998, failed=1, prompt_tokens=10, cached_tokens=3, completion_tokens=1_000
    )
    progress.generating_seconds = 3_599.0
    progress.phase, progress.answers, progress.planned = "deliberating", 9_000, 200
    assert "left" in str(progress)
    assert len(str(progress)) <= 76  # and a spinner before it


def test_the_time_that_is_left_is_of_answers_and_what_failed_makes_it_no_shorter() -> None:
    progress = Progress(total=8, planned=8 * 9, phase="deliberating", generating_seconds=20.0)
    progress.answers = 7
    assert progress.eta_seconds is None  # a tenth is not there
    progress.answers = 24
    assert progress.eta_seconds == pytest.approx(20 / 24 * 48)
    before = progress.eta_seconds
    progress.count(Transcript("t.dev", Status.TIMEOUT, ()), 9)  # nothing that it said is left
    assert before > progress.eta_seconds == pytest.approx(20 / 24 * 39)
    progress.completed, progress.planned, progress.answers_of_ended, progress.answers = 7, 0, 63, 70
    assert progress.eta_seconds == 0.0
