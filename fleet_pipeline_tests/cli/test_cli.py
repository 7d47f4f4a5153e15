"""The command line as a person or a script runs it: in a process of its own, on real vLLM."""

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from fleet_pipeline.models.registry import FLEET_TINY
from fleet_pipeline_tests.support.deployment import instance_at
from fleet_pipeline_tests.support.processes import wait_until_gone

pytestmark = pytest.mark.engine

GOOD = {"task_id": "limiter", "description": "Implement a rate limiter", "roles": ["DEV", "QA"]}
BAD = {"task_id": "bad", "description": "x", "rounds": 99}


def fleet(
    folder: Path, *arguments: str, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from fleet_pipeline.cli import main; main()", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_")}
    return subprocess.run(
        program, cwd=folder, input=stdin, capture_output=True, text=True, env=kept | environment, timeout=240
    )


def write_backlog(folder: Path, *lines: dict | str) -> str:
    path = folder / "backlog.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One run on real vLLM: two good deliberations, a bad line, a broker of its own."""
    folder = tmp_path_factory.mktemp("cli")
    backlog = write_backlog(folder, GOOD, "{not json", BAD)
    return folder, fleet(folder, "run", backlog, "--model", FLEET_TINY, "--nats", "embedded", "--json")


def test_a_bad_line_among_good_ones_is_named_the_good_ones_run_and_the_exit_code_is_3(ran) -> None:
    folder, result = ran
    assert result.returncode == 3, result.stderr
    document = json.loads(result.stdout)
    assert [d["deliberation_id"] for d in document["deliberations"]] == ["limiter.dev", "limiter.qa"]
    for deliberation in document["deliberations"]:
        assert deliberation["status"] == "completed"
        assert deliberation["proposals"] == 3
        assert deliberation["winner_agent_id"].startswith("agent-")
        assert 0 <= deliberation["winner_score"] <= 1
    assert [(refusal["line"], refusal["field"]) for refusal in document["refused"]] == [
        (2, "(whole line)"),
        (3, "rounds"),
    ]
    assert document["storage"] == str(folder / ".fleet/storage")
    assert document["tokens"]["completion"] > 50
    assert 0 < document["tokens"]["cached"] < document["tokens"]["prompt"]
    assert document["tokens_per_second"] > 0


def test_the_run_is_recorded_in_the_instance_with_what_it_ran_with(ran) -> None:
    folder, result = ran
    with instance_at(folder / ".fleet/dagster") as instance:
        (run,) = instance.get_runs()
        assert run.run_id == json.loads(result.stdout)["run_id"]
        assert run.is_success
        ran_with = run.run_config["resources"]
        assert ran_with["engine"]["config"]["model"] == FLEET_TINY
        assert set(ran_with) == {"engine", "council", "weights", "scoring", "judge", "storage"}
        assert run.remote_job_origin.repository_origin.code_location_origin.location_name == "fleet_pipeline"


def test_results_are_parquet_from_real_vllm(ran) -> None:
    folder, _ = ran
    seats = pd.read_parquet(folder / ".fleet/storage/proposals")
    assert len(seats) == 6
    assert set(seats["engine"]) == {"vllm"}
    assert sorted(seats["rank"].groupby(seats["deliberation_id"]).min()) == [1, 1]


def test_the_councils_speak_about_their_task(ran) -> None:
    folder, _ = ran
    winners = pd.read_parquet(folder / ".fleet/storage/deliberations").set_index("deliberation_id")["winner_text"]
    for role, title in (("dev", "software developer"), ("qa", "quality engineer")):
        assert winners[f"limiter.{role}"].startswith(f"As a {title} I put")
        assert "1. Implement a rate limiter" in winners[f"limiter.{role}"]


def test_what_is_done_is_not_run_again_and_the_exit_code_is_0(ran) -> None:
    folder, first = ran
    again = fleet(folder, "run", "-", "--model", FLEET_TINY, stdin=json.dumps(GOOD))
    assert again.returncode == 0, again.stderr
    assert "the engine was not started" in again.stdout
    winners = [d["winner_agent_id"].rpartition("-")[2] for d in json.loads(first.stdout)["deliberations"]]
    rows = [line.split() for line in again.stdout.splitlines() if line.startswith("limiter.")]
    assert [row[2] for row in rows] == winners


