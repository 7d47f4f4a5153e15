"""When an answer log may go, and what of it may be used."""

import sys
import threading
import time
from pathlib import Path

import pytest

from fleet_pipeline.common.errors import StorageError
from fleet_pipeline.deliberation.council import Deliberation
from fleet_pipeline.deliberation.exchange import Action, Completion, Place
from fleet_pipeline.deliberation.memory import Memory
from fleet_pipeline.deliberation.protocol import deliberate
from fleet_pipeline.deliberation.transcript import Transcript
from fleet_pipeline.services.recollection import Recollection
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.transcripts import Provenance, write_transcript
from fleet_pipeline_tests.support.councils import a_deliberation, opening, play, said, speak
from fleet_pipeline_tests.support.heard import Heard

pytestmark = pytest.mark.instance  # storage, and so pyarrow


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def hear(memory: Memory, prompts: list[Heard], at: float, text: str | None = None) -> None:
    for prompt in prompts:
        answer = said(speak(prompt).text if text is None else text, finished_at=at)
        memory.note(prompt.request, answer)


def killed(store: Store, run_id: str, deliberation: Deliberation, at: float, text: str | None = None) -> None:
    """A run that has heard the opening proposals of a deliberation, and nothing more."""
    run = Recollection(store, run_id, [deliberation.id])
    hear(run.begin(deliberation.id, deliberation.fingerprint), opening_of(deliberation), at, text)
    run._log.close()


def opening_of(deliberation: Deliberation) -> list[Heard]:
    return opening(deliberate(deliberation))


def stored(
    store: Store, run_id: str, deliberation: Deliberation, at: float, transcript: Transcript | None = None
) -> None:
    made_by = Provenance("m", "vllm", run_id, deliberation.fingerprint)
    write_transcript(store, deliberation, transcript or play(deliberation)[0], made_by, at - 1, at)


def recalled(memory: Memory, prompts: list[Heard]) -> list[Completion | None]:
    return [memory.recall(prompt.request) for prompt in prompts]


def test_the_log_of_a_killed_run_stays_until_what_is_in_it_is_stored(store: Store) -> None:
    a, b = a_deliberation("a"), a_deliberation("b")
    killed(store, "run-1", a, at=10)
    other = Recollection(store, "run-2", [b.id])
    other.begin(b.id, b.fingerprint)
    stored(store, "run-2", b, at=20)
    other.fold(b.id, b.fingerprint)
    other.close()
    assert store.names("answers", ".jsonl") == ["run-1"]
    again = Recollection(store, "run-3", [a.id])
    assert all(recalled(again.begin(a.id, a.fingerprint), opening_of(a)))
    stored(store, "run-3", a, at=30)
    again.fold(a.id, a.fingerprint)
    again.close()
    assert store.names("answers", "") == []


def test_the_log_of_a_run_that_is_under_way_beside_this_one_is_not_removed(store: Store) -> None:
    a, b = a_deliberation("a"), a_deliberation("b")
    beside = Recollection(store, "run-1", [a.id, b.id])
    hear(beside.begin(a.id, a.fingerprint), opening_of(a), at=10)
    beside._log.close()  # all is written
    stored(store, "run-1", a, at=11)
    this = Recollection(store, "run-2", ["c.dev"])
    store.append("answers/run-1.jsonl", b'{"more": "to come"}\n')
    this.close()
    assert store.names("answers", ".jsonl") == ["run-1"]


def test_an_earlier_result_of_the_same_inputs_is_not_what_a_killed_run_has_heard(store: Store) -> None:
    """Under `resume` "never" it was to be made anew."""
    a = a_deliberation("a")
    stored(store, "run-0", a, at=5)
    killed(store, "run-1", a, at=10)
    Recollection(store, "run-2", ["c.dev"]).close()
    assert store.names("answers", ".jsonl") == ["run-1"]
    goes_on = Recollection(store, "run-3", [a.id], trusted={"run-1", "run-3"})
    assert all(recalled(goes_on.begin(a.id, a.fingerprint), opening_of(a)))


def test_what_did_not_count_is_not_recalled_from_a_log_that_outlived_its_transcript(store: Store) -> None:
    a = a_deliberation("a", quorum=3)
    killed(store, "run-1", a, at=10, text="")
    stored(store, "run-1", a, at=11, transcript=play(a, lambda _: said(""))[0])
    again = Recollection(store, "run-2", [a.id])
    assert recalled(again.begin(a.id, a.fingerprint, a), opening_of(a)) == [None] * 3


def test_what_was_heard_after_a_transcript_that_is_not_complete_is_recalled(store: Store) -> None:
    a = a_deliberation("a", quorum=3)
    stored(store, "run-1", a, at=11, transcript=play(a, lambda _: said(""))[0])
    killed(store, "run-2", a, at=20)
    again = Recollection(store, "run-3", [a.id])
    assert all(recalled(again.begin(a.id, a.fingerprint, a), opening_of(a)))


def test_an_op_that_is_tried_again_in_the_same_run_keeps_what_the_first_try_has_heard(store: Store) -> None:
    a = a_deliberation("a")
    killed(store, "run-1", a, at=10)
    second = Recollection(store, "run-1", [a.id])
    second.close()  # the engine did not start
    assert store.names("answers", ".jsonl") == ["run-1"]
    third = Recollection(store, "run-1", [a.id])
    assert all(recalled(third.begin(a.id, a.fingerprint), opening_of(a)))


def test_logs_that_cannot_be_removed_cost_nobody_their_result(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    a = a_deliberation("a")
    run = Recollection(store, "run-1", [a.id])
    hear(run.begin(a.id, a.fingerprint), opening_of(a), at=time.time())
    stored(store, "run-1", a, at=time.time())
    run.fold(a.id, a.fingerprint)

    def refused(_: str) -> None:
        raise StorageError("AccessDenied: s3:DeleteObject")

    monkeypatch.setattr(store, "delete", refused)
    run.close()
    assert store.names("answers", ".jsonl") == ["run-1"]


def test_a_call_is_noted_while_deliberations_begin_and_end_in_another_thread(store: Store) -> None:
    """Calls are noted in a thread of the hands. A set that changed meanwhile raised, and the call was refused."""
    run = Recollection(store, "run-1", [])
    for n in range(2_000):  # it takes a while to look through them
        run.begin(f"t{n}.dev", "f00d")
    going, interval = threading.Event(), sys.getswitchinterval()

    def begin_and_end() -> None:
        while not going.is_set():
            run.begin("other.dev", "f00d")
            run.fold("other.dev", "f00d")

    sys.setswitchinterval(1e-6)
    beside = threading.Thread(target=begin_and_end)
    beside.start()
    try:
        assert all(run.note_begun(Action(f"n{n}", Place("absent.dev", "a", "DEV"))) for n in range(50))
    finally:
        sys.setswitchinterval(interval)
        going.set()
        beside.join()
        run.close()
