"""`fleet run` and `fleet doctor` with a model on a server that wants a key."""

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from fleet_pipeline_tests.support.model_servers import ScriptedServer

pytestmark = pytest.mark.instance

FLEET = Path(sys.executable).with_name("fleet")
KEY = "sk-very-secret-4711"


def fleet(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_")}
    command = [str(FLEET), *arguments]
    return subprocess.run(
        command, cwd=folder, env=own | environment, capture_output=True, text=True, check=False, timeout=180
    )


def settings(folder: Path, url: str) -> None:
    (folder / "fleet.toml").write_text(
        f"""
        [engine]
        model = "council"
        [models.council]
        stands_for = "served"
        price = {{ prompt = 1, cached = 0.5, completion = 4 }}
        server = {{ urls = ["{url}"], api_key_env = "A_KEY" }}
        """
    )
    (folder / "b.jsonl").write_text('{"task_id": "t", "description": "Design a rate limiter"}\n')


def test_a_run_on_a_server_ends_like_any_other_and_its_key_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    with ScriptedServer(lambda body: ["Use ", "a ", "token ", "bucket."], key=KEY) as server:
        settings(tmp_path, server.url)
        run = fleet(tmp_path, "run", "b.jsonl", "--json", A_KEY=KEY)
        assert run.returncode == 0, run.stderr
        again = fleet(tmp_path, "run", "b.jsonl", "--verbose", A_KEY=KEY)
        doctor = fleet(tmp_path, "doctor", A_KEY=KEY)
        refused = fleet(tmp_path, "run", "b.jsonl", "--resume", "never", A_KEY="sk-wrong-0815")
    assert len(server.requests) == 9
    assert "all of them done before" in again.stdout
    rows = duckdb.sql(
        f"select distinct model, engine, not_checked from '{tmp_path}/.fleet/storage/utterances/*.parquet'"
    )
    assert rows.fetchall() == [("council", "openai", "length, control_tokens")]
    # 10 tokens of a prompt, 4 of them cached, and 4 generated.
    assert json.loads(run.stdout)["cost"] == pytest.approx(9 * (6 * 1 + 4 * 0.5 + 4 * 4) / 1e6)
    assert f"council at {server.url}; of prompts it cannot be checked: length, control_tokens" in doctor.stdout
    assert refused.returncode == 1
    assert "401" in refused.stderr
    assert "the key in A_KEY" in refused.stderr
    said = run.stdout + run.stderr + again.stdout + again.stderr + doctor.stdout + refused.stdout + refused.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    for secret in (KEY, "sk-wrong-0815"):
        assert secret not in said
        assert [path for path in files if secret.encode() in path.read_bytes()] == []


def test_a_server_that_is_named_on_the_command_line_needs_no_settings(tmp_path: Path) -> None:
    with ScriptedServer(lambda body: ["Use ", "a ", "queue."]) as server:
        (tmp_path / "b.jsonl").write_text('{"task_id": "t", "description": "Design a rate limiter", "rounds": 0}\n')
        run = fleet(tmp_path, "run", "b.jsonl", "--model", "served", "--server", server.url)
    assert run.returncode == 0, run.stderr
    assert "Use a queue." in fleet(tmp_path, "show", "t.dev").stdout
    assert len(server.requests) == 3


def test_a_server_that_does_not_answer_ends_the_run_with_its_url_and_the_reason(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"task_id": "t", "description": "d"}\n')
    run = fleet(tmp_path, "run", "b.jsonl", "--model", "served", "--server", "http://127.0.0.1:1/v1")
    assert run.returncode == 1
    assert "no server of model 'served' answers (http://127.0.0.1:1/v1: Cannot connect" in " ".join(run.stderr.split())
