"""`fleet eval` on real vLLM."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleet_pipeline.cli import main
from fleet_pipeline.evaluation.figures import Case

pytestmark = pytest.mark.engine


def test_the_command_holds_all_arms_on_real_vllm_and_goes_on_from_what_is_there(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    command = ["eval", "--model", "fleet-tiny", "--only", "slug", "--answers", "9", "--max-tokens", "48", "--json", "--verbose"]  # fmt: skip
    told = []
    for _ in range(2):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
        told.append(json.loads((tmp_path / ".fleet/eval/evaluation.json").read_text()))
    first, again = told
    assert first == again  # the second time the engine was not started
    assert set(first["arms"]) == {"one", "best", "council"}
    assert first["council_less"].keys() == {"one", "best"}
    cases = [Case(**one) for one in first["cases"]]
    assert [case.arm for case in cases] == ["one", "best", "council"]
    assert all(case.completion_tokens > 0 for case in cases)
    assert not any(case.solved for case in cases)  # fleet-tiny writes no Python
    assert list((tmp_path / ".fleet/eval/workspaces").iterdir()) == []
