"""Requests become runs: a real nats-server, a real instance, the sensors as the daemon evaluates them."""

import asyncio
import hashlib
import json
import random
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fleet_pipeline.cli.local_run import run_backlog
from fleet_pipeline.common.errors import BrokerUnavailable, InvalidInput, StorageError
from fleet_pipeline.common.messages import EXECUTE, PLAN_APPROVED, REQUESTED
from fleet_pipeline.events.connection import connect, run_blocking
from fleet_pipeline.events.lookup import waiting
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.receiver import DeliveryPolicy, receive
from fleet_pipeline.ingest.options import RequestOptions
from fleet_pipeline.instance.partitions import NAME
from fleet_pipeline.instance.tags import BATCH, KEYS, RANGE_END, RANGE_START
from fleet_pipeline.services.intake import Intake
from fleet_pipeline.settings import Settings
from fleet_pipeline.storage.store import Store
from fleet_pipeline_tests.support.councils import a_task
from fleet_pipeline_tests.support.intakes import Intakes, hostile, line

pytestmark = [pytest.mark.instance, pytest.mark.broker]

PLAN = {"story_id": "s1", "plan_id": "plan-1", "approved_by": "po", "timestamp": "2026-11-21", "roles": ["DEV", "QA"]}


def test_requests_that_arrive_together_share_one_run_over_new_partitions(intakes: Intakes) -> None:
    intakes.send(line("t1"), line("t2", roles=["DEV", "QA"]), line("t3"))
    tick = intakes.tick()
    (request,) = tick.run_requests
    assert intakes.partitions == ["t1.dev", "t2.dev", "t2.qa", "t3.dev"]
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("t1.dev", "t3.dev")
    assert request.tags[KEYS]
    assert run_blocking(NatsOptions(url=intakes.url), waiting) == {
        REQUESTED: 0,
        PLAN_APPROVED: 0,
        EXECUTE: 0,
        "poison": 0,
    }
    (run_id,) = intakes.launch(tick)
    assert intakes.instance.get_run_by_id(run_id).is_success
    assert set(intakes.pipeline.table("deliberations")["status"]) == {"completed"}
    assert intakes.pipeline.starts == 1


def test_when_the_run_exists_nothing_is_asked_for_again(intakes: Intakes) -> None:
    intakes.send(line("t1"))
    intakes.launch(intakes.tick())
    again = intakes.tick()
    assert not again.run_requests
    assert again.skip_message == "no requests"
    assert list((intakes.pipeline.storage / "pending").iterdir()) == []


def test_a_run_is_asked_for_under_the_same_key_until_it_exists(intakes: Intakes) -> None:
    intakes.send(line("t1"), line("t2"))
    first, second = intakes.tick(), intakes.tick()  # whoever should have made the run was killed
    assert [request.run_key for request in first.run_requests] == [request.run_key for request in second.run_requests]
    assert first.run_requests[0].tags == second.run_requests[0].tags
    intakes.launch(second)
    assert not intakes.tick().run_requests


def test_what_has_been_taken_is_run_while_the_broker_is_away(intakes: Intakes) -> None:
    intakes.send(line("t1"))
    intakes.tick()
    intakes.url = "nats://127.0.0.1:1"
    (request,) = intakes.tick().run_requests
    assert request.tags[RANGE_START] == "t1.dev"
    intakes.launch(intakes.tick())
    with pytest.raises(BrokerUnavailable):
        intakes.tick()


def test_the_same_request_twice_is_one_deliberation(intakes: Intakes) -> None:
    intakes.send(line("t1"), line("t1"))
    tick = intakes.tick()
    intakes.launch(tick)
    intakes.send(line("t1"))
    assert not intakes.tick().run_requests
    assert intakes.partitions == ["t1.dev"]
    assert len(intakes.instance.get_runs()) == 1
    assert intakes.poison() == []


def test_the_same_id_with_other_content_is_refused_and_counted(intakes: Intakes) -> None:
    intakes.send(line("t1"), line("t1", "something else"))
    intakes.launch(intakes.tick())
    intakes.send(line("t1", "another thing again"), line("t2"))
    tick = intakes.tick()
    assert [request.tags[RANGE_START] for request in tick.run_requests] == ["t2.dev"]
    assert [one["reason"][:54] for one in intakes.poison()] == [
        "t1.dev has been requested already, with other content;"
    ] * 2
    assert intakes.task("t1.dev").description == "do"
    assert run_blocking(NatsOptions(url=intakes.url), waiting)["poison"] == 2


