"""Logs as JSON: one object a line, with the ids people search for, and no text of a model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

PROGRAM = """
import sys
from pathlib import Path
import dagster as dg
from fleet_pipeline.deliberation.exchange import AgentError, Completion
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.pipeline import Pipeline

with dg.instance_for_test() as instance:
    pipeline = Pipeline(instance, Path(sys.argv[1]))
    pipeline.configure(logs={"format": sys.argv[2]})
    cut = Completion(error=AgentError.CUT_OFF, error_message="cut off; raise max_tokens", text="SECRET TEXT")
    pipeline.answer = lambda prompt: cut if prompt.seat.index == 1 else said("SECRET TEXT of " + prompt.seat.label)
    pipeline.run(pipeline.put("t1"), run_config={"loggers": {"console": {"config": {"log_level": "INFO"}}}})
"""


def written(tmp_path: Path, form: str) -> str:
    program = [sys.executable, "-c", PROGRAM, str(tmp_path / form), form]
    return subprocess.run(program, capture_output=True, text=True, check=True).stderr


def test_every_line_of_a_run_is_an_object_with_its_ids_and_none_holds_a_text(tmp_path: Path) -> None:
    lines = [
        json.loads(line) for line in written(tmp_path, "json").splitlines() if "Warning" not in line and line[0] != " "
    ]
    run_ids = {line["run_id"] for line in lines if "run_id" in line}
    assert len(run_ids) == 1
    (ended,) = [line for line in lines if line.get("status") == "completed"]
    assert (ended["deliberation_id"], ended["level"]) == ("t1.dev", "INFO")
    failed = [line for line in lines if "error_type" in line]
    assert {(line["agent_id"], line["phase"], line["error_type"]) for line in failed} >= {
        ("agent-dev-002", "propose", "cut_off")
    }
    assert any(line.get("step_key") == "transcripts" for line in lines)
    assert "SECRET TEXT" not in json.dumps(lines)


def test_as_text_an_answer_that_does_not_count_is_told_in_words(tmp_path: Path) -> None:
    assert "t1.dev agent-dev-002 propose: cut_off: cut off; raise max_tokens" in written(tmp_path, "text")