def test_on_a_terminal_progress_and_result_are_shown_and_no_logs(ran) -> None:
    folder, _ = ran
    backlog = write_backlog(folder, GOOD)
    master, slave = pty.openpty()
    program = [
        sys.executable,
        "-c",
        "from fleet_pipeline.cli import main; main()",
        "run",
        backlog,
        "--model",
        FLEET_TINY,
    ]
    process = subprocess.Popen(program, cwd=folder, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while chunk := os.read(master, 65_536):
            shown += chunk
    os.close(master)
    assert process.wait() == 0
    assert b"the engine was not started" in shown
    assert b"2 of 2 done" in shown
    assert b"dagster" not in shown.replace(b".fleet/dagster", b"")


def test_show_prints_a_deliberation_for_people_and_as_json(ran) -> None:
    folder, _ = ran
    shown = fleet(folder, "show", "limiter.qa")
    assert shown.returncode == 0
    for text in (
        "limiter.qa",
        "Implement a rate limiter",
        "[winner] rank 1",
        "Opening proposals",
        "Round 1: critiques",
        "Round 1: revisions",
        "agent-qa-003",
        "prefix cache",
    ):
        assert text in shown.stdout
    document = json.loads(fleet(folder, "show", "limiter.qa", "--json").stdout)
    assert len(document["proposals"]) == 3
    assert len(document["utterances"]) >= 9


def test_show_of_an_unknown_deliberation_names_those_there_are(ran) -> None:
    folder, _ = ran
    result = fleet(folder, "show", "limiter.data")
    assert result.returncode == 2
    assert "there are limiter.dev, limiter.qa" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("content", "message"), [("", "no valid task"), ("{", "line 1"), (json.dumps(BAD), "rounds")])
def test_a_backlog_with_nothing_valid_is_exit_code_2_and_starts_nothing(tmp_path: Path, content, message) -> None:
    result = fleet(tmp_path, "run", write_backlog(tmp_path, content))
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / ".fleet").exists()


@pytest.mark.parametrize("chosen", [["--model", "/nowhere"], []])
def test_a_model_that_is_not_there_is_exit_code_1_with_the_remedy_and_no_substitute(tmp_path: Path, chosen) -> None:
    """Without a choice it is the default, which no hub can be asked for here."""
    result = fleet(tmp_path, "run", write_backlog(tmp_path, GOOD), *chosen)
    assert result.returncode == 1
    assert f"model '{chosen[-1] if chosen else 'Qwen/Qwen3-0.6B'}' cannot be loaded" in result.stderr
    assert "Name a model that is here" in result.stderr
    assert "--model fleet-tiny" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / ".fleet/storage/utterances").exists()


def test_a_broker_that_is_not_there_is_noticed_before_any_work(tmp_path: Path) -> None:
    result = fleet(tmp_path, "run", write_backlog(tmp_path, GOOD), "--nats", "nats://u:hunter2@127.0.0.1:1")
    assert result.returncode == 1
    assert "NATS at nats://127.0.0.1:1" in result.stderr
    assert "hunter2" not in result.stderr + result.stdout
    assert not (tmp_path / ".fleet/storage").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "gone.jsonl"],
        ["run", "b.jsonl", "--nats", "nonsense"],
        ["run", "b.jsonl", "--nats", "nats://h:99999"],
        ["nonsense"],
        ["run", "x", "--seed", "-1"],
    ],
)
def test_wrong_usage_is_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    result = fleet(tmp_path, *arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command", [[], ["run"], ["submit"], ["export"], ["prune"], ["status"], ["serve"], ["show"], ["config"]]
)
def test_help_shows_examples(tmp_path: Path, command: list[str]) -> None:
    result = fleet(tmp_path, *command, "--help")
    assert result.returncode == 0
    assert f"fleet {' '.join(command)}" in result.stdout.split("Usage:")[1].partition("\n")[2]


def test_secrets_of_the_broker_are_never_printed(tmp_path: Path) -> None:
    for arguments in (["config"], ["config", "--json"]):
        result = fleet(tmp_path, *arguments, FLEET_NATS__URL="nats://user:hunter2@host:4222")
        assert "nats://host:4222" in result.stdout
        assert "hunter2" not in result.stdout + result.stderr


def test_a_refusal_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    hostile = '{"task_id": "a", "description": "d", "\\u001b]0;pwn\\u0007": 1}'
    result = fleet(tmp_path, "run", write_backlog(tmp_path, hostile), "--strict")
    assert "\\x1b]0;pwn\\x07: no such field" in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize("home", ["relative", "/nowhere/at/all"])
def test_an_instance_folder_that_is_not_there_is_named(tmp_path: Path, home: str) -> None:
    result = fleet(tmp_path, "run", write_backlog(tmp_path, GOOD), DAGSTER_HOME=home)
    assert result.returncode == 2
    assert f"DAGSTER_HOME is {home}: it must be an absolute path" in result.stderr
    assert "Traceback" not in result.stderr


