"""Ending a process at any point: kill -9, as an operating system does it, with nothing cleaned up.

A point is a function by name, private ones included: before it does anything, or after it has done what it does.
Whoever renames one finds it here. Processes are forked from a server that has imported everything, so that one
costs a tenth of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

PROCESSES = multiprocessing.get_context("forkserver")
# What a forked process shall find imported.
PRELOAD = [f"fleet_pipeline_tests.support.{name}" for name in ("killed_ticks", "killed_runs")]


def die_in(target: Callable[[Any], None], what: Any) -> None:
    """Call `target` in a process of its own, and make sure that it died."""
    PROCESSES.set_forkserver_preload(PRELOAD)
    process = PROCESSES.Process(target=target, args=(what,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"{what.point}: exit code {process.exitcode}"


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
