"""Dagster's home is set up once, however many commands come upon a new folder together."""

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from fleet_pipeline.instance.home import instance_home, open_instance

pytestmark = pytest.mark.instance

OPEN = """
import sys
import fleet_pipeline.instance.home as home
print("ready", flush=True)
sys.stdin.readline()
with home.open_instance() as instance:
    print(instance.get_runs_count(), flush=True)
"""


def test_commands_that_set_up_a_new_home_at_the_same_time_all_find_it_whole(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for command in commands:
        assert command.stdout
        assert command.stdout.readline() == "ready\n"
    for command in commands:
        assert command.stdin
        command.stdin.write("go\n")
        command.stdin.flush()
    ends = [command.communicate() for command in commands]
    assert [(out, err[-2000:]) for out, err in ends] == [("0\n", "")] * len(commands)


def test_a_home_whose_lock_cannot_be_had_is_opened_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster's is read-only, and some file systems know no locks."""
    (tmp_path / ".lock").mkdir()  # nobody can open a folder for writing, root no more than others
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with open_instance() as instance:
        assert instance.get_runs_count() == 0


def test_a_home_of_a_person_s_own_gets_the_shipped_file_once_and_is_told(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    shipped = (resources.files("fleet_pipeline") / "dagster.yaml").read_text()
    assert instance_home() == tmp_path
    assert (tmp_path / "dagster.yaml").read_text() == shipped
    assert f"{tmp_path} had no dagster.yaml: it got the one of this package" in capsys.readouterr().err
    (tmp_path / "dagster.yaml").write_text("# mine\n")
    instance_home()
    assert (tmp_path / "dagster.yaml").read_text() == "# mine\n"
    assert capsys.readouterr().err == ""


def test_a_home_with_runs_and_no_file_stays_as_it_is(tmp_path: Path, monkeypatch, capsys) -> None:
    """Another event log would hide its runs."""
    (tmp_path / "history").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    instance_home()
    assert not (tmp_path / "dagster.yaml").exists()
    assert capsys.readouterr().err == ""
