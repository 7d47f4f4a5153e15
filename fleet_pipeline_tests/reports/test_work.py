"""What agents did with tools, as a picture, in the UI's dialogs and in the report."""

import io
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, Page
from pydantic import ValidationError

from fleet_pipeline.deliberation.action_rows import Actions
from fleet_pipeline.reports.discussion import changes
from fleet_pipeline.reports.html import DeliberationDetail, write_report
from fleet_pipeline.reports.timeline import MOST_BARS, timeline
from fleet_pipeline.services.outcome_page import MOST_CALLS, metadata
from fleet_pipeline.services.outcomes import Outcome
from fleet_pipeline.settings import LinkSettings
from fleet_pipeline.storage.store import Store
from fleet_pipeline_tests.support.hostile import HOSTILE
from fleet_pipeline_tests.support.rows import NOON, a_seat, an_artifact, an_operation, an_outcome

pytestmark = [pytest.mark.unit, pytest.mark.browser]

MARK = "window.defaced = true"
SVG = "{http://www.w3.org/2000/svg}"
SEATS = [a_seat(1, tested="verified", winner=True), a_seat(2, tested="broken")]


def operations() -> list:
    hostile = [f"<svg onload='{MARK}'>", *HOSTILE]
    own = [
        an_operation(n + 1, arguments=f'{{"content": {text!r}}}', started_at=NOON + timedelta(seconds=2 * n))
        for n, text in enumerate(hostile)
    ]
    other = {"agent_id": "agent-dev-002", "ok": False, "outcome": "failed", "seconds": 12.0}
    return [
        *own,
        an_operation(1, "tests.pytest", error=f"<img src=x onerror='{MARK}'>", **other),
        an_operation(2, None),
    ]


def artifacts() -> list:
    return [
        an_artifact(diff="\n".join(["--- a/x", "+++ b/x", *(f"+{text}" for text in HOSTILE)])),
        an_artifact(agent_id="agent-dev-002", tested="broken", tests_broken=["test_a.py::<b>"], commits=[]),
        an_artifact(agent_id="agent-dev-003", tested=None, files_changed=[], diff=""),
    ]


def test_a_timeline_has_a_lane_for_each_agent_and_a_bar_for_each_call_in_its_place() -> None:
    drawn = ElementTree.fromstring(timeline(operations()))
    names = [text.text for text in drawn.iter(f"{SVG}text")]
    assert {"agent-dev-001", "agent-dev-002", "tests.pytest"} <= set(names)
    bars = [bar for bar in drawn.iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None]
    assert len(bars) == len(operations()) - 1  # an answer that was no call has no time
    own = [float(bar.get("x") or 0) for bar in bars[:-1]]
    assert own == sorted(own)
    assert len(set(own)) == len(own)
    assert {bar.get("fill") for bar in bars[:-1]} != {bars[-1].get("fill")}
    told = bars[-1].find(f"{SVG}title")
    assert told is not None
    assert told.text == "propose 1: tests.pytest, failed, 12.00 s"


def test_a_timeline_is_bounded_and_its_tools_are_text_and_without_calls_there_is_none() -> None:
    many = [an_operation(n, started_at=NOON + timedelta(seconds=n), agent_id=f"a{n % 40}") for n in range(5_000)]
    assert timeline(many).count("<title>") <= MOST_BARS
    assert len(timeline(many)) < 100_000
    hostile = timeline([an_operation(1, "x.</title><script>alert(1)</script>", seconds=60.0)])
    assert "<script>" not in hostile
    ElementTree.fromstring(hostile)
    assert timeline([]) == timeline([an_operation(1, None)]) == ""


def test_changes_are_told_with_their_tests_and_no_text_of_theirs_becomes_markup() -> None:
    tokens = MarkdownIt().parse(changes(artifacts()))
    headings = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings == ["agent-dev-001", "agent-dev-002"]
    blocks = [token.content for token in tokens if token.type == "fence"]
    assert blocks[0] == "verified: 2 tests pass, 1 of them anew; 0 broken\n"
    assert "commits: c0ffee" in blocks[1]
    assert all(f"+{line}" in blocks[2] for text in HOSTILE[:3] for line in text.splitlines()[:1])
    assert "tests broken: test_a.py::<b>" in blocks[4]
    assert {token.type for token in tokens} <= {"heading_open", "inline", "heading_close", "fence"}


