"""The examples do what they say, on results as the pipeline writes them."""

import subprocess
import sys
from pathlib import Path

import pytest

from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.pipeline import Pipeline

pytestmark = pytest.mark.instance

ROOT = Path(__file__).parents[1]


def test_the_analysis_answers_its_five_questions(pipeline: Pipeline) -> None:
    answers = {
        "A": "Count requests by tenant in Redis.",
        "B": "An nginx zone drops what is too much.",
        "C": "It depends.",
    }
    pipeline.answer = lambda prompt: said(answers[prompt.seat.label], prompt_tokens=100, cached_tokens=60)
    requirements = {"requirements": ["Count requests by tenant", "Explain the quarterly budget"]}
    pipeline.run(pipeline.put("t1", "t2", roles=["DEV", "QA"], constraints=requirements))
    program = [sys.executable, ROOT / "examples/analysis.py", pipeline.storage]
    shown = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert shown.count("?") == 5
    assert "DEV completed              2" in shown
    assert "Explain the quarterly budget" in shown
    assert "0.6" in shown.split("prefix cache")[1]


def test_the_example_backlogs_hold_no_line_that_is_refused() -> None:
    from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
    from fleet_pipeline.ingest.backlog import read_backlogs

    found = read_backlogs(str(ROOT / "examples"), BUILT_IN_ROLES)
    assert len(found) == 2
    refused = [refusal for backlog in found.values() for refusal in backlog.refused if refusal.field != "task_id"]
    assert refused == []


def test_the_example_of_models_by_role_is_valid_and_names_every_role(monkeypatch: pytest.MonkeyPatch) -> None:
    from fleet_pipeline.deliberation.council import CouncilDefaults, seat_council
    from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
    from fleet_pipeline.ingest.roles import read_roles
    from fleet_pipeline.settings import load_settings
    from fleet_pipeline_tests.support.councils import a_task

    monkeypatch.setenv("FLEET_CONFIG_FILE", str(ROOT / "examples/models.toml"))
    models = load_settings().models
    roles = read_roles(str(ROOT / "examples/roles-by-model.toml"))
    assert roles.keys() == BUILT_IN_ROLES.keys()
    for name, role in roles.items():
        assert set(seat_council(a_task(roles=[name]), role, CouncilDefaults(model="none")).models) <= models.keys()
        assert role.perspectives == BUILT_IN_ROLES[name].perspectives
