"""Storage that is full, refuses, or does not answer, at any of a run's writes and reads."""

import errno
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fleet_pipeline.defs.resources import StorageResource
from fleet_pipeline.deliberation.council import Deliberation
from fleet_pipeline.deliberation.transcript import Transcript
from fleet_pipeline.services import keeping
from fleet_pipeline.storage.store import Retries, Store
from fleet_pipeline_tests.support.faulty import FaultyFileSystem, none
from fleet_pipeline_tests.support.killed_runs import answers_known
from fleet_pipeline_tests.support.pipeline import Pipeline, why_broken

pytestmark = pytest.mark.instance

URL = "faulty://fleet"


class QuickStorage(StorageResource):
    """Waits as often as in production, and not as long."""

    def retries(self) -> Retries:
        return Retries(first_pause_seconds=0.001, longest_pause_seconds=0.01)


@pytest.fixture
def faulty(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """A pipeline whose storage fails as `FaultyFileSystem.trouble` says."""
    monkeypatch.setattr(FaultyFileSystem, "store", {})
    pipeline.store = Store(URL)
    pipeline.overrides["storage"] = QuickStorage(url=URL)
    pipeline.configure(storage=URL)
    yield pipeline
    FaultyFileSystem.trouble = staticmethod(none)


def fails(error: OSError, operation: str, of: str, calls: Callable[[int], bool]) -> None:
    """Raise `error` at those calls of an operation on a folder that `calls` says, counted from 1."""
    count = 0

    def trouble(what: str, path: str) -> None:
        nonlocal count
        if what == operation and f"/{of}/" in path:
            count += 1
            if calls(count):
                raise error

    FaultyFileSystem.trouble = staticmethod(trouble)


AWAY = OSError(errno.EIO, "503 slow down")
FULL = OSError(errno.ENOSPC, "No space left on device")
REFUSED = PermissionError(errno.EACCES, "Access Denied")
WRITTEN = ("utterances", "proposals", "scores", "deliberations", "outbox")


def assert_next_run_completes(faulty: Pipeline, keys: list[str]) -> None:
    """With the trouble gone, a run makes what is missing and nothing else."""
    FaultyFileSystem.trouble = staticmethod(none)
    known = answers_known(faulty, keys)
    faulty.asked = []
    assert faulty.run(keys).success
    assert len(faulty.asked) == len(keys) * 9 - known
    assert completed(faulty, keys)


def completed(pipeline: Pipeline, keys: list[str]) -> bool:
    found = {key: pipeline.store.read(f"deliberations/{key}.parquet") for key in keys}
    return all(found.values()) and pipeline.partitions("deliberations") == (set(keys), set())


@pytest.mark.parametrize("table", WRITTEN)
def test_storage_that_does_not_answer_for_a_moment_costs_nothing_that_was_finished(
    faulty: Pipeline, table: str
) -> None:
    keys = faulty.put("a", "b", "c", "d", "e", "f")
    fails(AWAY, "write", table, lambda n: n in (3, 5))
    assert faulty.run(keys).success
    assert completed(faulty, keys)
    assert len(faulty.asked) == 6 * 9
    assert faulty.starts == 1


@pytest.mark.parametrize("table", ["tasks", "utterances", "proposals"])
def test_reads_that_fail_for_a_moment_are_tried_again_and_never_taken_for_missing(faulty: Pipeline, table: str) -> None:
    keys = faulty.put("a", "b", "c")
    faulty.run(keys)
    faulty.asked = []
    fails(AWAY, "read", table, lambda n: n in (2, 9))
    assert faulty.run(keys).success
    assert faulty.asked == []


@pytest.mark.parametrize(
    ("table", "error"), [*((table, FULL) for table in WRITTEN), ("utterances", REFUSED)], ids=[*WRITTEN, "read-only"]
)
def test_a_full_or_read_only_store_breaks_the_run_at_once_with_its_reason_and_the_next_goes_on(
    faulty: Pipeline, table: str, error: OSError
) -> None:
    keys = faulty.put("a", "b", "c", "d", "e", "f")
    fails(error, "write", table, lambda n: n >= 4)
    broken = faulty.run(keys)
    assert not broken.success
    reason = why_broken(broken)
    assert reason is not None
    assert f"cannot write faulty:///fleet/{table}/" in reason
    assert error.strerror in reason
    assert_next_run_completes(faulty, keys)


def test_storage_that_stays_away_ends_the_run_after_a_bounded_number_of_tries(faulty: Pipeline) -> None:
    keys, tries = faulty.put("a"), []
    fails(AWAY, "write", "utterances", lambda n: tries.append(n) is None)
    result = faulty.run(keys)
    assert len(tries) == Retries().tries
    assert len(faulty.asked) == 9
    assert "503 slow down" in (why_broken(result) or "")


@pytest.mark.parametrize("seed", range(4))
def test_with_the_disk_full_at_a_random_write_nothing_is_torn_and_the_next_run_completes(
    faulty: Pipeline, seed: int
) -> None:
    keys = faulty.put(*[f"t{n}" for n in range(8)])
    at, count = random.Random(seed).randrange(1, 48), 0

    def trouble(what: str, path: str) -> None:
        nonlocal count
        count += what == "write"
        if what == "write" and count >= at:
            raise FULL

    FaultyFileSystem.trouble = staticmethod(trouble)
    assert not faulty.run(keys).success
    assert_next_run_completes(faulty, keys)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_disk_that_is_really_full_tears_nothing_and_what_fits_is_kept(pipeline: Pipeline, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "fleet", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        pipeline.store = Store(str(disk))
        pipeline.configure(storage=str(disk))
        keys = pipeline.put(*[f"t{n:02d}" for n in range(30)])
        broken = pipeline.run(keys)
        assert "No space left on device" in (why_broken(broken) or "")
        files = list((disk / "utterances").glob("*.parquet"))
        assert 0 < len(files) < 30
        assert pd.read_parquet(disk / "utterances")["deliberation_id"].nunique() == len(files)
        assert not list(disk.rglob(".writing-*"))
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        known, pipeline.asked = answers_known(pipeline, keys), []
        assert pipeline.run(keys).success
        assert len(pipeline.asked) == 30 * 9 - known
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_deliberation_that_no_table_can_hold_fails_alone_with_the_reason(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One argument of blanks could not be masked, and ended the run of all."""
    write = keeping.write_transcript

    def refuses(store: Store, deliberation: Deliberation, transcript: Transcript, *more: Any) -> bool:
        if deliberation.id == "t1.dev" and transcript.utterances:
            raise IndexError("list index out of range")
        return write(store, deliberation, transcript, *more)

    keys = pipeline.put("t0", "t1", "t2")
    with monkeypatch.context() as broken:
        broken.setattr(keeping, "write_transcript", refuses)
        pipeline.run(keys)
    assert pipeline.partitions("deliberations") == ({"t0.dev", "t2.dev"}, {"t1.dev"})
    reasons = pipeline.table("deliberations").set_index("deliberation_id")["error_message"]
    assert reasons["t1.dev"] == "it cannot be stored: IndexError('list index out of range')"
    assert pipeline.run(keys).success
    assert completed(pipeline, keys)