def test_a_rerun_takes_the_place_of_the_earlier_task_and_runs(intakes: Intakes) -> None:
    intakes.send(line("t1"), line("t2"))
    intakes.launch(intakes.tick())
    intakes.send(line("t1", "something else", rerun=True))
    tick = intakes.tick()
    assert intakes.task("t1.dev").description == "something else"
    assert [(r.tags[RANGE_START], r.tags[RANGE_END]) for r in tick.run_requests] == [("t1.dev", "t1.dev")]
    intakes.launch(tick)
    assert sorted(intakes.partitions) == ["t1.dev", "t2.dev"]
    described = intakes.pipeline.table("deliberations").set_index("deliberation_id")["description"]
    assert dict(described) == {"t1.dev": "something else", "t2.dev": "do"}


def test_a_rerun_that_is_delivered_again_is_run_once(intakes: Intakes) -> None:
    intakes.send(line("t1"))
    intakes.launch(intakes.tick())
    again = {"event_type": REQUESTED, "idempotency_key": "please", "payload": line("t1", rerun=True)}
    intakes.send(again)
    intakes.launch(intakes.tick())
    intakes.send(again)  # the ack of the first was lost
    assert not intakes.tick().run_requests
    assert len(intakes.instance.get_runs()) == 2
    intakes.send(again | {"idempotency_key": "please, once more"})
    assert len(intakes.tick().run_requests) == 1


def test_a_rerun_waits_for_the_run_that_is_under_way(intakes: Intakes) -> None:
    intakes.send(line("t1"), line("t2"))
    tick = intakes.tick()
    job = intakes.pipeline.definitions.resolve_job_def("deliberate")
    run = intakes.instance.create_run_for_job(job, tags=dict(tick.run_requests[0].tags))
    intakes.send(line("t1", "something else", rerun=True), line("t3"))
    waits = intakes.tick()
    assert [request.tags[RANGE_START] for request in waits.run_requests] == ["t3.dev"]
    assert intakes.task("t1.dev").description == "do"
    intakes.launch(waits)
    intakes.instance.report_run_canceled(run)
    (request,) = intakes.tick().run_requests
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("t1.dev", "t1.dev")
    assert intakes.task("t1.dev").description == "something else"


def test_a_rerun_waits_for_the_run_that_has_been_asked_for_and_is_not_there_yet(intakes: Intakes) -> None:
    intakes.send(line("t1"), line("t2"))
    first = intakes.tick()
    intakes.send(line("t1", "something else", rerun=True))
    both = intakes.tick()
    assert [request.run_key for request in both.run_requests] == [first.run_requests[0].run_key]
    intakes.launch(both)
    (rerun,) = intakes.tick().run_requests
    assert rerun.tags[BATCH] != first.run_requests[0].tags[BATCH]
    intakes.launch(intakes.tick())
    assert not intakes.tick().run_requests


def test_a_backlog_does_not_change_the_task_of_a_run_that_is_under_way(intakes: Intakes) -> None:
    intakes.send(line("t1"))
    job = intakes.pipeline.definitions.resolve_job_def("deliberate")
    intakes.instance.create_run_for_job(job, tags=dict(intakes.tick().run_requests[0].tags))
    settings = Settings(storage=str(intakes.pipeline.storage))
    with pytest.raises(InvalidInput, match="is under way over some of these"):
        run_backlog(intakes.instance, settings, [a_task("t1", description="changed")], lambda _: None)
    assert intakes.task("t1.dev").description == "do"


def test_an_approved_plan_is_one_deliberation_per_role_with_ids_of_their_own(intakes: Intakes) -> None:
    intakes.send(PLAN | {"roles": ["DEV", "QA", "PO"], "plan": "Add an endpoint"}, subject=PLAN_APPROVED)
    tick = intakes.tick()
    assert intakes.partitions == ["plan-1.dev", "plan-1.qa"]
    intakes.launch(tick)
    assert set(intakes.pipeline.table("deliberations")["story_id"]) == {"s1"}
    (poison,) = intakes.poison()
    assert "unknown role 'PO'" in poison["reason"]
    assert poison["subject"] == PLAN_APPROVED


