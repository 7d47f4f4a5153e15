"""One tick of a sensor in a process of its own, which can be killed at any point: kill -9, as an operating
system does it, with nothing cleaned up.

Processes are forked from a server that has imported everything, so that one costs a tenth of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
from nats.aio.msg import Msg

from fleet_pipeline.defs import announcements, intake, sensors
from fleet_pipeline.defs.intake import Intake
from fleet_pipeline.defs.resources import default_resources
from fleet_pipeline.events import intake as inlet
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.settings import Settings

PROCESSES = multiprocessing.get_context("forkserver")


class Tick(NamedTuple):
    """What to evaluate, and where to end it. The cursor is kept in a file, as the daemon keeps it after a tick."""

    sensor: str
    home: Path
    storage: Path
    url: str
    point: str

    @property
    def cursor(self) -> Path:
        return self.home.parent / "cursor"


def run_and_kill(tick: Tick) -> None:
    """Evaluate the tick in a process of its own, and make sure that it died where it should."""
    die_in(evaluate, tick)


def die_in(target: Callable[[Any], None], what: Any) -> None:
    """Call `target` in a process of its own, and make sure that it died."""
    PROCESSES.set_forkserver_preload([__name__, "fleet_pipeline_tests.killable_runs"])
    process = PROCESSES.Process(target=target, args=(what,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, f"{what.point}: exit code {process.exitcode}"


def evaluate(tick: Tick) -> None:
    sensors.WAIT_SECONDS = 0.5
    inlet.BACKOFF_SECONDS = (1.0,)
    POINTS[tick.point]()
    settings = Settings(storage=str(tick.storage))
    with dg.DagsterInstance.from_config(str(tick.home)) as instance:
        names = ("nats",) if tick.sensor == "completions" else ("nats", "request_options", "council", "storage")
        resources = default_resources(settings) | {"nats": NatsOptions(url=tick.url)}
        cursor = tick.cursor.read_text() if tick.cursor.exists() else None
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={name: resources[name] for name in names}
        )
        result = getattr(sensors, tick.sensor).evaluate_tick(context)
        if tick.point in ("before the cursor is kept", "before the run is made"):
            die()
        if result.cursor:
            tick.cursor.write_text(result.cursor)
        if tick.point == "after the cursor is kept":
            die()
    # It came to its end: the point was never reached, and `run_and_kill` says so.
    os._exit(0)


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, nth: int = 1) -> Callable[[], None]:
    """Die when `owner.name` is called for the nth time, before it does anything."""
    return lambda: _instrument(owner, name, nth, done=False)


def after(owner: Any, name: str, nth: int = 1) -> Callable[[], None]:
    """Die when `owner.name` has been called for the nth time, and has done what it does."""
    return lambda: _instrument(owner, name, nth, done=True)


def _instrument(owner: Any, name: str, nth: int, *, done: bool) -> None:
    real, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and not done:
            die()
        result = real(*arguments, **named)
        if calls == nth:
            die()
        return result

    setattr(owner, name, counted)


def _in_the_midst(count: int) -> Callable[[], None]:
    """Die when so many events have been stored, by the broker's own acks, and others are under way."""
    from fleet_pipeline.events import publisher

    def apply() -> None:
        publisher.CHUNK = 4
        _instrument(publisher, "_settle", count, done=False)

    return apply


OUT = {
    "before anything is published": before(announcements, "publish"),
    "in the midst of publishing": _in_the_midst(3),
    "after the acks": after(announcements, "publish"),
    "before the cursor is kept": lambda: None,
    "after the cursor is kept": lambda: None,
}
IN = {
    "when requests have been fetched": before(Intake, "take_messages"),
    "before the batch is written": before(intake, "put_batch"),
    "after the batch is written": after(intake, "put_batch"),
    "in the midst of the specs": after(intake, "put_spec", 3),
    "before the partitions are added": before(intake, "register"),
    "after the partitions are added": after(intake, "register"),
    "before anything is acknowledged": after(Intake, "take_messages"),
    "before a poisonous one is put away": before(inlet, "_poisoned"),
    "before the second is acknowledged": before(Msg, "ack", 2),
    "before the acks are sent off": before(Msg, "term"),
    "after everything is acknowledged": after(sensors, "receive"),
    "before the run is made": lambda: None,
    "when a batch is about to be forgotten": before(intake, "settle"),
    "when a file is written and has not got its name": before(Path, "replace", 2),
}
POINTS = OUT | IN
