"""Events against a real nats-server."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator, ValidationError as JsonSchemaError

from fleet_pipeline.cli import main
from fleet_pipeline.common.errors import BrokerUnavailable, StreamMismatch
from fleet_pipeline.common.messages import EXECUTE, PLAN_APPROVED, REQUESTED
from fleet_pipeline.deliberation.exchange import AgentError
from fleet_pipeline.deliberation.rows import ProposalRow
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.events.completions import deliberation_events
from fleet_pipeline.events.connection import connect, run_blocking
from fleet_pipeline.events.embedded import embedded_server
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.options import NatsOptions, without_secrets
from fleet_pipeline.events.publisher import Receipts, prepare_broker, publish
from fleet_pipeline.events.streams import DELIBERATIONS, OUTGOING, PLANS, POISON, RESPONSES, STREAMS
from fleet_pipeline.events.subscriber import arriving
from fleet_pipeline_tests.support.rows import NOON, a_seat, an_outcome

pytestmark = pytest.mark.broker

SEATS = [a_seat(2), a_seat(1), a_seat(3, None)]


def events(
    seats: list[ProposalRow] = SEATS, max_bytes: int = 1_000_000, temperature: float | None = None, **changes
) -> list[Envelope]:
    temperatures = {seat.agent_id: temperature for seat in seats}
    return list(deliberation_events(an_outcome(**changes), seats, temperatures, "/s/t1.dev.parquet", max_bytes))


def event(seats: list[ProposalRow] = SEATS, max_bytes: int = 1_000_000, **changes) -> Envelope:
    """The deliberation's own."""
    (own,) = (found for found in events(seats, max_bytes, **changes) if found.event_type.startswith("deliberation."))
    return own


def whole(event: Envelope) -> Envelope:
    return event


def options(url: str) -> NatsOptions:
    return NatsOptions(url=url)


def send(url: str, sent: list[Envelope]) -> Receipts:
    return run_blocking(options(url), partial(publish, make_events=lambda _: [one.sealed() for one in sent]))


def test_a_completion_event_has_the_original_s_fields_and_the_winner() -> None:
    payload = event().payload
    original = {
        "task_id", "status", "results", "failed_agents", "total_agents", "successful_responses", "failed_responses",
        "duration_ms", "completed_at",
    }  # fmt: skip
    assert original <= set(payload)
    assert [result["agent_id"] for result in payload["results"]] == ["agent-dev-001", "agent-dev-002"]
    assert payload["results"][0]["proposal"]["content"] == "a proposal"
    assert payload["failed_agents"] == [
        {"agent_id": "agent-dev-003", "error": "empty: empty answer", "unfinished": None, "timestamp": NOON.isoformat()}
    ]
    assert (payload["total_agents"], payload["successful_responses"], payload["failed_responses"]) == (3, 2, 1)
    assert payload["duration_ms"] == 1500
    assert payload["winner_id"] == "agent-dev-002"


def test_what_is_not_whole_is_marked_and_what_was_being_said_at_the_end_is_there_with_the_texts() -> None:
    outcome = an_outcome(rounds=2, rounds_done=1, status=Status.TIMEOUT)
    late = {"error_type": AgentError.DEADLINE, "unfinished_text": "We cou"}
    seats = [a_seat(1, shortened="truncated"), a_seat(2, None, **late)]
    first, second, ended = (
        sent.payload for sent in deliberation_events(outcome, seats, {}, "file", max_bytes=1_000_000)
    )
    assert first["proposal"]["shortened"] == "truncated"
    assert (second["status"], second["error_type"], second["unfinished"]) == ("failed", "deadline", "We cou")
    assert ended["failed_agents"][0]["unfinished"] == "We cou"
    assert (ended["rounds"], ended["rounds_done"]) == (2, 1)
    bare = [sent.payload for sent in deliberation_events(outcome, seats, {}, "file", max_bytes=10)]
    assert "We cou" not in json.dumps(bare)


