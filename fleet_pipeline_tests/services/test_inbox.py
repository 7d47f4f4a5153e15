"""Backlogs put into a folder become runs, without a broker."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fleet_pipeline.common.errors import StorageError
from fleet_pipeline.defs.sensors import inbox
from fleet_pipeline.ingest.options import RequestOptions
from fleet_pipeline.services import inbox as inbox_module
from fleet_pipeline.settings import Settings
from fleet_pipeline.storage.store import Store
from fleet_pipeline_tests.support.intakes import Intakes, line
from fleet_pipeline_tests.support.pipeline import Pipeline

pytestmark = [pytest.mark.instance, pytest.mark.broker]


class Folder(Intakes):
    """The inbox sensor and its folder."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline, "nats://127.0.0.1:1")
        self.folder: Path = pipeline.storage / "inbox"
        self.folder.mkdir(parents=True)

    def put(self, name: str, *lines: Any, age: float = 60.0) -> Path:
        file = self.folder / name
        file.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
        os.utime(file, (time.time() - age, time.time() - age))
        return file

    def look(self) -> Any:
        return self.tick(inbox)

    def names(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.folder / folder).glob("*"))


@pytest.fixture
def folder(pipeline: Pipeline) -> Folder:
    return Folder(pipeline)


def test_a_backlog_put_into_the_inbox_becomes_one_run(folder: Folder) -> None:
    folder.put("tonight.jsonl", line("t1"), line("t2", roles=["DEV", "QA"]))
    (request,) = (tick := folder.look()).run_requests
    assert folder.partitions == ["t1.dev", "t2.dev", "t2.qa"]
    assert folder.names("taken") == ["tonight.jsonl"]
    folder.launch(tick)
    assert set(folder.pipeline.table("deliberations")["status"]) == {"completed"}
    assert folder.look().skip_message == "nothing in the inbox"
    assert request.run_key.split("-")[1] == "inbox"


def test_lines_that_cannot_run_are_told_and_their_neighbours_run(folder: Folder) -> None:
    folder.put("a.jsonl", line("t1"), "no JSON", line("t2", rounds=99))
    folder.look()
    assert folder.partitions == ["t1.dev"]
    told = [json.loads(text) for text in (folder.folder / "refused/a.jsonl.jsonl").read_text().splitlines()]
    assert [(one["line"], one["field"]) for one in told] == [(2, "(whole line)"), (3, "rounds")]


def test_the_same_backlog_again_runs_nothing_and_other_content_is_refused(folder: Folder) -> None:
    folder.put("a.jsonl", line("t1"), line("t2"))
    folder.launch(folder.look())
    folder.put("b.jsonl", line("t1"), line("t2", "something else"))
    tick = folder.look()
    assert not tick.run_requests
    assert "2 tasks read, 1 refusals; see " in tick.skip_message
    assert "has been requested already" in (folder.folder / "refused/b.jsonl.jsonl").read_text()


def test_a_file_that_says_rerun_runs_again_each_time_it_is_put_there(folder: Folder) -> None:
    folder.put("a.jsonl", line("t1"))
    folder.launch(folder.look())
    for age in (50, 40):
        folder.put("a.rerun.jsonl", line("t1", "something else"), age=age)
        (_,) = (tick := folder.look()).run_requests
        folder.launch(tick)
    assert folder.task("t1.dev").description == "something else"


def test_files_that_still_grow_or_are_hidden_or_of_another_kind_are_let_be(folder: Folder) -> None:
    folder.put("growing.jsonl", line("t1"), age=0.0)
    folder.put(".hidden.jsonl", line("t2"))
    folder.put("notes.txt", "not a backlog")
    assert folder.look().skip_message == "nothing in the inbox"
    assert folder.partitions == []


def test_a_file_that_cannot_be_looked_at_does_not_hold_up_the_others(folder: Folder) -> None:
    (folder.folder / "a.jsonl").symlink_to("nowhere")
    folder.put("z.jsonl", line("t1"))
    assert len(folder.look().run_requests) == 1
    assert folder.names("taken") == ["z.jsonl"]


