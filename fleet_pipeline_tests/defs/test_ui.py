"""The Dagster UI as a person uses it: a real browser, webserver and daemon, and real vLLM behind them.

With SCREENSHOTS set to a folder, the pictures of the README and of docs/ui.md are taken on the way.
"""

import io
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from rich.console import Console
from rich.text import Text

from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.models.registry import FLEET_TINY
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import TaskStore
from fleet_pipeline_tests.support.councils import a_task
from fleet_pipeline_tests.support.deployment import ROOT, Deployment, deployed, eventually

PATIENCE_MS = 60_000
SCREENSHOTS = os.environ.get("SCREENSHOTS")
MARK = "window.defaced = true"
HOSTILE = f"<img src=x onerror='{MARK}'> ![x](http://127.0.0.1:9/pixel.png) **Plan** the move of the billing data."
TYPED_IN = """
ops:
  ask_for_task:
    config:
      task_id: catalogue-caches
      description: Design how the product catalogue's caches are invalidated when prices change.
      roles: [ARCHITECT]
      requirements: [Prices are never older than five seconds]
      rubric: [Cost of the caches, Behaviour when a node is lost]
"""

pytestmark = [pytest.mark.daemon, pytest.mark.browser]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    settings = {
        "FLEET_ENGINE__MODEL": FLEET_TINY,
        "FLEET_ENGINE__MAX_MODEL_LEN": "4096",
        "FLEET_BULK__BACKLOG": str(ROOT / "examples/backlog.jsonl"),
        "FLEET_BULK__CRON": "0 0 29 2 *",  # not while this runs
    }
    with deployed(tmp_path_factory.mktemp("ui"), module="fleet_pipeline.definitions", **settings) as found:
        yield found


@pytest.fixture
def page(browser: Browser, deployment: Deployment) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.asked_for = []  # type: ignore[attr-defined]
    page.on("request", lambda request: page.asked_for.append(request.url))
    yield page
    context.close()


def goto(page: Page, deployment: Deployment, place: str) -> None:
    page.goto(deployment.url.removesuffix("/graphql") + place)


def look(page: Page, name: str, height: int | None = None) -> None:
    if SCREENSHOTS:
        page.wait_for_timeout(1_000)
        size = page.viewport_size or {"width": 0, "height": 0}
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"]}
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png", clip=clip)  # type: ignore[arg-type]


@contextmanager
def opened(page: Page, row: Locator) -> Iterator[Locator]:
    """Where the Markdown of an entry is: a short one stands in its row, a long one opens with a click."""
    expect(row.first).to_be_visible()
    if row.get_by_text("[Show Markdown]").count() == 0:
        yield row
        return
    row.get_by_text("[Show Markdown]").click()
    yield page.locator("body")
    page.get_by_role("button", name="Close").click()


def type_in(page: Page, config: str, *, complete: bool = False) -> None:
    """Into the launchpad's editor, which is no input field. `complete`: what is there could be launched as it is."""
    page.wait_for_selector(".CodeMirror")
    launch = expect(page.get_by_role("button", name="Launch Run"))
    launch.to_be_enabled() if complete else launch.to_be_disabled()
    page.evaluate("text => document.querySelector('.CodeMirror').CodeMirror.setValue(text)", config)


