"""One tick of a sensor in a process of its own, killed at one of `POINTS`."""

import os
from pathlib import Path
from typing import NamedTuple

import dagster as dg
from nats.aio.msg import Msg

from fleet_pipeline.defs import sensors
from fleet_pipeline.defs.resources import TickOptions, default_resources
from fleet_pipeline.events import publisher, receiver
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.receiver import DeliveryPolicy
from fleet_pipeline.services import intake, publishing
from fleet_pipeline.services.intake import Intake
from fleet_pipeline.settings import Settings
from fleet_pipeline.storage.task_store import TaskStore
from fleet_pipeline_tests.support.deployment import instance_at
from fleet_pipeline_tests.support.kill_points import after, before, die, die_in


class Tick(NamedTuple):
    """What to evaluate, and where to kill it. A file keeps the cursor, as the daemon does after a tick."""

    sensor: str
    home: Path
    storage: Path
    url: str
    point: str

    @property
    def cursor(self) -> Path:
        return self.home.parent / "cursor"


def run_and_kill(tick: Tick) -> None:
    """Evaluate the tick in a process of its own, and assert that it was killed."""
    die_in(evaluate, tick)


def evaluate(tick: Tick) -> None:
    POINTS[tick.point]()
    settings = Settings(storage=str(tick.storage))
    with instance_at(tick.home) as instance:
        resource_names = {"completions": ("nats", "ticks")}.get(
            tick.sensor, ("nats", "ticks", "request_options", "backlog_options", "council", "storage")
        )
        ticks = TickOptions(wait_seconds=0.5, chunk=4, delivery=DeliveryPolicy(backoff_seconds=(1.0,)))
        resources = default_resources(settings) | {"nats": NatsOptions(url=tick.url), "ticks": ticks}
        cursor = tick.cursor.read_text() if tick.cursor.exists() else None
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={name: resources[name] for name in resource_names}
        )
        result = getattr(sensors, tick.sensor).evaluate_tick(context)
        if tick.point in ("before the cursor is kept", "before the run is made"):
            die()
        if result.cursor:
            tick.cursor.write_text(result.cursor)
        if tick.point == "after the cursor is kept":
            die()
    # The tick ended, so the point was never reached; `run_and_kill` fails on this exit code.
    os._exit(0)


OUT = {
    "before anything is published": before(publishing, "publish"),
    "in the midst of publishing": before(publisher, "_settle", 3),
    "after the acks": after(publishing, "publish"),
    "before the cursor is kept": lambda: None,
    "after the cursor is kept": lambda: None,
}
IN = {
    "when requests have been fetched": before(Intake, "take_messages"),
    "before the batch is written": before(intake, "put_batch"),
    "after the batch is written": after(intake, "put_batch"),
    "in the midst of the specs": after(TaskStore, "put_spec", 3),
    "before the partitions are added": before(intake, "register"),
    "after the partitions are added": after(intake, "register"),
    "before anything is acknowledged": after(Intake, "take_messages"),
    "before a poisonous one is put away": before(receiver, "_poisoned"),
    "before the second is acknowledged": before(Msg, "ack", 2),
    "before the acks are sent off": before(Msg, "term"),
    "after everything is acknowledged": after(sensors, "receive"),
    "before the run is made": lambda: None,
    "when a batch is about to be forgotten": before(intake, "settle"),
    "when a file is written and has not got its name": before(Path, "replace", 2),
}
POINTS = OUT | IN
