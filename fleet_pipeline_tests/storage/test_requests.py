"""What a deliberation costs on an object store, where requests come one after another and each has its price."""

import json
from collections import Counter
from pathlib import Path

import pytest

from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.storage.store import Store
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.counting import CountingFileSystem
from fleet_pipeline_tests.support.pipeline import Pipeline
from fleet_pipeline_tests.support.scripted import echo

pytestmark = pytest.mark.instance

MOST = 6  # requests besides writes
VERDICT = json.dumps({"reason": "r", "first_marks": [3], "second_marks": [3], "better": "equal"})


@pytest.fixture
def counted(pipeline: Pipeline) -> Pipeline:
    pipeline.storage = Path("nowhere")
    pipeline.store = Store("counted://fleet")
    pipeline.configure(storage="counted://fleet")
    yield pipeline
    CountingFileSystem.store.clear()


def requests_of_a_run(pipeline: Pipeline, keys: list[str]) -> list[Counter[str]]:
    """By deliberation, what a run asks of the storage."""
    CountingFileSystem.clear()
    assert pipeline.run(keys).success
    assert Counter(kind for kind, _ in CountingFileSystem.requests)["list"] <= 2  # answer logs, earlier attempts
    return [CountingFileSystem.kinds_of(key) for key in keys]


def test_a_deliberation_asks_for_its_task_and_twice_whether_there_is_a_transcript(counted: Pipeline) -> None:
    """It asked 17 times: for its transcript 8 times after it was written, for its task 7 times."""
    for kinds in requests_of_a_run(counted, counted.put("t1", "t2", "t3")):
        assert kinds == {"read": 3, "write": 5}
        assert kinds["read"] <= MOST


def test_one_that_was_done_before_is_read_once_to_be_scored_anew(counted: Pipeline) -> None:
    keys = counted.put("t1", "t2")
    counted.run(keys)
    for kinds in requests_of_a_run(counted, keys):
        assert kinds == {"read": 3, "write": 4}
    assert counted.starts == 1


def test_a_judge_and_a_report_cost_no_more_than_their_writes(counted: Pipeline) -> None:
    counted.configure(storage="counted://fleet", judge={"enabled": True}, reports={"at_least": 1})
    counted.answer = lambda prompt: said(VERDICT) if prompt.phase is Phase.JUDGE else echo(prompt)
    for kinds in requests_of_a_run(counted, counted.put("t1", "t2")):
        assert kinds["write"] == 6
        assert kinds["read"] <= MOST
    assert any(path.endswith(".html") for kind, path in CountingFileSystem.requests if kind == "write")


def test_a_driver_that_cannot_ask_for_the_end_of_a_file_is_asked_for_all_of_it(
    counted: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Azure's sends "bytes=-65536-33488895", which is no range."""
    read = CountingFileSystem.cat_file

    def no_suffix(self, path, start=None, end=None, **arguments):
        if start is not None and start < 0:
            raise ValueError("InvalidHeaderValue")
        return read(self, path, start, end, **arguments)

    monkeypatch.setattr(CountingFileSystem, "cat_file", no_suffix)
    keys = counted.put("t1")
    assert counted.run(keys).success
    assert counted.run(keys).success
    assert counted.starts == 1


def test_what_another_run_has_written_meanwhile_is_seen(counted: Pipeline) -> None:
    """An incomplete transcript never replaces a complete one from the same inputs, whoever wrote that."""
    keys = counted.put("t1")
    counted.run(keys)
    complete = counted.store.read("utterances/t1.dev.parquet")
    counted.store.delete("utterances/t1.dev.parquet")

    def meanwhile(prompt):
        counted.store.write("utterances/t1.dev.parquet", complete)
        return said("")

    counted.answer = meanwhile
    assert counted.run(keys).success
    assert counted.store.read("utterances/t1.dev.parquet") == complete
