"""The run_report of a run, in a real browser: whole, quiet, accessible, and not to be defaced by what models say."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from axe_playwright_python.sync_playwright import Axe
from click.testing import CliRunner
from playwright.sync_api import Browser, Page

from fleet_pipeline.cli import main
from fleet_pipeline.deliberation.exchange import AgentError, Completion
from fleet_pipeline.reports import html
from fleet_pipeline.services import run_report
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.hostile import HOSTILE
from fleet_pipeline_tests.support.pipeline import Pipeline, why_broken
from fleet_pipeline_tests.support.scripted import echo

pytestmark = [pytest.mark.instance, pytest.mark.browser]

MARK = "window.defaced = true"
ATTACKS = [
    *HOSTILE,
    f"<script>{MARK}</script>",
    f"</pre></details></main><img src=x onerror='{MARK}'>",
    f"{{{{ 7 * 7 }}}} {{% raw %}} <svg onload='{MARK}'>",
    "<meta http-equiv=refresh content='0; url=https://example.org'><link rel=stylesheet href=https://example.org/x.css>",
]


@pytest.fixture
def run_id(pipeline: Pipeline) -> str:
    """Eleven deliberations in which agents say what could break a page, and two that fail."""
    keys = [
        *(key for n in range(len(ATTACKS)) for key in pipeline.put(f"hostile-{n}", description=f"Attack {n}.")),
        *pipeline.put("good", roles=["DEV", "QA"]),
        *pipeline.put("bad", description="This one breaks"),
    ]
    broken = Completion(error=AgentError.ENGINE, error_message="it broke <b>badly</b>")

    def answer(prompt):
        if "This one breaks" in prompt.user:
            return broken
        attack = next((text for n, text in enumerate(ATTACKS) if f"Attack {n}." in prompt.user), None)
        return said(f"{attack} {prompt.seat.label}") if attack is not None else echo(prompt)

    pipeline.answer = answer
    return str(pipeline.run(keys).run_id)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.noise = []  # type: ignore[attr-defined]
    page.on("console", lambda message: page.noise.append(message.text))
    page.on("pageerror", lambda error: page.noise.append(str(error)))
    page.on(
        "request", lambda request: page.noise.append(request.url) if request.url[:5] not in ("file:", "data:") else None
    )
    yield page
    context.close()


def written(pipeline: Pipeline, folder: Path, *arguments: str) -> Path:
    out = folder / "report.html"
    result = CliRunner().invoke(main, ["report", *arguments, "--storage", str(pipeline.storage), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


def test_it_opens_from_disk_without_a_request_or_an_error_and_every_text_is_there_as_text(
    pipeline: Pipeline, run_id: str, page: Page, tmp_path: Path
) -> None:
    page.goto(written(pipeline, tmp_path, run_id[:8]).as_uri())
    assert page.noise == []
    assert page.evaluate("window.defaced") is None
    assert page.locator("main img, main script, main link, main meta").count() == 0
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    shown = page.locator("main").text_content() or ""
    for text in (
        f"<script>{MARK}</script>",
        "{{ 7 * 7 }} {% raw %}",
        "\\u202eright to left",
        "\\x1b[31mred",
        "it broke <b>badly</b>",
    ):
        assert text in shown
    rows = pipeline.table("deliberations")
    assert {one.get_attribute("id") for one in page.locator("#deliberations > details").all()} == set(
        rows["deliberation_id"]
    )
    assert page.locator("figure svg").count() == 5
    assert page.locator("dd.failed").inner_text() == str((rows["status"] == "failed").sum())
    assert "Not a model" in page.locator(".notice").inner_text()


def shown(page: Page) -> list[str | None]:
    return [one.get_attribute("id") for one in page.locator("#deliberations > details:visible").all()]


def test_deliberations_are_found_filtered_and_sorted_and_a_link_opens_one_that_is_hidden(
    pipeline: Pipeline, run_id: str, page: Page, tmp_path: Path
) -> None:
    page.goto(written(pipeline, tmp_path).as_uri())
    every = set(shown(page))
    page.fill("#find", "no such words")
    assert shown(page) == []
    page.fill("#find", "  ATTACK   3.")
    assert shown(page) == ["hostile-3.dev"]
    assert page.locator("#count").inner_text() == f"1 of {len(every)}"
    page.click("section[aria-labelledby=failures] a[href='#bad.dev']")
    assert page.locator("#bad\\.dev").get_attribute("open") is not None
    assert set(shown(page)) == every  # what hid it is taken back
    assert page.locator("#bad\\.dev pre").first.is_visible()
    page.select_option("#role", "QA")
    assert shown(page) == ["good.qa"]
    page.select_option("#role", "")
    page.select_option("#sort", "name")
    assert shown(page) == sorted(shown(page))
    page.select_option("#sort", "tokens")
    tokens = pipeline.table("deliberations").set_index("deliberation_id")["completion_tokens"]
    assert [tokens[key] for key in shown(page)] == sorted(tokens[key] for key in every)[::-1]
    assert page.noise == []


def test_a_link_from_elsewhere_and_a_mark_in_a_picture_open_their_deliberation(
    pipeline: Pipeline, run_id: str, page: Page, tmp_path: Path
) -> None:
    report = written(pipeline, tmp_path).as_uri()
    page.goto(f"{report}#good.dev")
    assert page.locator("#good\\.dev").get_attribute("open") is not None
    page.locator("figure svg a[href='#good.qa']").first.dispatch_event("click")
    assert page.locator("#good\\.qa").get_attribute("open") is not None


def test_without_scripts_all_can_be_read_and_nothing_is_offered_that_does_nothing(
    pipeline: Pipeline, run_id: str, browser: Browser, tmp_path: Path
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(written(pipeline, tmp_path).as_uri())
    assert page.locator("#controls").is_hidden()
    page.locator("#good\\.dev > summary").click()
    assert page.locator("#good\\.dev pre").first.is_visible()
    context.close()


def test_a_report_tells_why_each_won_what_revisions_changed_and_what_to_do_about_failures(
    pipeline: Pipeline, run_id: str, page: Page, tmp_path: Path
) -> None:
    page.goto(written(pipeline, tmp_path, "--title", "The <night>").as_uri())
    assert page.title() == "The <night>"
    assert f"Run {run_id}" in page.locator("header").inner_text()
    page.locator("#good\\.dev > summary").click()
    good = page.locator("#good\\.dev").text_content() or ""
    winner = pipeline.table("deliberations").set_index("deliberation_id")["winner_agent_id"]["good.dev"]
    assert f"{winner} won " in good or f"{winner} is first by lot: its score" in good
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.locator("#good\\.dev ins").count() > 0
    failures = page.locator("section[aria-labelledby=failures]").inner_text()
    assert "To do: mend what the engine names" in failures
    assert "This one breaks" in failures  # its task


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_passes_the_accessibility_check_in_light_and_dark(
    pipeline: Pipeline, run_id: str, browser: Browser, tmp_path: Path, scheme: str
) -> None:
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(written(pipeline, tmp_path).as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    context.close()


def test_it_fits_the_width_of_a_phone(pipeline: Pipeline, run_id: str, browser: Browser, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, device_scale_factor=2)
    page = context.new_page()
    page.goto(written(pipeline, tmp_path).as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_a_report_is_of_the_run_that_is_named_the_last_one_or_a_stretch_of_time(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    first = pipeline.run(pipeline.put("t1")).run_id
    second = pipeline.run(pipeline.put("t2", "t3")).run_id
    for arguments, keys in (
        ([first[:8]], {"t1"}),
        ([], {"t2", "t3"}),
        ([second], {"t2", "t3"}),
        (["--since", "1h"], {"t1", "t2", "t3"}),
    ):
        text = written(pipeline, tmp_path, *arguments).read_text()
        assert {key for key in ("t1", "t2", "t3") if f'<details id="{key}.dev"' in text} == keys


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing-like-it"], "no deliberations of run nothing-like-it"),
        (["--since", "2099-01-01"], "nothing in"),
        (["a", "--since", "1h"], "name a run, or a time"),
        (["--against", "a", "--since", "1h"], "--against compares runs"),
    ],
)
def test_what_there_is_no_report_of_is_told(
    pipeline: Pipeline, arguments: list[str], said: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(main, ["report", "--storage", str(pipeline.storage)])
    assert "no deliberations in" in result.output
    pipeline.run(pipeline.put("t1"))
    result = CliRunner().invoke(
        main, ["report", *arguments, "--storage", str(pipeline.storage), "--out", str(tmp_path / "r")]
    )
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "r").exists()


def test_a_report_of_a_deliberation_that_is_damaged_tells_the_others(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.run(pipeline.put("t1", "t2"))
    for table in ("utterances", "proposals"):
        (pipeline.storage / table / "t1.dev.parquet").write_bytes(b"PAR1 torn")
    out = io.StringIO()
    run_report.write(out, pipeline.store, "Both", run_report.outcome_table(pipeline.store))
    assert '<details id="t1.dev"' in out.getvalue()
    assert "agent-dev-003" in out.getvalue()


def test_a_bulk_run_leaves_its_report_in_the_storage_and_says_where_on_its_page(pipeline: Pipeline) -> None:
    pipeline.configure(reports={"at_least": 2, "at_most": 2})
    small = pipeline.run(pipeline.put("t1")).run_id
    large = pipeline.run(pipeline.put("t4", "t5", "t6")).run_id
    run = pipeline.run(pipeline.put("t2", "t3")).run_id
    seen = pipeline.instance.fetch_observations(dg.AssetKey("deliberations"), limit=5).records
    (observed,) = [record for record in seen if record.partition_key is None]
    assert observed.run_id == run
    place = Path(observed.asset_observation.metadata["report"].value)
    assert place == pipeline.storage / f"reports/{run}.html"
    assert '<details id="t3.dev"' in place.read_text()
    assert not (pipeline.storage / f"reports/{small}.html").exists()
    assert not (pipeline.storage / f"reports/{large}.html").exists()


def test_on_a_page_with_too_much_text_short_texts_are_whole_and_long_ones_share_what_is_left(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "x" * 30_000
    pipeline.answer = lambda prompt: said(long if prompt.seat.index == 0 else f"A short one of {prompt.seat.label}.")
    pipeline.run(pipeline.put("t1", rounds=0))
    assert long in written(pipeline, tmp_path).read_text()
    monkeypatch.setattr(html, "MOST_TOGETHER", 20_000)
    page = written(pipeline, tmp_path).read_text()
    (kept,) = {len(run) for run in re.findall("x{100,}", page)}
    assert 9_000 < kept < 10_000  # the proposal, and the answer that it is
    assert f"[... {30_000 - kept:,} more characters" in page
    assert "A short one of B." in page


def test_a_megabyte_of_hostile_texts_is_short_and_inert_on_every_page(
    pipeline: Pipeline, page: Page, tmp_path: Path
) -> None:
    attack = "\n".join(ATTACKS)
    pipeline.answer = lambda prompt: said(f"{attack}\n{prompt.seat.label} " * (2**17 // len(attack)))
    pipeline.run(pipeline.put("t1"))
    (record,) = pipeline.instance.fetch_materializations(dg.AssetKey("deliberations"), limit=1).records
    assert len(repr(record.asset_materialization.metadata)) < 2_000_000
    report = written(pipeline, tmp_path)
    assert report.stat().st_size < 3_000_000
    page.goto(report.as_uri())
    assert page.evaluate("window.defaced") is None
    assert page.noise == []
    said_in_terminal = CliRunner().invoke(main, ["show", "t1.dev", "--storage", str(pipeline.storage)]).output
    assert "\x1b[31mred" not in said_in_terminal
    assert "\u202e" not in said_in_terminal
    assert "\\x1b[31mred" in said_in_terminal


def test_a_run_whose_report_cannot_be_written_is_none_the_worse(pipeline: Pipeline) -> None:
    pipeline.configure(reports={"at_least": 1})
    (pipeline.storage / "reports").parent.mkdir(parents=True, exist_ok=True)
    (pipeline.storage / "reports").write_text("a file where the folder should be")
    assert pipeline.run(pipeline.put("t1")).success


def test_what_could_not_be_held_is_in_the_report_of_a_stretch_of_time(pipeline: Pipeline, tmp_path: Path) -> None:
    keys = pipeline.put("good", "lost")
    (pipeline.storage / "tasks/lost.dev.json").write_text("{}")
    pipeline.run(keys)
    assert pipeline.table("deliberations").set_index("task_id")["finished_at"].isna()["lost"]
    assert '<details id="lost.dev"' in written(pipeline, tmp_path, "--since", "1h").read_text()


def test_a_report_that_breaks_hides_no_failure_of_a_deliberation(pipeline: Pipeline, monkeypatch) -> None:
    pipeline.configure(reports={"at_least": 1})
    broken = Completion(error=AgentError.ENGINE, error_message="it broke")
    pipeline.answer = lambda _: broken

    def breaks(*_: object) -> str:
        raise ValueError("no such colour")

    monkeypatch.setattr("fleet_pipeline.defs.assets.store_report", breaks)
    result = pipeline.run(pipeline.put("bad"))
    assert why_broken(result) is None
    assert pipeline.partitions("deliberations") == (set(), {"bad.dev"})


def test_two_runs_of_the_same_tasks_stand_side_by_side_also_where_the_second_replaced_the_first(
    pipeline: Pipeline, page: Page, browser: Browser, tmp_path: Path
) -> None:
    keys = pipeline.put("t1", "t2", "only-before")
    pipeline.answer = lambda prompt: said(f"A lock in Redis, held for a second. {prompt.seat.label}")
    before = pipeline.run(keys).run_id
    scores = pipeline.table("deliberations").set_index("deliberation_id")["winner_score"]
    pipeline.answer = lambda prompt: said(f"A lease in Redis, held for a second; a rate limiter. {prompt.seat.label}")
    pipeline.put("t1", "t2", sampling={"max_tokens": 300})
    after = pipeline.run(["t1.dev", "t2.dev"]).run_id
    page.goto(written(pipeline, tmp_path, after[:8], "--against", before[:8], "--title", "Two <models>").as_uri())
    assert page.noise == []
    assert page.title() == "Two <models>"
    assert shown(page) == ["t1.dev", "t2.dev"]
    assert f"In run {before[:8]} alone: only-before.dev" in page.locator("main").inner_text()
    now = pipeline.table("deliberations").set_index("deliberation_id")["winner_score"]
    difference = float(page.locator("#t1\\.dev").get_attribute("data-difference") or "nan")
    assert difference == pytest.approx(scores["t1.dev"] - now["t1.dev"])  # scored again as it was scored then
    page.locator("#t1\\.dev > summary").click()
    text = page.locator("#t1\\.dev").text_content() or ""
    assert "A lease in Redis" in text
    assert "A lock in Redis" in text
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    # Not inner_text: of what is out of sight, and so not laid out, there is none.
    assert (page.locator("#t1\\.dev del").first.text_content() or "").strip() == "lease"
    context = browser.new_context(viewport={"width": 390, "height": 800}, bypass_csp=True)
    narrow = context.new_page()
    narrow.goto(page.url)
    narrow.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 390
    found = Axe().run(narrow)
    assert found.violations_count == 0, found.generate_report()
    context.close()


def test_what_cannot_be_compared_is_told(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.run(pipeline.put("t1"))
    other = pipeline.run(pipeline.put("t2")).run_id
    for against, told in (("nothing", "no deliberations of run nothing"), (str(tmp_path), "no deliberations in")):
        result = CliRunner().invoke(main, ["report", "--against", against, "--storage", str(pipeline.storage)])
        assert (result.exit_code, told in result.output) == (2, True), result.output
    first = pipeline.table("deliberations").set_index("deliberation_id")["run_id"]["t1.dev"]
    result = CliRunner().invoke(main, ["report", first, "--against", other, "--storage", str(pipeline.storage)])
    assert (result.exit_code, "have no deliberation in common" in result.output) == (2, True), result.output
