"""What the documents show is run as it stands there."""

import json
import re
import threading
import tomllib
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pytest

from fleet_pipeline.deliberation.council import CouncilDefaults, seat_council
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.roles import load_roles
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.scoring.code_checks import blocks, parsers
from fleet_pipeline.scoring.code_checks.check import check_code
from fleet_pipeline.settings import Settings
from fleet_pipeline_tests.support.councils import OVERLONG, a_task, failing
from fleet_pipeline_tests.support.intakes import Intakes
from fleet_pipeline_tests.support.pipeline import Pipeline
from fleet_pipeline_tests.support.serving import serving

pytestmark = [pytest.mark.instance, pytest.mark.broker]

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def block(name: str, language: str, mark: str = "") -> str:
    """The first block of a language on a page, whose first line is the comment `mark` where one is given."""
    found = re.search(rf"```{language}\n{f'# {mark}' if mark else ''}(.*?)```", page(name), re.DOTALL)
    assert found is not None
    return found[1]


def defined(name: str, mark: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(block(name, "python", mark), names)
    return names


def test_the_examples_read_the_results_of_a_run_failed_seats_included(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = Pipeline(instance, tmp_path / ".fleet/storage")
    pipeline.answer = failing("B", Phase.PROPOSE, OVERLONG)
    pipeline.run(pipeline.put("t1", "t2", roles=["DEV", "QA"]))
    monkeypatch.chdir(tmp_path)
    exec(block("README.md", "python"), {})
    assert capsys.readouterr().out.count("\n") >= 3
    assert {row[0] for row in duckdb.sql(block("docs/reference.md", "sql")).fetchall()} == {"DEV", "QA"}


def test_the_client_example_submits_and_prints_the_result(intakes: Intakes, capsys: pytest.CaptureFixture[str]) -> None:
    intakes.timing(wait_seconds=5.0)
    example = block("docs/operations.md", "python", "client").replace("nats://127.0.0.1:4222", intakes.url)
    with serving(intakes.pipeline, intakes.url):
        other_service = threading.Thread(target=exec, args=(example, {}))
        other_service.start()
        intakes.launch(intakes.tick())
        other_service.join()
    assert "COMPLETED agent-dev-00" in capsys.readouterr().out


def test_the_example_of_scores_without_an_engine_runs() -> None:
    exec(block("docs/reference.md", "python"), {})


def test_the_example_task_is_valid() -> None:
    assert Task.model_validate(json.loads(block("README.md", "json"))).roles == ("DEV", "QA")


def test_the_example_settings_are_valid() -> None:
    Settings(**tomllib.loads(block("docs/reference.md", "toml")))


def test_a_role_is_added_as_the_recipe_says() -> None:
    roles = load_roles(block("docs/extending.md", "toml", "roles.toml"), "roles.toml")
    task = Task.model_validate({"task_id": "t", "description": "d", "roles": ["SECURITY"]}, context={"roles": roles})
    council = seat_council(task, roles["SECURITY"], CouncilDefaults(model="m"))
    named = [seat.perspective.name for seat in council.seats if seat.perspective]
    assert named == ["prevention", "detection", "prevention"]


def test_a_score_is_added_as_the_recipe_says() -> None:
    length_in_words = defined("docs/extending.md", "score")["length_in_words"]
    seats = pd.DataFrame({"deliberation_id": "t.dev", "agent_id": ["a", "b"], "text": ["one two three", None]})
    assert [(score.agent_id, score.metric, score.value) for score in length_in_words(seats)] == [("a", "length", 3.0)]


def test_a_code_check_is_added_as_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    ini_parses = defined("docs/extending.md", "check")["ini_parses"]
    monkeypatch.setitem(parsers.PARSERS, "ini", {"ini parses": ini_parses})
    monkeypatch.setitem(blocks._LANGUAGE, "ini", "ini")
    (good,) = [check for check in check_code("```ini\n[a]\nb = 1\n```") if check.check == "ini parses"]
    (bad,) = [check for check in check_code("```ini\n[a]\nb = 1\nb = 2\n```") if check.check == "ini parses"]
    assert good.passed
    assert [finding.line for finding in bad.findings] == [4]


def test_an_engine_is_added_as_the_recipe_says(pipeline: Pipeline) -> None:
    pipeline.source = defined("docs/extending.md", "engine")["UpperCaseProvider"]()
    pipeline.configure()
    assert pipeline.run(pipeline.put("t1")).success
    seats = pipeline.table("proposals")
    assert set(seats["engine"]) == {"synthetic: upper-case"}
    assert all(text == text.upper() for text in seats["text"])
    assert a_task().description.upper() not in set(seats["text"])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_of_a_page_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for place in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if "://" in place:
            continue
        file, _, anchor = place.partition("#")
        target = (path.parent / file) if file else path
        assert target.exists(), place
        if anchor:
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, place


def test_every_make_target_that_is_named_exists() -> None:
    named = {target for path in PAGES for target in re.findall(r"(?:`|\$ )make ([a-z0-9-]+)", path.read_text())}
    assert named >= {"demo", "ui", "setup", "test", "test-unit", "test-all", "help"}
    for target in named:
        assert f"\n{target}:" in page("Makefile")


def test_every_module_that_is_named_exists() -> None:
    """In `docs/architecture.md`, where the routes through the code stand."""
    text = page("docs/architecture.md")
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", text))
    assert len(named) > 20
    for module in named:
        assert (ROOT / "fleet_pipeline" / module).is_file() or (ROOT / module).is_file(), module