@pytest.mark.parametrize("status", Status)
def test_the_status_is_the_subject_and_part_of_the_idempotency_key(status: Status) -> None:
    assert event(status=status).event_type == f"deliberation.{status}"
    assert event(status=status).idempotency_key.startswith(f"t1.dev:f00d:{status}:")
    assert event().event_type in DELIBERATIONS.subjects


def test_texts_that_are_too_large_are_replaced_by_where_they_are() -> None:
    small = event(max_bytes=len(event().model_dump_json()) - 1)
    assert small.payload["results"][0]["proposal"]["content"] is None
    assert small.payload["texts_included"] is False
    assert small.payload["proposals_file"] == "/s/t1.dev.parquet"
    assert event().payload["texts_included"] is True


def test_events_are_stored_once_however_often_they_are_sent(nats_url: str) -> None:
    done, failed = event(), event(status=Status.FAILED)
    assert send(nats_url, [done]) == Receipts(stored=(done.idempotency_key,))
    assert send(nats_url, [event(run_id="another"), failed]) == Receipts(
        stored=(failed.idempotency_key,), duplicates=(done.idempotency_key,)
    )
    assert stored(nats_url) == ["deliberation.completed", "deliberation.failed"]


def test_a_result_that_was_scored_anew_is_another_event() -> None:
    keys = {event().idempotency_key, event(winner_agent_id="agent-dev-001").idempotency_key}
    other_score = event([a_seat(2, score=0.1), a_seat(1), a_seat(3, None)])
    assert len(keys | {other_score.idempotency_key}) == 3


def stored(url: str) -> list[str]:
    async def subjects() -> list[str]:
        async with connect(options(url)) as connection:
            jetstream = connection.jetstream()
            info = await jetstream.stream_info(DELIBERATIONS.name)
            numbers = range(1, info.state.messages + 1)
            return [(await jetstream.get_msg(DELIBERATIONS.name, seq=number)).subject for number in numbers]

    return asyncio.run(subjects())


async def configuration(url: str, name: str):
    async with connect(options(url)) as connection:
        return (await connection.jetstream().stream_info(name)).config


async def changed(url: str, name: str, **fields) -> None:
    async with connect(options(url)) as connection:
        config = (await connection.jetstream().stream_info(name)).config
        for field, value in fields.items():
            setattr(config, field, value)
        await connection.jetstream().update_stream(config)


async def made(url: str, **fields) -> None:
    async with connect(options(url)) as connection:
        await connection.jetstream().add_stream(**fields)


def test_streams_are_created_as_declared_when_absent(nats_url: str) -> None:
    assert run_blocking(options(nats_url), prepare_broker) == []
    for stream in STREAMS:
        config = asyncio.run(configuration(nats_url, stream.name))
        assert tuple(config.subjects) == stream.subjects
        assert config.max_age == stream.max_age_seconds
        assert config.duplicate_window == stream.duplicate_window_seconds
        assert config.storage == "file"
    assert run_blocking(options(nats_url), prepare_broker) == []


def test_a_stream_that_is_there_is_left_alone_and_what_differs_is_said(nats_url: str) -> None:
    run_blocking(options(nats_url), prepare_broker)
    asyncio.run(changed(nats_url, DELIBERATIONS.name, max_msgs=7))
    assert run_blocking(options(nats_url), prepare_broker) == [
        "stream DELIBERATIONS: max_msgs is 7 on the server, 1e+06 here"
    ]
    assert asyncio.run(configuration(nats_url, DELIBERATIONS.name)).max_msgs == 7


def test_a_stream_of_another_kind_is_told_with_what_follows_from_it(nats_url: str) -> None:
    kind = {"retention": "workqueue", "storage": "memory", "discard": "new", "duplicate_window": 60.0}
    asyncio.run(made(nats_url, name=DELIBERATIONS.name, subjects=list(DELIBERATIONS.subjects), **kind))
    remarks = [remark for remark in run_blocking(options(nats_url), prepare_broker) if "DELIBERATIONS" in remark]
    for told in (
        "retention is workqueue on the server, limits here: a message may go before",
        "storage is memory on the server, file here: its messages end with the server",
        "discard is new on the server, old here: when it is full",
        "duplicate_window is 60 on the server, 3600 here",
    ):
        assert any(told in remark for remark in remarks), (told, remarks)


