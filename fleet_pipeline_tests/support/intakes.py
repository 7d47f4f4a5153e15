"""Takes requests from a broker to runs, and does the daemon's work by hand."""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dagster as dg
from jsonschema import Draft202012Validator

from fleet_pipeline.common.messages import REQUESTED
from fleet_pipeline.defs.resources import TickOptions
from fleet_pipeline.defs.sensors import requests
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.events.connection import connect
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.streams import ensure_streams
from fleet_pipeline.ingest.options import RequestOptions
from fleet_pipeline.instance.partitions import NAME
from fleet_pipeline.services.event_schemas import schemas
from fleet_pipeline.storage.task_store import TaskStore
from fleet_pipeline_tests.support.pipeline import Pipeline


class Intakes:
    """A pipeline, a broker, and the daemon's work: ticks and launches."""

    def __init__(self, pipeline: Pipeline, url: str) -> None:
        self.pipeline = pipeline
        self.instance = pipeline.instance
        self.url = url
        self.options = RequestOptions()
        self.ticks = TickOptions(wait_seconds=0.5)

    def timing(self, **changed: Any) -> None:
        """Change fields of `TickOptions`, or of its `DeliveryPolicy`."""
        delivery = {name: changed.pop(name) for name in list(changed) if hasattr(self.ticks.delivery, name)}
        self.ticks = replace(self.ticks, **changed, delivery=replace(self.ticks.delivery, **delivery))

    def send(self, *payloads: Any, subject: str = REQUESTED, names: list[str] | None = None) -> None:
        async def publish() -> None:
            async with connect(NatsOptions(url=self.url)) as connection:
                jetstream = connection.jetstream()
                await ensure_streams(jetstream)
                for number, payload in enumerate(payloads):
                    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
                    headers = {"Nats-Msg-Id": names[number]} if names else None
                    await jetstream.publish(subject, body, headers=headers)

        asyncio.run(publish())

    def send_with_headers(self, *headers: dict[str, str]) -> None:
        async def publish() -> None:
            async with connect(NatsOptions(url=self.url)) as connection:
                await ensure_streams(connection.jetstream())
                for message_headers in headers:
                    await connection.jetstream().publish(REQUESTED, b"nonsense", headers=message_headers)

        asyncio.run(publish())

    def send_all(self, messages: list[bytes]) -> None:
        """Publish raw messages, many at once."""

        async def publish() -> None:
            async with connect(NatsOptions(url=self.url)) as connection:
                jetstream = connection.jetstream(publish_async_max_pending=500)
                await ensure_streams(jetstream)
                acks = [await jetstream.publish_async(REQUESTED, message) for message in messages]
                await asyncio.gather(*acks)

        asyncio.run(publish())

    def tick(self, sensor: Any = requests) -> Any:
        resources = self.pipeline.definitions.resources
        with dg.build_sensor_context(
            instance=self.instance,
            resources={
                "nats": NatsOptions(url=self.url),
                "request_options": self.options,
                "backlog_options": resources["backlog_options"],
                "council": resources["council"],
                "storage": resources["storage"],
                "ticks": self.ticks,
            },
        ) as context:
            return sensor.evaluate_tick(context)

    def launch(self, tick: Any) -> list[str]:
        """Execute the runs that a tick asks for, as the daemon and its workers would. Returns their ids."""
        job = self.pipeline.definitions.resolve_job_def("deliberate")
        return [
            job.execute_in_process(instance=self.instance, tags=dict(request.tags), raise_on_error=False).run_id
            for request in tick.run_requests
        ]

    @property
    def partitions(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions(NAME))

    def poison(self) -> list[dict]:
        from nats.js.api import AckPolicy, ConsumerConfig

        async def read() -> list[dict]:
            async with connect(NatsOptions(url=self.url)) as connection:
                jetstream = connection.jetstream()
                unacknowledged = ConsumerConfig(ack_policy=AckPolicy.NONE)
                subscription = await jetstream.pull_subscribe("fleet.poison.*", config=unacknowledged)
                pending = (await subscription.consumer_info()).num_pending
                events: list[dict] = []
                while len(events) < pending:
                    events += [json.loads(message.data) for message in await subscription.fetch(500)]
                schema_by_type = schemas()
                for event in events:
                    Draft202012Validator(schema_by_type[event["event_type"]]).validate(event)
                return [event["payload"] for event in events]

        return asyncio.run(read())

    def task(self, key: str) -> Any:
        return TaskStore(self.pipeline.store, BUILT_IN_ROLES).get(key)[0]


def line(task_id: str, description: str = "do", **fields: Any) -> dict:
    return {"task_id": task_id, "description": description, **fields}


def hostile(chance: random.Random) -> bytes:
    """A message that must be rejected: malformed, wrong types, nested, huge, hostile ids, or no Unicode."""
    good = json.dumps(line(f"t{chance.randrange(1_000)}", roles=["DEV"], constraints={"rubric": ["a"]})).encode()
    ids = ["../../etc/passwd", "a/b", "-rf", "", "a" * 121, "t\u0000", "\ud800", "a..b", "<script>", "${x}", "%s", "п"]
    wrong = [None, 5, -1, 1e400, [], {}, True, "\ud83d", [[[[1]]]], {"a": {"b": {}}}, "x" * 3_000, 10**400]
    kinds: list[Callable[[], bytes]] = [
        lambda: bytes(chance.randrange(256) for _ in range(chance.randrange(60))),
        lambda: good[: chance.randrange(1, len(good) - 1)],
        lambda: good.replace(b"rubric", bytes([chance.randrange(128, 256)])),
        lambda: good.replace(b"{", b"{" * chance.randrange(2, 500), 1),
        lambda: b'{"task_id":"t1","description":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        lambda: b'{"task_id":"t1","description":"d","constraints":{"metadata":' + b'{"a":' * 900 + b"1" + b"}" * 902,
        lambda: json.dumps(line("t1", "d" * chance.randrange(100_001, 250_000))).encode(),
        lambda: json.dumps({"task_id": chance.choice(ids), "description": "d"}).encode(),
        lambda: json.dumps(line("t1", **{chance.choice(["rounds", "num_agents", "quorum"]): chance.choice([-1, 99, "x", 1.5, []])})).encode(),
        lambda: json.dumps({"task_id": chance.choice(wrong), "description": chance.choice(wrong)}).encode(),
        lambda: json.dumps(line("t1", **{"".join(chance.choices("abc\ud800<>&", k=6)): 1})).encode(),
        lambda: json.dumps({"event_type": REQUESTED, "payload": chance.choice(wrong), "idempotency_key": chance.choice(wrong)}).encode(),
        lambda: b'{"task_id":"t1","description":"d","description":"e"}',
        lambda: b"\xef\xbb\xbf" + good[1:],
        lambda: json.dumps(chance.choice([*wrong, [line("t1")]])).encode(),
        lambda: b"",
    ]  # fmt: skip
    return chance.choice(kinds)()
