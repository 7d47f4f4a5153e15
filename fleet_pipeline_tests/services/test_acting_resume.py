"""A run of acting agents that is killed again and again: whole in the end, nothing left behind, no effect outside twice."""

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest

from fleet_pipeline_tests.support.tool_world import processes_in

pytestmark = pytest.mark.instance


@contextmanager
def a_counting_server() -> Iterator[tuple[int, Counter[str]]]:
    said: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said[self.rfile.read(int(self.headers["Content-Length"])).decode()] += 1
            time.sleep(0.05)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], said
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("deliberations", "agents", "kills"), [(2, 3, 6), pytest.param(10, 3, 20, marks=pytest.mark.slow)]
)
def test_a_run_that_is_killed_at_random_moments_is_whole_in_the_end_and_repeats_no_effect(
    tmp_path: Path, deliberations: int, agents: int, kills: int
) -> None:
    choose = random.Random(f"acting {deliberations}")
    with a_counting_server() as (port, posted):

        def start(number: int) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "fleet_pipeline_tests.support.acting_run", str(tmp_path), f"run{number}"]
            return subprocess.Popen([*command, str(deliberations), str(agents), str(port)], stderr=subprocess.PIPE)

        storage = tmp_path / "storage"
        for number in range(kills):
            killed = start(number)
            before = _logged(storage)
            while _logged(storage) == before and killed.poll() is None:  # it has come to work
                time.sleep(0.01)
            time.sleep(choose.uniform(0, 2.0))
            killed.kill()
            killed.communicate()
        last = start(kills)
        _, errors = last.communicate()
        assert last.returncode == 0, errors.decode()[-2_000:]
    everybody = {f"t{n}.dev/agent-dev-{seat + 1:03d}" for n in range(deliberations) for seat in range(agents)}
    assert all(count == 1 for count in posted.values()), posted  # no effect twice
    assert set(posted) <= everybody
    utterances = pd.read_parquet(storage / "utterances")
    assert set(utterances.text) == {f"I am {name}." for name in everybody}
    operations = pd.read_parquet(storage / "operations")
    cut = operations[operations.outcome == "unfinished"]
    assert set(cut.tool) <= {"http.post"}  # begun, and not done twice: told to its agent
    assert len(posted) + len(cut) >= len(everybody)
    artifacts = pd.read_parquet(storage / "artifacts")
    assert set(artifacts.tested) == {"verified"}
    assert all(sorted(files) == ["own.py", "test_own.py"] for files in artifacts.files_changed)
    assert list((tmp_path / "fleet/workspaces").iterdir()) == []
    assert list((tmp_path / "fleet/audit").glob("*.jsonl")) == []
    assert not processes_in(tmp_path / "fleet")
    calls = pd.read_parquet(storage / "tool_calls")
    assert (calls.outcome == "unfinished").sum() <= kills * 8
    assert operations.remade.max() > 0  # workspaces that were gone were made again


def _logged(storage: Path) -> int:
    return sum(path.stat().st_size for path in (storage / "answers").glob("*")) if (storage / "answers").exists() else 0
