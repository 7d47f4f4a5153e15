"""How many threads an engine in this process computes with, on cores that other processes use as well.

Threads of OpenMP wait for each other at the end of every operation. Where another process holds one of the cores, all of
them wait for the thread that has none: on 2 cores one busy process left 28 % of the tokens a second. With one thread
fewer 72 % were left. (Waiting without spinning left 82 % of a rate that was 38 % lower on a quiet machine.)
"""

import os
import time
from collections.abc import Callable, Sequence
from functools import cache

# How often the load is looked at. A look reads two files of /proc (0.06 ms).
EVERY_SECONDS = 0.2
# Cores that others must use, beyond those left to them, before one more is left to them; and the room that they must leave
# before it is taken back. In between nothing changes: at one threshold of a half, two threads and one took turns.
YIELD_AT, RETURN_AT = 0.6, 0.7


def fitting(threads: int, cores: int, others: float) -> int:
    """How many of `cores` to compute on, now `threads`, where other processes use `others` of them."""
    left = cores - threads
    if left + YIELD_AT < others or others < left - RETURN_AT:
        return min(max(cores - round(others), 1), cores)
    return threads


class Threads:
    """The threads of engines whose steps are called from this thread.

    `others` says how many of the cores other processes have used since it was called last.
    """

    def __init__(self, cores: int, others: Callable[[], float], set_threads: Callable[[int], None]) -> None:
        self.cores = self.count = cores
        self._others = others
        self._set = set_threads
        self._next = 0.0

    def look(self) -> None:
        """Follow the load, at most every `EVERY_SECONDS`. Call it between two steps."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_SECONDS
        count = fitting(self.count, self.cores, self._others())
        if count != self.count:
            self._set(count)
            self.count = count

    def take_back(self) -> None:
        """Compute on all cores again: the next engine in this process counts the threads that it finds."""
        if self.count != self.cores:
            self._set(self.cores)
            self.count = self.cores


def are_chosen() -> bool:
    """Whether a person has chosen this process's threads, or they cannot follow the load: that takes Linux."""
    return "OMP_NUM_THREADS" in os.environ or not hasattr(os, "sched_getaffinity")


@cache
def shared_cores() -> Threads:
    """The threads of the engines in this process, as many as the first one has started with."""
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController().select(user_api="openmp").lib_controllers
    most = [library.num_threads for library in libraries]

    def set_threads(count: int) -> None:
        for library, own in zip(libraries, most, strict=True):
            library.set_num_threads(min(count, own))  # of the calling thread

    cores = sorted(os.sched_getaffinity(0))
    return Threads(len(cores), _OtherProcesses(cores), set_threads)


class _OtherProcesses:
    """How many of `cores` other processes have used since the last call; 0 at the first."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._cores = cores
        self._last = self._used()

    def __call__(self) -> float:
        (before, busy_before, own_before), (now, busy, own) = self._last, self._used()
        self._last = (now, busy, own)
        return max((busy - busy_before) - (own - own_before), 0.0) / max(now - before, 1e-3)

    def _used(self) -> tuple[float, float, float]:
        """Seconds on a clock, seconds that the cores were busy, and seconds that this process was."""
        import psutil

        times = psutil.cpu_times(percpu=True)
        # `user` contains `guest`. A core that is offline has no line: then nothing is known, and nobody is seen.
        known = [times[core] for core in self._cores] if self._cores[-1] < len(times) else []
        own = psutil.Process().cpu_times()
        return (
            time.monotonic(),
            sum(core.user + core.nice + core.system + core.irq + core.softirq for core in known),
            (own.user + own.system) if known else 0.0,
        )