def test_a_command_to_an_agent_is_a_council_of_one_that_works_with_tools(intakes: Intakes) -> None:
    command = line("c1", role="qa", workspace="https://git.example.com/a.git", tools={"mode": "plan"})
    in_envelope = {"event_type": EXECUTE, "idempotency_key": "k", "payload": line("c2", roles=["DEV"])}
    intakes.send(command, in_envelope, subject=EXECUTE)
    (request,) = intakes.tick().run_requests
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("c1.qa", "c2.dev")
    task = intakes.task("c1.qa")
    assert (task.num_agents, task.rounds, task.tools.mode) == (1, 0, "plan")
    assert task.workspace.url == "https://git.example.com/a.git"
    assert intakes.task("c2.dev").tools is not None
    intakes.send(command, subject=EXECUTE)  # once more
    assert intakes.poison() == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"num_agents": 3}, "num_agents: must be 1"),
        ({"rounds": 1}, "rounds: must be 0"),
        ({"tools": False}, "tools: "),
        ({"roles": ["DEV", "QA"]}, "roles: "),
        ({"role": "CHIEF"}, "roles: unknown role 'CHIEF'"),
        ({"task_id": "../../etc"}, "task_id: use 1 to 120 letters"),
    ],
)
def test_a_command_for_more_than_one_agent_with_tools_is_refused_with_the_field(intakes: Intakes, changed: dict, reason: str) -> None:  # fmt: skip
    intakes.send(line("c1") | changed, line("c2"), subject=EXECUTE)
    (request,) = intakes.tick().run_requests
    assert request.tags[RANGE_START] == "c2.dev"
    (poison,) = intakes.poison()
    assert poison["reason"].startswith(reason)


def test_plans_approved_long_before_we_came_are_left_alone(intakes: Intakes) -> None:
    intakes.timing(recent_seconds=1.0)
    intakes.send(PLAN | {"plan_id": "old"}, subject=PLAN_APPROVED)
    intakes.send(line("old-request"))
    time.sleep(1.2)
    intakes.send(PLAN | {"plan_id": "new", "roles": ["DEV"]}, subject=PLAN_APPROVED)
    intakes.tick()
    assert sorted(intakes.partitions) == ["new.dev", "old-request.dev"]
    assert intakes.poison() == []


def test_poison_is_kept_with_its_reason_and_its_neighbours_go_on(intakes: Intakes) -> None:
    intakes.send(b"\xff no JSON", line("../etc"), line("good"), b'{"task_id": "\\ud800", "\\udfff": 1}')
    intakes.tick()
    assert intakes.partitions == ["good.dev"]
    found = intakes.poison()
    assert [one["sequence"] for one in found] == [1, 2, 4]
    assert found[0]["reason"].startswith("not UTF-8 at byte 1")
    assert found[0]["content"] == "\ufffd no JSON"
    assert found[0]["content_is_whole"]
    assert "task_id: use 1 to 120 letters" in found[1]["reason"]
    intakes.tick()
    assert len(intakes.poison()) == 3


def test_ten_thousand_hostile_messages_end_in_the_poison_stream_each_with_a_reason(intakes: Intakes) -> None:
    chance = random.Random(0)
    messages = [hostile(chance) for _ in range(10_000)]
    intakes.send_all(messages)
    intakes.options = RequestOptions(most_per_run=2_000, max_bytes=200_000)
    while run_blocking(NatsOptions(url=intakes.url), waiting)[REQUESTED]:
        assert not intakes.tick().run_requests
    assert run_blocking(NatsOptions(url=intakes.url), waiting)["poison"] == 10_000
    found = intakes.poison()
    assert sorted(one["sequence"] for one in found) == list(range(1, 10_001))
    assert all(one["reason"] for one in found)
    by_sequence = {one["sequence"]: one["sha256"] for one in found}
    assert all(by_sequence[n] == hashlib.sha256(sent).hexdigest() for n, sent in enumerate(messages, start=1))
    assert intakes.partitions == []


def test_with_the_storage_away_nothing_is_acknowledged(intakes: Intakes, monkeypatch: pytest.MonkeyPatch) -> None:
    intakes.timing(backoff_seconds=(1.0, 1.0))
    intakes.send(line("t1"))
    with monkeypatch.context() as broken:

        def full(*_: Any) -> None:
            raise StorageError("cannot write: No space left on device")

        broken.setattr(Store, "write", full)
        with pytest.raises(StorageError):
            intakes.tick()
    intakes.timing(wait_seconds=5.0)
    (request,) = intakes.tick().run_requests
    assert request.tags[RANGE_START] == "t1.dev"


