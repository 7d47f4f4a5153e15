"""Kills a process at a chosen point with SIGKILL, as an operating system does: nothing is cleaned up.

A point is a function's name, private ones included, before the call or after it. Rename such a function here as
well. Processes are forked from a server that has imported everything, so each costs a tenth of a second.
"""

import inspect
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

PROCESSES = multiprocessing.get_context("forkserver")
# Imported by the server, so that a forked process need not.
PRELOAD = [f"fleet_pipeline_tests.support.{name}" for name in ("killed_ticks", "killed_runs")]


def die_in(target: Callable[[Any], None], what: Any) -> None:
    """Call `target` in a process of its own, and assert that SIGKILL ended it."""
    PROCESSES.set_forkserver_preload(PRELOAD)
    process = PROCESSES.Process(target=target, args=(what,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"{what.point}: exit code {process.exitcode}"


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, nth: int = 1) -> Callable[[], None]:
    """Die at the nth call of `owner.name`, before it does anything."""
    return lambda: _instrument(owner, name, nth, done=False)


def after(owner: Any, name: str, nth: int = 1) -> Callable[[], None]:
    """Die when the nth call of `owner.name` returns."""
    return lambda: _instrument(owner, name, nth, done=True)


def _instrument(owner: Any, name: str, nth: int, *, done: bool) -> None:
    real, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and not done:
            die()
        result = real(*arguments, **keywords)
        if inspect.isawaitable(result):
            return awaited(result, calls)
        if calls == nth:
            die()
        return result

    async def awaited(result: Awaitable[Any], call: int) -> Any:
        value = await result
        if call == nth:
            die()
        return value

    setattr(owner, name, counted)