def test_a_page_shows_picture_calls_and_changes_and_no_text_where_texts_are_left_out(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    many = [*operations(), *(an_operation(n) for n in range(MOST_CALLS))]
    outcome = Outcome(an_outcome(tools=True), SEATS, [], {}, Actions(many, artifacts()))
    shown = metadata(store, outcome, texts=True)
    assert str(shown["timeline"].value).startswith("![calls of tools](data:image/svg+xml;base64,")
    (table,) = (value for name, value in shown.items() if name.startswith("calls, the first 100 of 1"))
    assert len(table.records) == MOST_CALLS
    assert table.records[len(HOSTILE) + 1].data["why not"] == f"<img src=x onerror='{MARK}'>"
    assert "## agent-dev-002" in str(shown["changes"].value)
    bare = metadata(store, outcome, texts=False)
    assert not any(text in repr(bare) for text in ("onerror", "content", "+++ b/x"))
    assert "timeline" in bare
    without = metadata(store, Outcome(an_outcome(), SEATS, [], {}), texts=True)
    assert not {"timeline", "calls", "changes"} & set(without)


def test_files_and_docs_are_links_where_the_settings_say_where_browsers_find_them(tmp_path: Path) -> None:
    outcome = Outcome(an_outcome(), SEATS, [], {})
    links = LinkSettings(storage="https://files.example/fleet/", docs="https://docs.example")
    shown = metadata(Store(str(tmp_path)), outcome, texts=True, links=links)
    assert shown["parquet"].value == f"https://files.example/fleet/proposals/{an_outcome().deliberation_id}.parquet"
    assert shown["what the figures mean"].value == "https://docs.example/scores.md"
    for wrong in ("javascript:alert(1)", "files.example", "https://x y", "https://x)[b](c"):
        with pytest.raises(ValidationError, match=r"links|storage"):
            LinkSettings(storage=wrong)


@pytest.mark.parametrize(
    "diff", ["+x\n" + "+\n" * 130_000, "+\n-\n" * 65_000], ids=["blank lines", "alternating lines"]
)
def test_the_report_of_many_keeps_to_its_bound_whatever_agents_have_changed_and_called(diff: str) -> None:
    """Fifty with changes of blank lines were 109 MB: each line was an element of its own, and no diff was counted."""
    seats = [a_seat(number, tested="broken", winner=number == 1) for number in (1, 2, 3)]
    agents = [seat.agent_id for seat in seats]
    calls = [
        an_operation(n, agent_id=agents[n % 3], arguments="x" * 1_000, started_at=NOON + timedelta(seconds=n))
        for n in range(400)
    ]
    names = ["n" * 300] * 500
    changed = [an_artifact(agent_id=one, tested="broken", diff=diff, files_changed=names) for one in agents]
    outcomes = [replace(an_outcome(tools=True), deliberation_id=f"t{n}.dev") for n in range(300)]
    details = {one.deliberation_id: DeliberationDetail(one, seats, [], Actions(calls, changed)) for one in outcomes}
    page = _Counted()
    won = pd.DataFrame([{"role": "DEV", "perspective": "x", "winner": True, "answered": True}])
    write_report(page, "x", pd.DataFrame([asdict(one) for one in outcomes]), won, details.__getitem__)
    assert page.bytes < 25_000_000


class _Counted(io.StringIO):
    bytes = 0

    def write(self, text: str) -> int:
        self.bytes += len(text.encode())
        return len(text)


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 390, "height": 900}, color_scheme=request.param, bypass_csp=True)
    yield context.new_page()
    context.close()


def test_the_report_has_the_picture_the_calls_and_the_change_as_text(page: Page, tmp_path: Path) -> None:
    outcome = an_outcome(tools=True, winner_agent_id="agent-dev-001")
    detail = DeliberationDetail(outcome, SEATS, [], Actions(operations(), artifacts()))
    seats = pd.DataFrame([{"role": "DEV", "perspective": "simplicity", "winner": True, "answered": True}])
    rows = pd.DataFrame([asdict(outcome)])
    with (tmp_path / "report.html").open("w") as out:
        write_report(out, "Work", rows, seats, lambda _: detail)
    page.goto((tmp_path / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("window.defaced") is None
    shown = page.locator("main").text_content() or ""
    for text in ("Its change is verified: 2 tests pass", "tests broken: test_a.py::<b>", f"<svg onload='{MARK}'>", "\\x1b[31mred", "failed: <img"):  # fmt: skip
        assert text in shown, text
    assert page.locator("main details figure svg").count() == 1
    assert "".join(page.locator("pre .added").all_text_contents()).count("\n") >= len(HOSTILE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