def test_a_file_that_fails_whatever_it_is_that_fails_is_set_aside_after_the_second_time(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It failed every tick, for ever, and nothing beside it was taken."""
    folder.put("a.jsonl", line("t1"))
    folder.put("z.jsonl", line("t2"))
    read = inbox_module.read_backlog

    def broken(location: str, *arguments: Any) -> Any:
        if location.endswith("a.jsonl"):
            raise TypeError("what nobody foresaw")
        return read(location, *arguments)

    monkeypatch.setattr(inbox_module, "read_backlog", broken)
    assert len(folder.look().run_requests) == 1
    assert (folder.names("taken"), folder.names("refused")) == (["z.jsonl"], [])
    folder.look()
    assert sorted(folder.names("refused")) == ["a.jsonl", "a.jsonl.jsonl"]
    (refusal,) = [json.loads(one) for one in (folder.folder / "refused/a.jsonl.jsonl").read_text().splitlines()]
    assert refusal["error"] == "it failed twice: TypeError: what nobody foresaw"
    assert list((folder.folder / "failed").iterdir()) == []


def test_a_row_that_cannot_be_stored_costs_itself_alone(folder: Folder) -> None:
    rows = [{"task_id": f"t{n}", "description": "d", "constraints": {"metadata": {"hash": n * b"x"}}} for n in (0, 1)]
    rows[0]["constraints"] = None
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, folder.folder / "a.parquet")
    os.utime(folder.folder / "a.parquet", (time.time() - 30, time.time() - 30))
    folder.launch(folder.look())
    assert folder.partitions == ["t0.dev"]
    assert "holds bytes" in (folder.folder / "refused/a.parquet.jsonl").read_text()


def test_a_file_that_grows_while_it_is_read_is_read_again(folder: Folder, monkeypatch) -> None:
    file = folder.put("a.jsonl", line("t1"))
    read = inbox_module.read_backlog

    def and_grow(*arguments: Any) -> Any:
        found = read(*arguments)
        with file.open("a") as more:
            more.write(json.dumps(line("t2")))
        os.utime(file, (time.time() - 30, time.time() - 30))
        return found

    with monkeypatch.context() as growing:
        growing.setattr(inbox_module, "read_backlog", and_grow)
        folder.launch(folder.look())
    assert folder.names("taken") == []
    folder.launch(folder.look())
    assert folder.partitions == ["t1.dev", "t2.dev"]
    assert folder.names("taken") == ["a.jsonl"]


def test_what_has_been_taken_is_run_while_the_inbox_cannot_be_read(folder: Folder, monkeypatch) -> None:
    folder.put("a.jsonl", line("t1"))
    folder.look()

    def away(*_: Any) -> None:
        raise StorageError("cannot list the inbox")

    monkeypatch.setattr("fleet_pipeline.defs.sensors.take_files", away)
    tick = folder.look()
    assert len(tick.run_requests) == 1
    folder.launch(tick)
    with pytest.raises(StorageError):
        folder.look()


def killed(*_: Any) -> None:
    raise SystemExit


def test_a_crash_before_the_file_is_moved_takes_nothing_twice(folder: Folder, monkeypatch) -> None:
    folder.put("a.rerun.jsonl", line("t1"), line("t2"))
    with monkeypatch.context() as crash:
        crash.setattr(Store, "move", killed)
        with pytest.raises(SystemExit):
            folder.look()
    (request,) = (tick := folder.look()).run_requests
    assert request.tags["dagster/asset_partition_range_end"] == "t2.dev"
    folder.launch(tick)
    assert not folder.look().run_requests


def test_a_file_that_is_no_backlog_at_all_is_told_and_put_away(folder: Folder) -> None:
    (folder.folder / "a.parquet").write_bytes(b"torn")
    os.utime(folder.folder / "a.parquet", (1_700_000_000, 1_700_000_000))
    folder.look()
    assert folder.names("taken") == ["a.parquet"]
    assert "not a Parquet file" in (folder.folder / "refused/a.parquet.jsonl").read_text()


def test_a_large_file_is_taken_in_runs_of_the_size_that_is_set_over_several_ticks(folder: Folder) -> None:
    folder.options = RequestOptions(most_per_run=3)
    folder.put("a.jsonl", *[line(f"t{n}") for n in range(8)])
    folder.timing(work_seconds=0.0)
    told = []
    while folder.names("taken") == []:
        tick = folder.look()
        assert len(tick.run_requests) == 1
        folder.launch(tick)
        told.append(len(folder.partitions))
    assert told == [3, 6, 8]


def test_the_inbox_may_be_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(requests={"inbox": "drop"})
    assert settings.requests.inbox_url(settings.storage) == str(tmp_path / "drop")
    assert Settings().requests.inbox_url("s3://bucket/fleet") == "s3://bucket/fleet/inbox"
    with pytest.raises(ValueError, match="holds credentials"):
        Settings(requests={"inbox": "s3://key:secret@bucket"})


def test_an_inbox_on_another_file_system_works(folder: Folder) -> None:
    folder.options = RequestOptions(inbox="memory://drop")
    store = Store("memory://drop")
    folder.timing(still_seconds=0.0)
    store.write("a.jsonl", json.dumps(line("t1")).encode())
    assert len(folder.look().run_requests) == 1
    assert store.read("taken/a.jsonl") is not None
    assert store.read("a.jsonl") is None
