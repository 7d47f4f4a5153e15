"""The answer log: what is handed to it is there, whatever is torn or refused, and goes when nothing needs it."""

import logging
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from fleet_pipeline.deliberation.exchange import AgentError, Completion, Message, Request
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.storage.answer_log import AnswerLog, LoggedAnswer, earlier_logs, prompt_sha256, remove_log
from fleet_pipeline.storage.store import Store

pytestmark = pytest.mark.unit


def an_answer(number: int = 1, key: str = "t1.dev", **completion) -> LoggedAnswer:
    said = {"text": f"answer {number}", "finish_reason": "stop", "completion_tokens": number} | completion
    return LoggedAnswer(
        key, "f00d", f"{key} agent-dev-001 propose 0 agent-dev-001 {number}", "5ha", 7, Completion(**said)
    )


def written(store: Store, run_id: str, *answers: LoggedAnswer) -> AnswerLog:
    log = AnswerLog(store, run_id)
    for answer in answers:
        log.append(answer)
    log.close()
    return log


def read(store: Store, *keys: str) -> dict[str, list[LoggedAnswer]]:
    return {log.run_id: log.answers for log in earlier_logs(store, set(keys))}


def wait_for(condition) -> None:
    while not condition():
        time.sleep(0.01)


def test_an_answer_is_on_the_disk_while_the_run_goes_on(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    log = AnswerLog(store, "run-1")
    for number in (1, 2):
        log.append(an_answer(number))
        wait_for(lambda: len(read(store, "t1.dev").get("run-1", [])) == number)  # noqa: B023 - called at once
    log.close()
    assert [path.name for path in (tmp_path / "answers").iterdir()] == ["run-1.jsonl"]


def test_on_an_object_store_it_is_there_while_the_run_goes_on_in_parts() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    store = Store(url)
    log = AnswerLog(store, "run-1")
    for number in (1, 2):
        log.append(an_answer(number))
        wait_for(lambda: len(read(store, "t1.dev").get("run-1", [])) == number)  # noqa: B023
    log.close()
    assert log.paths == ["answers/run-1.000001.jsonl"]
    remove_log(store, log.paths)
    assert store.names("answers", "") == []


texts = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(max_examples=30)
@given(st.lists(st.tuples(texts, texts | st.none(), st.sampled_from([None, *AgentError])), min_size=1, max_size=5))
def test_every_answer_comes_back_as_it_was(said) -> None:
    store = Store(f"memory://{uuid.uuid4().hex}")
    answers = [
        an_answer(number, text=text, reasoning=reasoning, error=error, temperature=0.7, started_at=1.25)
        for number, (text, reasoning, error) in enumerate(said)
    ]
    written(store, "run-1", *answers)
    assert read(store, "t1.dev") == {"run-1": answers}


@pytest.mark.parametrize("cut", range(2, 200, 23))
def test_a_line_that_a_kill_has_torn_is_passed_over_and_the_run_that_goes_on_appends_behind_it(
    tmp_path: Path, cut: int
) -> None:
    store = Store(str(tmp_path))
    written(store, "run-1", an_answer(1), an_answer(2))
    file = tmp_path / "answers/run-1.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert read(store, "t1.dev")["run-1"] == [an_answer(1)]
    written(store, "run-1", an_answer(3))
    assert read(store, "t1.dev")["run-1"] == [an_answer(1), an_answer(3)]


@pytest.mark.parametrize("content", [b"", b"\x00\xff\n", b"[]\n{}\nnull\n", b'{"deliberation_id": 5}\n', b"{" * 5_000])
def test_a_foreign_file_is_read_as_an_empty_log(tmp_path: Path, content: bytes) -> None:
    store = Store(str(tmp_path))
    store.append("answers/run-1.jsonl", content)
    assert read(store, "t1.dev") == {"run-1": []}


def test_only_wanted_answers_are_kept_in_memory_and_all_dialogues_are_known(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    written(store, "run-1", an_answer(1), an_answer(2, key="t2.dev"))
    (log,) = earlier_logs(store, {"t2.dev"})
    assert [answer.deliberation_id for answer in log.answers] == ["t2.dev"]
    assert set(log.dialogues) == {("t1.dev", "f00d"), ("t2.dev", "f00d")}


def test_a_storage_that_takes_nothing_is_told_once_and_what_it_refused_comes_when_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "answers").write_text("a file where the folder belongs")
    store = Store(str(tmp_path))
    log = AnswerLog(store, "run-1")
    with caplog.at_level(logging.WARNING):
        log.append(an_answer(1))
        wait_for(lambda: caplog.records)
        log.append(an_answer(2))
    assert "answers are not logged" in caplog.records[0].message
    (tmp_path / "answers").unlink()
    log.close()
    assert len(caplog.records) == 1
    assert read(store, "t1.dev") == {"run-1": [an_answer(1), an_answer(2)]}


def test_an_answer_is_that_of_an_equal_request_alone() -> None:
    messages = (Message("system", "s"), Message("user", "u"))
    request = Request(name="n", model="m", messages=messages, sampling=Sampling(), seed=7)
    answer = LoggedAnswer("t1.dev", "f00d", "n", prompt_sha256(messages), 7, Completion(text="a"))
    assert answer.answers(request)
    for changes in ({"name": "o"}, {"seed": 8}, {"messages": messages[:1]}):
        assert not answer.answers(replace(request, **changes))


def test_a_log_on_an_object_store_has_a_part_for_each_quarter_of_a_mebibyte_and_none_for_each_answer() -> None:
    store = Store(f"memory://{uuid.uuid4().hex}")
    log = AnswerLog(store, "run-1")
    for number in range(8):
        log.append(an_answer(number, text="x" * 100_000))
        wait_for(lambda: len(read(store, "t1.dev").get("run-1", [])) == number + 1)  # noqa: B023
    log.close()
    assert len(log.paths) == 3
    again = AnswerLog(store, "run-1", log.paths)  # the op is tried again: what is there is never written over
    again.append(an_answer(8))
    again.close()
    assert again.paths == [*log.paths, "answers/run-1.000004.jsonl"]
    assert len(read(store, "t1.dev")["run-1"]) == 9
