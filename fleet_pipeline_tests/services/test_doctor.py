"""The doctor finds what is wrong, says what to mend, and changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fleet_pipeline.cli import main
from fleet_pipeline.services.doctor import import_remedy

pytestmark = [pytest.mark.instance, pytest.mark.broker]


@pytest.fixture
def examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)

    def run(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
        result = CliRunner().invoke(main, ["doctor", "--json", *arguments])
        return result.exit_code, {one["what"]: one for one in json.loads(result.stdout)}

    yield run
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def test_a_machine_that_is_well_is_told_so_and_nothing_is_left_behind(examined, tmp_path: Path, nats_url: str) -> None:
    code, found = examined("--model", "fleet-tiny", "--storage", str(tmp_path / "storage"), "--nats", nats_url)
    assert code == 0
    assert {what for what, one in found.items() if one["health"] != "ok"} <= {"GPU"}
    assert list(found) == ["Python", "vLLM", "GPU", "model", "storage", "Dagster", "NATS", "wire", "tools"]
    assert list((tmp_path / "storage").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "what", "said"),
    [
        (["--model", "no/such-model"], "model", "no copy here"),
        (["--model", "/no/such/folder"], "model", "is no folder"),
        (["--model", "."], "model", "has no config.json"),
        (["--storage", "/proc/nothing"], "storage", "cannot write"),
        (["--storage", "nope://x"], "storage", "nope"),
        (["--nats", "nats://127.0.0.1:9"], "NATS", "NATS at nats://127.0.0.1:9"),
    ],
)
def test_what_is_wrong_is_told_with_its_remedy_and_the_rest_is_looked_at(examined, arguments, what, said) -> None:
    code, found = examined(*arguments)
    assert code == 1
    assert found[what]["health"] == "fail"
    assert said in found[what]["said"]
    assert found[what]["remedy"]
    assert len(found) == 9


def test_the_models_that_are_loaded_last_are_looked_at_first(examined, monkeypatch) -> None:
    """Else a wrong name is found out when all deliberations have ended."""
    monkeypatch.setenv("FLEET_SCORING__REWARD", "/no/such/reward")
    monkeypatch.setenv("FLEET_JUDGE__MODEL", "fleet-tiny")
    _, found = examined("--model", "fleet-tiny")
    assert found["model"]["health"] == "fail"
    assert "/no/such/reward is no folder" in found["model"]["said"]
    assert found["model"]["remedy"] == "correct scoring.reward"
    monkeypatch.delenv("FLEET_SCORING__REWARD")
    monkeypatch.setenv("FLEET_JUDGE__ENABLED", "true")
    _, found = examined("--model", "fleet-tiny")
    assert found["model"]["said"].count("fleet-tiny: ") == 2


def test_an_endpoint_that_sends_keys_in_clear_to_another_machine_is_a_warning(examined, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio.example:9000")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:8080")
    _, found = examined("--model", "fleet-tiny")
    assert (found["wire"]["health"], "AWS_ENDPOINT_URL is http://minio.example:" in found["wire"]["said"]) == (
        "warn",
        True,
    )
    assert "HF_ENDPOINT" not in found["wire"]["said"]


def test_a_dagster_yaml_that_says_nothing_of_lost_runs_is_a_warning(examined, tmp_path: Path, monkeypatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    _, found = examined("--model", "fleet-tiny")
    assert found["Dagster"]["health"] == "warn"
    assert "run_monitoring, run_retries, concurrency.pools" in found["Dagster"]["said"]


def test_kernels_that_lack_a_library_are_told_by_the_package_that_has_it() -> None:
    """On a slim image vLLM imported, and failed as it started: 'object has no attribute init_cpu_memory_env'."""
    error = "libnuma.so.1: cannot open shared object file: No such file or directory"
    assert "apt-get install libnuma1" in import_remedy(error)
    assert import_remedy("No module named 'torch'") == "make setup, from nothing: rm -rf .venv"


def test_people_read_a_line_for_each_and_its_remedy_below(examined) -> None:
    result = CliRunner().invoke(main, ["doctor", "--model", "no/such-model"])
    assert result.exit_code == 1
    assert "fail model" in result.stdout
    assert "name one that is here (fleet models list)" in result.stdout