def test_a_stream_that_keeps_only_what_somebody_waits_for_is_an_error(nats_url: str) -> None:
    asyncio.run(made(nats_url, name=RESPONSES.name, subjects=list(RESPONSES.subjects), retention="interest"))
    with pytest.raises(StreamMismatch, match="AGENT_RESPONSES on the server keeps only what somebody waits for"):
        send(nats_url, [event()])


def test_watchers_pass_over_what_others_send(nats_url: str) -> None:
    async def foreign() -> None:
        async with connect(options(nats_url)) as connection:
            for content in (b'{"task_id": "x"}', b"no JSON", b"[]"):
                await connection.publish("agent.response.completed", content)

    run_blocking(options(nats_url), prepare_broker)
    with arriving(options(nats_url), whole) as arrived:
        asyncio.run(foreign())
        send(nats_url, [event()])
        assert len(list(arrived([event().idempotency_key]))) == 1


def test_a_stream_that_acknowledges_nothing_is_an_error(nats_url: str) -> None:
    asyncio.run(made(nats_url, name=DELIBERATIONS.name, subjects=list(DELIBERATIONS.subjects), no_ack=True))
    with pytest.raises(StreamMismatch, match="acknowledges nothing"):
        send(nats_url, [event()])


def test_a_stream_that_would_lose_a_subject_is_an_error_that_says_how_to_mend_it(nats_url: str) -> None:
    asyncio.run(made(nats_url, name=DELIBERATIONS.name, subjects=["deliberation.completed"]))
    with pytest.raises(StreamMismatch, match=r"DELIBERATIONS .* does not take deliberation.failed .*stream edit"):
        send(nats_url, [event()])


def test_a_stream_of_another_name_that_takes_the_subjects_is_good_enough(nats_url: str) -> None:
    asyncio.run(made(nats_url, name="EVERYTHING", subjects=["agent.>", "planning.*.approved"]))
    remarks = run_blocking(options(nats_url), prepare_broker)
    assert f"{', '.join(PLANS.needs)} go to stream EVERYTHING, not {PLANS.name}" in remarks
    assert any(remark.endswith(f"not {RESPONSES.name}") for remark in remarks)
    failed = [found for found in events() if found.event_type == "agent.response.failed"]
    assert send(nats_url, failed).stored == (failed[0].idempotency_key,)


def test_a_finished_deliberation_is_announced_with_each_response_and_the_orchestrator_s_word() -> None:
    found = events()
    assert [one.event_type for one in found] == [
        "agent.response.completed", "agent.response.completed", "agent.response.failed", "deliberation.completed",
        "orchestration.deliberation.completed",
    ]  # fmt: skip
    assert {one.event_type for one in found} <= set(OUTGOING)
    assert len({one.idempotency_key for one in found}) == 5
    assert [one.idempotency_key for one in events(run_id="again")] == [one.idempotency_key for one in found]
    assert {one.correlation_id for one in found} == {"t1"}
    assert [one.event_type for one in events(status=Status.TIMEOUT)][3:] == ["deliberation.timeout"]


def test_events_have_the_fields_that_consumers_of_the_original_read() -> None:
    completed, _, failed, _, orchestration = (one.payload for one in events())
    assert set(completed) >= {
        "task_id", "agent_id", "role", "proposal", "status", "duration_ms", "timestamp", "model", "diversity", "num_agents",
    }  # fmt: skip
    assert set(completed["proposal"]) >= {"content", "author_id", "author_role", "model", "tokens"}
    assert set(failed) >= {"task_id", "agent_id", "role", "status", "error", "error_type", "duration_ms", "timestamp"}
    assert (completed["status"], failed["status"], failed["error"]) == ("completed", "failed", "empty answer")
    assert set(orchestration) >= {"event_type", "story_id", "task_id", "decisions", "timestamp"}
    assert isinstance(orchestration["timestamp"], float)
    assert [decision["agent_id"] for decision in orchestration["decisions"]] == ["agent-dev-001", "agent-dev-002"]


