"""Nothing is lost and nothing doubled, whoever is killed when: the sensors' process, the broker, the daemon."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from fleet_pipeline.api.client import AsyncClient, Client
from fleet_pipeline.common.errors import BrokerUnavailable
from fleet_pipeline.defs.resources import TickOptions
from fleet_pipeline.defs.sensors import completions
from fleet_pipeline.events import publisher
from fleet_pipeline.events.connection import connect
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.streams import PUBLISHED_STREAMS, ensure_streams
from fleet_pipeline.instance.names import OUTCOMES
from fleet_pipeline.instance.partitions import NAME
from fleet_pipeline.services.intake import Intake
from fleet_pipeline_tests.support.broker import Broker
from fleet_pipeline_tests.support.deployment import eventually, instance_at, make_home, start_daemon
from fleet_pipeline_tests.support.intakes import Intakes, line
from fleet_pipeline_tests.support.killed_ticks import IN, OUT, Tick, run_and_kill
from fleet_pipeline_tests.support.pipeline import Pipeline, put_described, silent_for

pytestmark = [pytest.mark.daemon, pytest.mark.broker]


def events(url: str) -> list[tuple[str, str]]:
    """(subject, idempotency key) of every event that the streams hold."""

    async def read() -> list[tuple[str, str]]:
        found = []
        async with connect(NatsOptions(url=url)) as connection:
            jetstream = connection.jetstream()
            await ensure_streams(jetstream, PUBLISHED_STREAMS)
            for stream in PUBLISHED_STREAMS:
                state = (await jetstream.stream_info(stream.name)).state
                for number in range(1, state.last_seq + 1):
                    message = await jetstream.get_msg(stream.name, seq=number)
                    found.append((message.subject, json.loads(message.data)["idempotency_key"]))
        return found

    return asyncio.run(read())


@pytest.fixture
def finished(pipeline: Pipeline) -> Pipeline:
    """Four good deliberations and a failed one."""
    keys = put_described(pipeline, "a", "b", "bad", "c", "d")
    pipeline.answer = silent_for("bad")
    pipeline.run(keys)
    return pipeline


EXPECTED = Counter(
    {
        "agent.response.completed": 12,
        "agent.response.failed": 3,
        "deliberation.completed": 4,
        "deliberation.failed": 1,
        "orchestration.deliberation.completed": 4,
    }
)


def publish_pending(pipeline: Pipeline, url: str, cursor: Path) -> None:
    with dg.build_sensor_context(
        instance=pipeline.instance,
        cursor=cursor.read_text() if cursor.exists() else None,
        resources={"nats": NatsOptions(url=url), "ticks": TickOptions(chunk=4)},
    ) as context:
        cursor.write_text(completions.evaluate_tick(context).cursor or "")


@pytest.mark.parametrize("point", OUT)
def test_killed_while_announcing_every_event_is_there_once(
    finished: Pipeline, nats_url: str, tmp_path: Path, point: str
) -> None:
    tick = Tick("completions", tmp_path / "dagster_home", finished.storage, nats_url, point)
    run_and_kill(tick)
    publish_pending(finished, nats_url, tick.cursor)
    found = events(nats_url)
    assert Counter(subject for subject, _ in found) == EXPECTED
    assert len({key for _, key in found}) == len(found)


REQUESTS = [line("t1"), line("t2", roles=["DEV", "QA"]), line("t3"), line("t1"), {"task_id": "poison"}]
KEYS = {"t1.dev", "t2.dev", "t2.qa", "t3.dev"}


@pytest.mark.parametrize("point", IN)
def test_killed_while_taking_requests_each_is_one_partition_and_one_run(
    pipeline: Pipeline, nats_url: str, tmp_path: Path, point: str
) -> None:
    intakes = Intakes(pipeline, nats_url)
    intakes.send(*REQUESTS)
    if point == "when a batch is about to be forgotten":
        intakes.launch(intakes.tick())
    run_and_kill(Tick("requests", tmp_path / "dagster_home", pipeline.storage, nats_url, point))
    quiet = 0
    while quiet < 2:
        tick = intakes.tick()
        intakes.launch(tick)
        quiet = 0 if tick.run_requests else quiet + 1
    assert sorted(intakes.partitions) == sorted(KEYS)
    runs = pipeline.instance.get_runs()
    ranges = [
        (run.tags["dagster/asset_partition_range_start"], run.tags["dagster/asset_partition_range_end"]) for run in runs
    ]
    assert len(runs) == len(set(ranges)) <= 2
    assert set(pipeline.table("deliberations")["deliberation_id"]) == KEYS
    assert set(pipeline.table("deliberations")["status"]) == {"completed"}
    assert len(intakes.poison()) == 1
    assert list((pipeline.storage / "pending").glob("*.json")) == []
    # Two starts at most: nothing that was said is said again.
    assert len(pipeline.asked) == len(KEYS) * 9


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    found = Broker(tmp_path / "nats")
    yield found
    if found.process and found.process.poll() is None:
        found.kill()


@pytest.mark.parametrize("settled", [1, 2, 3])
def test_with_the_broker_killed_while_announcing_every_event_is_there_once(
    finished: Pipeline, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: int
) -> None:
    real, calls = publisher._settle, 0

    async def kill_then_settle(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == settled:
            broker.kill()
        await real(*arguments)

    with monkeypatch.context() as killing:
        killing.setattr(publisher, "_settle", kill_then_settle)
        killing.setattr(publisher, "ACK_TIMEOUT_SECONDS", 1.0)
        with pytest.raises(BrokerUnavailable):
            publish_pending(finished, broker.url, tmp_path / "cursor")
    with pytest.raises(BrokerUnavailable):  # down for minutes: the cursor stays
        publish_pending(finished, broker.url, tmp_path / "cursor")
    finished.answer = silent_for()
    finished.run(put_described(finished, "meanwhile"))  # work goes on
    broker.start()
    publish_pending(finished, broker.url, tmp_path / "cursor")
    found = events(broker.url)
    assert Counter(subject for subject, _ in found) == EXPECTED + Counter(
        {"agent.response.completed": 3, "deliberation.completed": 1, "orchestration.deliberation.completed": 1}
    )
    assert len({key for _, key in found}) == len(found)


@pytest.mark.parametrize("when", ["before anything is durable", "after the batch is durable"])
def test_with_the_broker_killed_while_requests_are_taken_each_is_one_run(
    pipeline: Pipeline, broker: Broker, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    intakes = Intakes(pipeline, broker.url)
    intakes.timing(backoff_seconds=(1.0,))
    intakes.send(*REQUESTS)
    take = Intake.take_messages

    def killing(self: Intake, *arguments: Any, **named: Any) -> Any:
        if when == "before anything is durable":
            broker.kill()
        reasons = take(self, *arguments, **named)
        if when == "after the batch is durable":
            broker.kill()
        return reasons

    with monkeypatch.context() as patch:
        patch.setattr(Intake, "take_messages", killing)
        intakes.launch(intakes.tick())  # what is durable is run, broker or no broker
    broker.start()
    intakes.timing(wait_seconds=5.0)
    for _ in range(2):
        intakes.launch(intakes.tick())
    assert sorted(intakes.partitions) == sorted(KEYS)
    assert len(pipeline.instance.get_runs()) == 1
    assert len(intakes.poison()) == 1


def test_a_client_whose_broker_dies_submits_again_and_nothing_is_doubled(broker: Broker) -> None:
    tasks = [line(f"t{number}") for number in range(40)]

    async def submit() -> list[bool]:
        async with AsyncClient(broker.url) as fleet:
            await fleet.submit_all(tasks[:20])
            broker.kill()
            with pytest.raises(BrokerUnavailable):
                await fleet.submit_all(tasks)
            await asyncio.to_thread(broker.start)
            return [one.duplicate for one in await fleet.submit_all(tasks)]

    again = asyncio.run(submit())
    assert all(again[:20])

    async def count() -> int:
        async with connect(NatsOptions(url=broker.url)) as connection:
            return (await connection.jetstream().stream_info("DELIBERATION_REQUESTS")).state.messages

    assert asyncio.run(count()) == 40
    with Client(broker.url) as fleet:
        assert fleet.submit(tasks[0]).duplicate


# A daemon that is killed between taking a run from its queue and starting its process leaves it "starting". Dagster gives up such
# a run after 180 s (`run_monitoring.start_timeout_seconds`), and nothing else runs until then.
STARTING_SECONDS = 400.0


@pytest.mark.timeout(1_500)
def test_with_the_daemon_killed_again_and_again_all_requests_are_run_and_announced_once(
    tmp_path: Path, nats_url: str
) -> None:
    home, storage = make_home(tmp_path), tmp_path / "storage"
    servers = []
    with instance_at(home) as instance, Client(nats_url) as fleet:

        def has_key(key: str) -> bool:
            return instance.has_dynamic_partition(NAME, key)

        mtimes: list[tuple[str, Callable[[str], bool]]] = [
            ("as soon as the broker has it", lambda _: True),
            ("when its partition is there", has_key),
            ("when its run is there", lambda key: bool(runs_of(instance, key))),
            ("when its run has started", lambda key: any(one.start_time for one in runs_of(instance, key))),
            ("when it has its outcome", lambda key: (storage / f"deliberations/{key}.parquet").exists()),
        ]
        daemon = start_daemon(home, storage, nats_url)
        for number, (what, has_come) in enumerate(mtimes):
            (key,) = fleet.submit(line(f"t{number}")).deliberation_ids
            eventually(lambda key=key, has_come=has_come: has_come(key), what, STARTING_SECONDS)
            servers += psutil.Process(daemon.pid).children(recursive=True)
            daemon.kill()  # its code server, and the runs that this has started, are left
            daemon.wait()
            daemon = start_daemon(home, storage, nats_url)
        keys = {f"t{number}.dev" for number in range(len(mtimes))}
        try:
            told = lambda: [found for found in events(nats_url) if found[0].startswith("deliberation.")]  # noqa: E731
            eventually(lambda: len(told()) >= len(keys), "the events", STARTING_SECONDS)
            servers += psutil.Process(daemon.pid).children(recursive=True)
        finally:
            daemon.kill()
            daemon.wait()
            for one in servers:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        assert sorted(name.split(":")[0] for _, name in told()) == sorted(keys)
        assert {subject for subject, _ in told()} == {"deliberation.completed"}
        assert set(instance.get_dynamic_partitions(NAME)) == keys
        outcomes = instance.fetch_materializations(OUTCOMES, limit=100).records
        assert sorted(record.partition_key or "" for record in outcomes) == sorted(keys)


def runs_of(instance: dg.DagsterInstance, key: str) -> list[dg.RunRecord]:
    return list(instance.get_run_records(dg.RunsFilter(tags={"dagster/asset_partition_range_start": key})))