def test_a_task_typed_into_the_launchpad_is_deliberated_and_everything_about_it_is_on_its_page(
    deployment: Deployment, page: Page
) -> None:
    goto(page, deployment, f"/locations/{deployment.location}/jobs/ask/playground")
    expect(page.get_by_text('Missing required config entry "description"')).to_be_visible()
    type_in(page, TYPED_IN)
    expect(page.get_by_role("button", name="Launch Run")).to_be_enabled()
    look(page, "ui-launchpad")
    page.get_by_role("button", name="Launch Run").click()
    eventually(lambda: "catalogue-caches.architect" in deployment.partitions()["materialized"], "the deliberation")

    goto(page, deployment, "/assets/deliberations?view=partitions&partition=catalogue-caches.architect")
    winner = page.get_by_role("row").filter(has_text="winner's proposal")
    table = page.get_by_role("row").filter(has_text="perspective").filter(has_text="novelty")
    for agent in ("agent-architect-001", "agent-architect-002", "agent-architect-003"):
        expect(table.first).to_contain_text(agent)
    for name in ("requirements", "rubric", "why it ", "seats"):
        expect(page.get_by_role("row").filter(has_text=name).first).to_be_visible()
    look(page, "ui-partition")

    with opened(page, winner) as shown:
        expect(shown.get_by_text("As a software architect I put").first).to_be_visible()
    with opened(page, page.get_by_role("row").filter(has_text="what revision changed")) as shown:
        expect(shown.locator("del, strong").first).to_be_visible()
        look(page, "ui-revision")

    page.get_by_role("row").filter(has_text="picture").get_by_text("[Show Markdown]").click()
    image = page.locator("img[alt*='similarity']")
    expect(image).to_be_visible()
    assert image.evaluate("one => one.naturalWidth") > 500
    look(page, "ui-picture")
    page.get_by_role("button", name="Close").click()

    page.get_by_role("row").filter(has_text="everything said").get_by_text("[Show Markdown]").click()
    expect(page.get_by_role("heading", name="Opening proposal")).to_have_count(3)
    expect(page.get_by_role("heading", name="Critique in round 1")).to_have_count(3)
    look(page, "ui-discussion")


def test_the_failed_ones_are_run_again_with_one_dialog_and_hostile_text_stands_on_the_page_as_text(
    deployment: Deployment, page: Page
) -> None:
    store = Store(str(deployment.storage))
    (key,) = TaskStore(store, BUILT_IN_ROLES).put(
        a_task("too-short", description=HOSTILE, constraints={"timeout_seconds": 0.001})
    )
    deployment.instance.add_dynamic_partitions("deliberations", [key])
    deployment.launch(key, max_retries="0")
    eventually(lambda: key in deployment.partitions()["failed"], "the deadline")
    before = deployment.partitions()["materialized"]
    TaskStore(store, BUILT_IN_ROLES).put(a_task("too-short", description=HOSTILE))

    goto(page, deployment, f"/locations/{deployment.location}/jobs/deliberate")
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_role("button", name="Failed and missing").click()
    expect(page.get_by_role("button", name="Launch 1 run")).to_be_enabled()
    look(page, "ui-failed-and-missing")
    page.get_by_role("button", name="Launch 1 run").click()
    eventually(lambda: key in deployment.partitions()["materialized"], "the failed one to be run again")
    assert deployment.partitions()["materialized"] == before | {key}

    goto(page, deployment, f"/assets/deliberations?view=partitions&partition={key}")
    task = page.get_by_role("row").filter(has_text="onerror").first
    expect(task).to_contain_text("![x](http://127.0.0.1:9/pixel.png) **Plan**")
    page.get_by_role("row").filter(has_text="everything said").get_by_text("[Show Markdown]").click()
    expect(page.get_by_role("heading", name="Opening proposal").first).to_be_visible()
    assert page.evaluate("window.defaced") is None
    assert not [url for url in page.asked_for if "pixel.png" in url]


def test_from_the_page_of_a_run_three_clicks_lead_from_a_failure_to_a_remedy_that_works(
    deployment: Deployment, page: Page
) -> None:
    store = Store(str(deployment.storage))
    (key,) = TaskStore(store, BUILT_IN_ROLES).put(a_task("hurried", constraints={"timeout_seconds": 0.001}))
    deployment.instance.add_dynamic_partitions("deliberations", [key])
    run_id = deployment.launch(key, max_retries="0")
    eventually(lambda: key in deployment.partitions()["failed"], "the deadline")

    goto(page, deployment, f"/assets/transcripts?view=partitions&partition={key}")
    expect(page.get_by_text("Failed (1)")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="what to do").first).to_contain_text("ask again with more time")
    look(page, "ui-failed", height=640)
    goto(page, deployment, "/assets/proposals?view=checks&checkDetail=completed")
    expect(page.get_by_text("hurried.dev").first).to_be_visible()
    look(page, "ui-checks")

    goto(page, deployment, f"/runs/{run_id}")
    expect(page.get_by_text("unfinished after the deliberation's 0.001 s").first).to_be_visible()
    page.get_by_role("link", name="ask_again").first.click()
    page.get_by_role("tab", name="Launchpad").click()
    type_in(page, "ops:\n  ask_for_undone:\n    config:\n      timeout_seconds: 600\n", complete=True)
    expect(page.get_by_role("button", name="Launch Run")).to_be_enabled()
    look(page, "ui-again")
    page.get_by_role("button", name="Launch Run").click()
    eventually(lambda: key in deployment.partitions()["materialized"], "the one that failed to be run again")


