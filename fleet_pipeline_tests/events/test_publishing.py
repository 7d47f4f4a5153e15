"""Events against a real nats-server."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from fleet_pipeline.events.completions import completion_event
from fleet_pipeline.events.embedded import embedded_server
from fleet_pipeline.events.publisher import BrokerUnavailable, Receipts, check, connect, publish, without_secrets
from fleet_pipeline.events.streams import DELIBERATIONS, STREAMS
from fleet_pipeline.events.subscriber import arriving

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def verdict(status: str = "completed", **changes) -> dict:
    row = {
        "deliberation_id": "t1.dev", "task_id": "t1", "role": "DEV", "status": status, "error_message": None,
        "winner_agent_id": "agent-dev-002", "winner_score": 0.7, "num_agents": 3, "finished_at": NOON, "wall_s": 1.5,
        "fingerprint": "f00d", "run_id": "run",
    }  # fmt: skip
    return row | changes


def seat(number: int, text: str | None = "a proposal") -> dict:
    return {
        "agent_id": f"agent-dev-{number:03d}", "role": "DEV", "text": text, "rank": number if text else None,
        "score": 0.7, "model": "m", "completion_tokens": 9,
        "error_type": None if text else "empty", "error_message": None if text else "empty answer",
    }  # fmt: skip


def event(max_bytes: int = 1_000_000, **changes):
    return completion_event(verdict(**changes), [seat(2), seat(1), seat(3, None)], "/s/t1.dev.parquet", max_bytes)


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
        {"agent_id": "agent-dev-003", "error": "empty: empty answer", "timestamp": NOON.isoformat()}
    ]
    assert (payload["total_agents"], payload["successful_responses"], payload["failed_responses"]) == (3, 2, 1)
    assert payload["duration_ms"] == 1500
    assert payload["winner_id"] == "agent-dev-002"


@pytest.mark.parametrize("status", ["completed", "failed", "timeout"])
def test_the_status_is_the_subject_and_part_of_the_idempotency_key(status: str) -> None:
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
    done, failed = event(), event(status="failed")
    assert publish(nats_url, lambda _: [done]) == Receipts(stored=(done.idempotency_key,))
    assert publish(nats_url, lambda _: [event(run_id="another"), failed]) == Receipts(
        stored=(failed.idempotency_key,), duplicates=(done.idempotency_key,)
    )
    assert stored(nats_url) == ["deliberation.completed", "deliberation.failed"]


def test_a_result_that_was_scored_anew_is_another_event() -> None:
    keys = {event().idempotency_key, event(winner_agent_id="agent-dev-001").idempotency_key}
    other_score = completion_event(verdict(), [seat(2) | {"score": 0.1}, seat(1), seat(3, None)], "/s", 1_000_000)
    assert len(keys | {other_score.idempotency_key}) == 3


def stored(url: str) -> list[str]:
    async def subjects() -> list[str]:
        async with connect(url) as connection:
            jetstream = connection.jetstream()
            info = await jetstream.stream_info(DELIBERATIONS.name)
            numbers = range(1, info.state.messages + 1)
            return [(await jetstream.get_msg(DELIBERATIONS.name, seq=number)).subject for number in numbers]

    return asyncio.run(subjects())


def test_streams_are_created_as_declared_when_absent_and_left_alone_when_present(nats_url: str) -> None:
    async def configured(name: str):
        async with connect(nats_url) as connection:
            return (await connection.jetstream().stream_info(name)).config

    async def change(name: str) -> None:
        async with connect(nats_url) as connection:
            config = (await connection.jetstream().stream_info(name)).config
            config.max_msgs = 7
            await connection.jetstream().update_stream(config)

    check(nats_url)
    for stream in STREAMS:
        config = asyncio.run(configured(stream.name))
        assert tuple(config.subjects) == stream.subjects
        assert config.max_age == stream.max_age_seconds
        assert config.duplicate_window == stream.duplicate_window_seconds
        assert config.storage == "file"
        asyncio.run(change(stream.name))
        check(nats_url)
        assert asyncio.run(configured(stream.name)).max_msgs == 7


@pytest.mark.timeout(30)
def test_no_broker_is_an_error_in_seconds_that_names_the_place_without_its_password() -> None:
    with embedded_server() as url:
        gone = url
    with pytest.raises(BrokerUnavailable, match="NATS at nats://127.0.0.1") as caught:
        publish(gone.replace("nats://", "nats://user:hunter2@"), lambda _: [event()])
    assert "hunter2" not in str(caught.value)
    assert without_secrets("nats://user:hunter2@host:4222") == "nats://host:4222"


def test_watchers_see_events_arrive(nats_url: str) -> None:
    with arriving(nats_url) as arrived:
        publish(nats_url, lambda _: [event(), event(status="failed"), event(status="timeout")])
        seen = list(arrived([event().idempotency_key, event(status="timeout").idempotency_key]))
    assert [subject for subject, _ in seen] == ["deliberation.completed", "deliberation.timeout"]
    assert seen[0][1]["payload"]["deliberation_id"] == "t1.dev"


def test_an_event_is_json_that_any_consumer_reads(nats_url: str) -> None:
    document = json.loads(event().model_dump_json())
    assert set(document) == {
        "event_type", "schema_version", "idempotency_key", "correlation_id", "timestamp", "producer", "payload",
    }  # fmt: skip
    assert datetime.fromisoformat(document["timestamp"]).tzinfo is not None