@dataclass
class Collector:
    """A consumer as the earlier system had it (its collector and its context service), with its field names and
    no other: every field is looked up by name, so that one that is absent is a KeyError."""

    results: dict[str, list[tuple]] = field(default_factory=dict)
    failures: dict[str, list[tuple]] = field(default_factory=dict)
    ended: list[tuple] = field(default_factory=list)
    decisions: list[tuple] = field(default_factory=list)

    def handle(self, subject: str, event: dict) -> None:
        # Since January 2026 it refuses what lacks any of these.
        for name in ("event_type", "payload", "idempotency_key", "correlation_id", "timestamp", "producer"):
            assert event[name]
        assert event["event_type"] == subject
        data = event["payload"]
        if subject == "agent.response.completed":
            proposal = data["proposal"]
            authored = (proposal["content"], proposal["author_id"], proposal["author_role"], proposal["model"])
            tuning = (proposal["temperature"], proposal["tokens"])
            about = (
                data["agent_id"],
                data["role"],
                data["status"],
                data["duration_ms"],
                data["model"],
                data["diversity"],
            )
            datetime.fromisoformat(data["timestamp"])
            self.results.setdefault(data["task_id"], []).append((data["num_agents"], *about, *authored, *tuning))
        elif subject == "agent.response.failed":
            told = (
                data["agent_id"],
                data["role"],
                data["status"],
                data["error"],
                data["error_type"],
                data["duration_ms"],
            )
            datetime.fromisoformat(data["timestamp"])
            self.failures.setdefault(data["task_id"], []).append(told)
        elif subject in ("deliberation.completed", "deliberation.failed"):
            for one in data["results"]:
                assert one["agent_id"] == one["proposal"]["author_id"]
                assert (one["role"], one["duration_ms"]) == ("DEV", 1_500)
                datetime.fromisoformat(one["timestamp"])
            lost = [(one["agent_id"], one["error"], one["timestamp"]) for one in data["failed_agents"]]
            counts = (data["total_agents"], data["successful_responses"], data["failed_responses"])
            assert datetime.fromisoformat(data["completed_at"]).tzinfo
            self.ended.append((data["task_id"], data["status"], counts, len(lost), data["duration_ms"], data["error"]))
        elif subject == "orchestration.deliberation.completed":
            assert isinstance(data["timestamp"], float)
            chosen = [one["proposal"]["content"] for one in data["decisions"]]
            self.decisions.append((data["event_type"], data["story_id"], data["task_id"], chosen))


def test_a_consumer_of_the_earlier_system_reads_what_is_sent(nats_url: str) -> None:
    send(
        nats_url,
        [
            *events(temperature=0.9),
            *events(
                temperature=0.9, status=Status.FAILED, task_id="t2", deliberation_id="t2.dev", error_message="too few"
            ),
        ],
    )
    collector = Collector()

    async def consume() -> None:
        async with connect(options(nats_url)) as connection:
            jetstream = connection.jetstream()
            for subject in ("agent.response.*", "deliberation.*", "orchestration.>"):
                subscription = await jetstream.pull_subscribe(subject, durable="collector-" + subject[:5])
                with suppress(TimeoutError):
                    while True:
                        for message in await subscription.fetch(10, timeout=1):
                            collector.handle(message.subject, json.loads(message.data))
                            await message.ack()

    asyncio.run(consume())
    assert sorted(collector.results) == sorted(collector.failures) == ["t1", "t2"]
    assert collector.results["t1"][0] == (
        3, "agent-dev-002", "DEV", "completed", 1_500, "m", True, "a proposal", "agent-dev-002", "DEV", "m", 0.9, 9
    )  # fmt: skip
    assert collector.failures["t1"] == [("agent-dev-003", "DEV", "failed", "empty answer", "empty", 1_500)]
    assert collector.ended == [
        ("t1", "completed", (3, 2, 1), 1, 1_500, None), ("t2", "failed", (3, 2, 1), 1, 1_500, "too few")
    ]  # fmt: skip
    assert collector.decisions == [
        ("orchestration.deliberation.completed", "story-1", "t1", ["a proposal", "a proposal"])
    ]