def test_a_request_that_never_can_be_taken_ends_in_the_poison_stream(intakes, monkeypatch) -> None:
    intakes.timing(backoff_seconds=(0.6,), most_deliveries=2, wait_seconds=3.0)
    intakes.send(line("t1"))
    with monkeypatch.context() as broken:
        broken.setattr("fleet_pipeline.services.intake.put_batch", lambda *_: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                intakes.tick()
    intakes.tick()
    assert [one["reason"] for one in intakes.poison()] == ["it has come 2 times and never could be taken"]
    assert intakes.partitions == []


def test_requests_of_a_large_batch_are_taken_in_runs_of_the_size_that_is_set(intakes: Intakes) -> None:
    intakes.options = RequestOptions(most_per_run=4)
    intakes.send(*[line(f"t{n}") for n in range(10)])
    tick = intakes.tick()
    ranges = [(r.tags[RANGE_START], r.tags[RANGE_END]) for r in tick.run_requests]
    assert ranges == [("t0.dev", "t3.dev"), ("t4.dev", "t7.dev"), ("t8.dev", "t9.dev")]
    assert len({request.run_key for request in tick.run_requests}) == 3


def test_headers_that_look_like_the_server_s_own_words_stop_nothing(intakes: Intakes) -> None:
    """nats-py takes a message with a Status header for one of the server's: it was skipped, or the tick broke."""
    hostile = [{"Status": "500"}, {"Status": "404"}, {"Status": "408", "Description": "x"}, {"Nats-Msg-Id": "\u00e9 x"}]
    intakes.send_with_headers(*hostile)
    intakes.send(line("good"))
    intakes.tick()
    assert intakes.partitions == ["good.dev"]
    assert len(intakes.poison()) == len(hostile)


def test_a_valid_request_with_a_hostile_id_costs_nobody_anything(intakes: Intakes) -> None:
    intakes.send({"event_type": REQUESTED, "idempotency_key": "\ud800", "payload": line("t1")}, line("t2"))
    intakes.launch(intakes.tick())
    assert set(intakes.pipeline.table("deliberations")["deliberation_id"]) == {"t1.dev", "t2.dev"}


def test_more_bytes_than_the_server_sends_at_once_are_taken_all_the_same(intakes: Intakes) -> None:
    """Asked for 500 messages of 250 KB, a server cuts the client off: more than 64 MB would wait for it."""
    intakes.send_all([json.dumps(line(f"t{n}", context="x" * 450_000)).encode() for n in range(200)])
    ticks = [intakes.tick() for _ in range(2)]
    assert len(intakes.partitions) == 200
    assert sum(len(tick.run_requests or []) for tick in ticks) >= 1
    assert run_blocking(NatsOptions(url=intakes.url), waiting)[REQUESTED] == 0


def test_a_partition_without_a_task_gets_the_one_that_is_asked_for(intakes: Intakes) -> None:
    intakes.instance.add_dynamic_partitions(NAME, ["t1.dev", "t2.dev"])  # typed in the UI
    (intakes.pipeline.storage / "tasks").mkdir(parents=True)
    (intakes.pipeline.storage / "tasks/t2.dev.json").write_text("torn")
    intakes.send(line("t1"), line("t2"))
    intakes.launch(intakes.tick())
    assert dict(intakes.pipeline.table("deliberations").set_index("deliberation_id")["status"]) == {
        "t1.dev": "completed", "t2.dev": "completed"
    }  # fmt: skip


def test_a_rerun_that_was_overtaken_does_not_undo_the_later_one(intakes: Intakes, monkeypatch) -> None:
    intakes.timing(backoff_seconds=(0.5,), wait_seconds=1.5)
    intakes.send(line("t1"))
    intakes.launch(intakes.tick())
    intakes.send(line("t1", "second", rerun=True))
    with monkeypatch.context() as lost:
        lost.setattr("nats.aio.msg.Msg.ack", _no_ack)
        intakes.launch(intakes.tick())
    intakes.send(line("t1", "third", rerun=True))
    intakes.launch(intakes.tick())
    intakes.launch(intakes.tick())
    assert intakes.task("t1.dev").description == "third"
    assert run_blocking(NatsOptions(url=intakes.url), waiting)[REQUESTED] == 0
    assert len(intakes.instance.get_runs()) == 3


async def _no_ack(_: Any) -> None:
    """An ack that is lost on its way."""


def test_a_message_that_makes_the_intake_fail_does_not_take_its_neighbours_with_it(intakes, monkeypatch) -> None:
    intakes.timing(backoff_seconds=(0.6,), together=1, most_deliveries=4, wait_seconds=2.0)
    real = Intake.take_messages

    def fails(self: Intake, messages: Any, *arguments: Any, **named: Any) -> Any:
        if any(b"broken" in message.content for message in messages):
            raise ZeroDivisionError
        return real(self, messages, *arguments, **named)

    monkeypatch.setattr(Intake, "take_messages", fails)
    intakes.send(line("t1"), line("broken"), line("t2"))
    with pytest.raises(ZeroDivisionError):
        intakes.tick()
    for _ in range(20):
        with suppress(ZeroDivisionError):
            intakes.launch(intakes.tick())
        if run_blocking(NatsOptions(url=intakes.url), waiting)["poison"]:
            break
    assert sorted(intakes.partitions) == ["t1.dev", "t2.dev"]
    assert [one["reason"] for one in intakes.poison()] == ["it has come 4 times and never could be taken"]


def test_what_went_wrong_with_a_message_is_told(intakes: Intakes) -> None:
    intakes.send(line("t1"), line("broken"))

    def take(messages: Any) -> list[None]:
        assert b"broken" not in messages[0].content, "it is broken"
        return [None]

    one_by_one = partial(
        receive, take=take, wait_seconds=1, work_seconds=5, batch=10, policy=DeliveryPolicy(together=0)
    )
    counts = run_blocking(NatsOptions(url=intakes.url), one_by_one)
    assert counts.taken == 1
    assert len(counts.failures) == 1
    assert "message 2 of DELIBERATION_REQUESTS could not be taken and comes again: AssertionError" in counts.failures[0]


@pytest.mark.parametrize("broken", ["no broker is configured", "a stream that loses"])
def test_what_has_been_taken_is_run_whatever_is_wrong_with_the_broker(intakes: Intakes, broken: str) -> None:
    intakes.send(line("t1"))
    intakes.tick()
    if broken == "no broker is configured":
        intakes.url = None
    else:

        async def change() -> None:
            async with connect(NatsOptions(url=intakes.url)) as connection:
                jetstream = connection.jetstream()
                await jetstream.delete_stream("FLEET_POISON")
                await jetstream.add_stream(name="FLEET_POISON", subjects=["something.else"])

        asyncio.run(change())
    (request,) = intakes.tick().run_requests
    assert request.tags[RANGE_START] == "t1.dev"


def test_the_same_numbers_are_the_same_request_even_where_one_is_none(intakes: Intakes) -> None:
    odd = b'{"task_id": "t1", "description": "d", "constraints": {"metadata": {"a": [NaN, 1]}}}'
    intakes.send(odd, odd)
    intakes.tick()
    assert intakes.poison() == []


def test_messages_that_are_slow_to_arrive_are_waited_for(intakes: Intakes) -> None:
    """Left on the way they would come again only when their time is up: it took 195 s once."""
    intakes.timing(slice_seconds=0.02)
    intakes.send_all([json.dumps(line(f"t{n}", context="x" * 100_000)).encode() for n in range(400)])
    ticks = 0
    while run_blocking(NatsOptions(url=intakes.url), waiting)[
        REQUESTED
    ]:  # one tick takes them all, on a machine with time
        intakes.tick()
        ticks += 1
        assert ticks < 50  # of half a second or more: those that are left on the way come after 75 s
    assert len(intakes.partitions) == 400


def test_a_damaged_batch_is_named_and_costs_only_itself(intakes: Intakes) -> None:
    folder: Path = intakes.pipeline.storage / "pending"
    folder.mkdir(parents=True)
    (folder / "20260101T000000000000-requests-abc.json").write_text('{"specs": [')
    assert "pending/20260101T000000000000-requests-abc.json cannot be read" in intakes.tick().skip_message
    intakes.send(line("t1"))
    assert len(intakes.tick().run_requests) == 1