def test_config_prints_the_settings_in_force_with_their_origin(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text("[engine]\nmax_num_seqs = 7\n[council]\nseed = 3\n")
    result = fleet(tmp_path, "config", "--json", FLEET_COUNCIL__SEED="5")
    settings = json.loads(result.stdout)
    assert settings["engine.max_num_seqs"] == {"value": 7, "origin": "file fleet.toml"}
    assert settings["council.seed"] == {"value": 5, "origin": "environment"}
    assert settings["engine.model"] == {"value": "Qwen/Qwen3-0.6B", "origin": "default"}
    shown = fleet(tmp_path, "config", FLEET_COUNCIL__SEED="5").stdout.splitlines()
    assert [line.split()[0] for line in shown[1:3]] == ["engine.max_num_seqs", "council.seed"]  # before all defaults
    assert "environment" in shown[2]


def test_export_puts_a_table_into_one_file_and_names_what_it_cannot_read(ran) -> None:
    folder, _ = ran
    whole = fleet(folder, "export", "--table", "proposals", "--out", "all.csv")
    assert (whole.returncode, len(pd.read_csv(folder / "all.csv"))) == (0, 6), whole.stderr
    lines = fleet(folder, "export", "limiter.qa", "--format", "jsonl", "--out", "-").stdout.splitlines()
    assert [json.loads(line)["deliberation_id"] for line in lines] == ["limiter.qa"]
    assert fleet(folder, "export", "nobody.dev", "--out", "x.csv").returncode == 2
    unwritable = fleet(folder, "export", "--out", "/no/such/folder/x.csv")
    assert (unwritable.returncode, "/no/such/folder/x.csv" in unwritable.stderr) == (1, True)
    assert "Traceback" not in unwritable.stderr


def test_prune_shows_what_is_old_and_removes_it_only_when_told_to(ran, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(ran[0], folder)
    unsaid = fleet(folder, "prune")
    assert (unsaid.returncode, "retention.max_age_days" in unsaid.stderr) == (2, True)
    shown = fleet(folder, "prune", "--keep", "1")
    assert "limiter.dev" in shown.stdout
    assert "would be removed: 1 deliberations" in shown.stdout
    assert len(list((folder / ".fleet/storage/deliberations").iterdir())) == 2
    document = json.loads(fleet(folder, "prune", "--keep", "1", "--apply", "--json").stdout)
    assert (document["removed"], list(document["deliberations"])) == (True, ["limiter.dev"])
    assert [path.name for path in (folder / ".fleet/storage/deliberations").iterdir()] == ["limiter.qa.parquet"]
    assert fleet(folder, "prune", "--older-than", "soon").returncode == 2


def test_a_run_that_is_told_to_end_does_so_keeps_what_finished_and_can_go_on(tmp_path: Path, random_model: str) -> None:
    """SIGTERM, as an evicted pod gets it, while real vLLM generates in a process of its own."""
    tasks = [{"task_id": f"t{n}", "description": "Design a rate limiter", "rounds": 2} for n in range(150)]
    backlog = write_backlog(tmp_path, *tasks)
    program = [sys.executable, "-c", "from fleet_pipeline.cli import main; main()", "run", backlog]
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    process = subprocess.Popen(
        [*program, "--model", random_model], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while not list(tmp_path.glob(".fleet/storage/utterances/*.parquet")):
        assert process.poll() is None
        time.sleep(0.1)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(family) > 1
    process.terminate()
    assert process.wait() == 130
    wait_until_gone(family[1:])
    said = process.stderr.read()
    assert "it was interrupted" in said
    assert "the same command with the same input goes on from there" in said
    kept = pd.read_parquet(tmp_path / ".fleet/storage/utterances")["deliberation_id"].nunique()
    assert 0 < kept < 150
    counts = json.loads(fleet(tmp_path, "status", "--json").stdout)
    assert "IN_PROGRESS" not in json.dumps(counts)


def test_a_reader_who_has_had_enough_hears_no_complaint(tmp_path: Path) -> None:
    backlog = write_backlog(tmp_path, *[json.dumps({"task_id": f"t{n}", "description": "d"}) for n in range(5_000)])
    command = f"{Path(sys.executable).with_name('fleet')} submit {backlog} | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout == "t0.dev\n"
    assert result.stderr == ""


def test_commands_are_completed_by_the_shell(tmp_path: Path) -> None:
    fleet = Path(sys.executable).with_name("fleet")
    asked = os.environ | {"_FLEET_COMPLETE": "bash_complete", "COMP_WORDS": "fleet re", "COMP_CWORD": "1"}
    done = subprocess.run([fleet], env=asked, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["plain,report"]