def test_every_event_is_what_its_published_schema_says() -> None:
    printed = CliRunner().invoke(main, ["events", "schema"])
    known = json.loads(printed.stdout)
    assert set(known) == {*OUTGOING, REQUESTED, PLAN_APPROVED, EXECUTE, *POISON.needs} - {"agent.results.>"} | {
        "agent.results"
    }
    sent = [
        *events(),
        *events(status=Status.FAILED),
        *events(status=Status.TIMEOUT, finished_at=None, wall_s=None, winner_agent_id=None),
    ]
    sent += events([a_seat(1, score=None)], max_bytes=10)
    for one in sent:
        Draft202012Validator.check_schema(known[one.event_type])
        Draft202012Validator(known[one.event_type]).validate(json.loads(one.model_dump_json()))


def test_the_schema_of_a_request_takes_it_bare_and_in_an_envelope_and_refuses_what_the_intake_refuses() -> None:
    schema = json.loads(CliRunner().invoke(main, ["events", "schema", REQUESTED]).stdout)
    Draft202012Validator.check_schema(schema)
    line = {"task_id": "t1", "description": "d", "roles": ["DEV"], "rerun": True, "constraints": {"rubric": ["a"]}}
    Draft202012Validator(schema).validate(line)
    Draft202012Validator(schema).validate({"event_type": REQUESTED, "payload": line})
    for wrong in ({"task_id": "t1"}, line | {"color": 1}, line | {"rounds": 9}, {"event_type": REQUESTED}):
        with pytest.raises(JsonSchemaError):
            Draft202012Validator(schema).validate(wrong)


def test_a_schema_refuses_what_lacks_a_field_that_consumers_read() -> None:
    (own,) = (one for one in events() if one.event_type == "deliberation.completed")
    document = json.loads(own.model_dump_json())
    schema = json.loads(CliRunner().invoke(main, ["events", "schema", own.event_type]).stdout)
    del document["payload"]["results"][0]["proposal"]["content"]
    with pytest.raises(JsonSchemaError, match="content"):
        Draft202012Validator(schema).validate(document)
    unknown = CliRunner().invoke(main, ["events", "schema", "deliberation.begun"])
    assert unknown.exit_code == 2
    assert "there are agent.response.completed" in unknown.stderr


def test_a_thousand_events_are_under_way_at_once_and_all_acknowledged(nats_url: str) -> None:
    many = [found for n in range(200) for found in events(deliberation_id=f"t{n}.dev", task_id=f"t{n}")]
    receipts = send(nats_url, many)
    assert len(receipts.stored) == len(many) == 1_000
    assert len(send(nats_url, many).duplicates) == 1_000


def test_no_broker_is_an_error_that_names_the_place_without_its_password() -> None:
    with embedded_server() as url:
        gone = url
    with pytest.raises(BrokerUnavailable, match="NATS at nats://127.0.0.1") as caught:
        send(gone.replace("nats://", "nats://user:hunter2@"), [event()])
    assert "hunter2" not in str(caught.value)
    assert without_secrets("nats://user:hunter2@host:4222") == "nats://host:4222"


def test_watchers_see_events_arrive(nats_url: str) -> None:
    with arriving(options(nats_url), whole) as arrived:
        send(nats_url, [event(), event(status=Status.FAILED), event(status=Status.TIMEOUT)])
        seen = list(arrived([event().idempotency_key, event(status=Status.TIMEOUT).idempotency_key]))
    assert [one.event_type for one in seen] == ["deliberation.completed", "deliberation.timeout"]
    assert seen[0].payload["deliberation_id"] == "t1.dev"


def test_an_event_is_json_that_any_consumer_reads(nats_url: str) -> None:
    document = json.loads(event().model_dump_json())
    assert set(document) == {
        "event_type", "schema_version", "idempotency_key", "correlation_id", "timestamp", "producer", "payload",
    }  # fmt: skip
    assert datetime.fromisoformat(document["timestamp"]).tzinfo is not None
