"""`fleet models`, as it is typed."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fleet_pipeline.cli import main

pytestmark = pytest.mark.unit


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["models", *arguments], env=dict(os.environ))

    return run


def test_the_list_is_a_table_for_people_and_json_for_scripts(fleet, tmp_path: Path) -> None:
    (tmp_path / "models/mine").mkdir(parents=True)
    (tmp_path / "models/mine/config.json").write_text('{"max_position_embeddings": 4096}')
    shown = fleet("list", "models")
    assert shown.exit_code == 0, shown.output
    tiny = next(line for line in shown.output.splitlines() if line.startswith("fleet-tiny"))
    assert tiny.split() == ["fleet-tiny", "built-in", "12", "MB", "apache-2.0", "8,192", "yes", "-", "yes"]
    assert "smollm2-135m: not fetched (93 MB, apache-2.0): fleet models get smollm2-135m" in shown.output
    assert "models/mine: no weights; no chat template" in shown.output
    found = {model["name"]: model for model in json.loads(fleet("list", "models", "--json").output)}
    assert set(found) == {"fleet-tiny", "smollm2-135m", "models/mine"}
    assert found["models/mine"]["facts"]["context"] == 4096
    assert found["smollm2-135m"]["facts"] is None


def test_what_cannot_be_fetched_or_found_is_one_line_that_says_what_to_do(fleet) -> None:
    refused = fleet("get", "Qwen/Qwen3-8B")
    assert (refused.exit_code, refused.output.count("\n")) == (2, 1)
    assert "use one of smollm2-135m" in refused.output
    absent = fleet("list", "nowhere")
    assert (absent.exit_code, absent.output) == (2, "fleet: nowhere is no folder\n")
