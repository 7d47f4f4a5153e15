"""What the README shows is run as it stands there."""

from __future__ import annotations

import json
import re
import threading
import tomllib
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.settings import Settings
from fleet_pipeline_tests.support.councils import OVERLONG, failing
from fleet_pipeline_tests.support.intakes import Intakes
from fleet_pipeline_tests.support.pipeline import Pipeline
from fleet_pipeline_tests.support.serving import serving

pytestmark = [pytest.mark.instance, pytest.mark.broker]

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_examples_read_the_results_of_a_run_failed_seats_included(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = Pipeline(instance, tmp_path / ".fleet/storage")
    pipeline.answer = failing("B", Phase.PROPOSE, OVERLONG)
    pipeline.run(pipeline.put("t1", "t2", roles=["DEV", "QA"]))
    monkeypatch.chdir(tmp_path)
    exec(block("python"), {})
    assert capsys.readouterr().out.count("\n") >= 3
    assert {row[0] for row in duckdb.sql(block("sql")).fetchall()} == {"DEV", "QA"}


def test_the_client_example_submits_and_prints_the_result(
    intakes: Intakes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    intakes.timing(wait_seconds=5.0)
    (example,) = re.findall(r"```python\n# client\n(.*?)```", README, re.DOTALL)
    with serving(intakes.pipeline, intakes.url):
        other_service = threading.Thread(target=exec, args=(example.replace("nats://127.0.0.1:4222", intakes.url), {}))
        other_service.start()
        intakes.launch(intakes.tick())
        other_service.join()
    assert "COMPLETED agent-dev-00" in capsys.readouterr().out


def test_the_example_task_is_valid() -> None:
    assert Task.model_validate(json.loads(block("json"))).roles == ("DEV", "QA")


def test_the_example_settings_are_valid() -> None:
    Settings(**tomllib.loads(block("toml")))


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|\$ )make ([a-z]+)", README))
    assert named >= {"demo", "ui", "setup", "test", "help"}
    for target in named:
        assert f"\n{target}:" in makefile