def test_the_report_and_the_terminal_tell_of_the_same_deliberation(
    deployment: Deployment, browser: Browser, tmp_path: Path
) -> None:
    key, storage = "catalogue-caches.architect", str(deployment.storage)
    report = tmp_path / "report.html"
    title = "The night's backlog"
    in_terminal(f"report --since 12h --title {shlex.quote(title)} --out {report} --storage {storage}")
    told = in_terminal(f"show {key} --storage {storage}")
    winner = re.search(r"agent-architect-00\d", told)
    assert winner
    for name, width, scheme in (("report", 1440, "light"), ("report-phone", 390, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(report.as_uri())
        expect(page.get_by_role("heading", name=title)).to_be_visible()
        look(page, name)
        page.goto(f"{report.as_uri()}#{key}")
        expect(page.locator("[id='catalogue-caches.architect'] .won h3")).to_contain_text(winner.group())
        look(page, f"{name}-open")
        context.close()
    context = browser.new_context(viewport={"width": 810, "height": 900})
    page = context.new_page()
    page.set_content(as_html(told))
    expect(page.get_by_text("3 of 3 agents answered").first).to_be_visible()
    look(page, "terminal")
    context.close()


def in_terminal(command: str) -> str:
    """What `fleet` writes to a terminal of 80 columns, with its colours."""
    terminal, end_of_fleet = pty.openpty()
    surroundings = os.environ | {"COLUMNS": "80", "TERM": "xterm-256color", "PAGER": "cat"}
    program = str(Path(sys.executable).with_name("fleet"))
    process = subprocess.Popen(
        [program, *shlex.split(command)], stdout=end_of_fleet, stderr=end_of_fleet, env=surroundings
    )
    os.close(end_of_fleet)
    said = b""
    with suppress(OSError):  # a terminal that nobody writes to any more cannot be read
        while data := os.read(terminal, 65_536):
            said += data
    os.close(terminal)
    assert process.wait() == 0, said
    return said.decode().replace("\r\n", "\n")


def as_html(said: str) -> str:
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(Text.from_ansi(said))
    return console.export_html(inline_styles=True)


def test_a_schedule_is_tried_out_and_switched_off_and_on_again(deployment: Deployment, page: Page) -> None:
    def on() -> bool:
        schedules = deployment.ask(
            "query($selector: RepositorySelector!) { schedulesOrError(repositorySelector: $selector) {"
            " ... on Schedules { results { name scheduleState { status } } } } }",
            selector={"repositoryName": "__repository__", "repositoryLocationName": deployment.location},
        )["schedulesOrError"]["results"]
        return {one["name"]: one["scheduleState"]["status"] for one in schedules}["bulk"] == "RUNNING"

    goto(page, deployment, "/automation")
    expect(page.get_by_text("At 03:30 AM UTC, only on Sunday")).to_be_visible()
    look(page, "ui-automation")
    goto(page, deployment, f"/locations/{deployment.location}/schedules/bulk")
    page.get_by_role("button", name="Preview tick result").click()
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("Requested runs (1)")).to_be_visible()
    assert not list((deployment.storage / "inbox").glob("*.jsonl"))  # it was only looked at
    look(page, "ui-schedule")
    page.get_by_role("button", name="Close").first.click()
    switch = page.locator("input[type=checkbox]")
    assert on()
    switch.evaluate("one => one.click()")
    eventually(lambda: not on(), "the schedule to be off")
    # The page learns it later than the instance. A click before that is lost: the switch is disabled meanwhile.
    expect(switch).not_to_be_checked()
    expect(switch).to_be_enabled()
    switch.evaluate("one => one.click()")
    eventually(on, "the schedule to be on")
