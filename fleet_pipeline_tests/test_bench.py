"""`make bench` at tiny sizes: that it measures, and says so in both forms. What it measures is not looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fleet_pipeline_tests.benchmarks.figures import Line

pytestmark = pytest.mark.engine


def bench(out: Path, *names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fleet_pipeline_tests.benchmarks", "--size", "tiny", "--out", str(out)]
    return subprocess.run(
        [*command, *(word for name in names for word in ("--only", name))], capture_output=True, text=True
    )


@pytest.mark.slow
def test_every_figure_is_in_the_table_and_in_the_json(tmp_path: Path) -> None:
    names = ["engine", "overhead", "event_log", "scoring", "commands"]  # the others start the same engine again
    done = bench(tmp_path / "bench", *names)
    assert done.returncode == 0, done.stderr
    table, found = (tmp_path / "bench.md").read_text(), json.loads((tmp_path / "bench.json").read_text())
    assert [name for name in names if name in found] == names
    lines = [Line.read(line) for name in names for line in found[name]["lines"]]
    assert len(lines) > 25
    for line in lines:
        assert line.markdown() in table
        assert 0 < line.figure.low <= line.figure.middle <= line.figure.high


def test_a_benchmark_that_fails_is_named_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sklearn.py").write_text("raise ImportError('broken here')\n")  # what scores are made with
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = bench(tmp_path / "bench", "scoring", "event_log")
    assert done.returncode == 1
    assert "failed: scoring" in done.stderr
    assert "broken here" in done.stderr
    assert "event_log" in (tmp_path / "bench.md").read_text()
