"""Threads beside the one that keeps the engine busy."""

import os
from contextlib import suppress


def give_way() -> None:
    """Called in a thread that works beside the engine's: it is not to push that aside when it is woken.

    The kernel lets a thread that has slept go first, so whoever woke one was set aside: on two cores that tools filled, to
    hand on one answer took 1.2 ms to wake the log and 0.9 ms to wake the hands. Of threads for batch work it does not.
    """
    with suppress(AttributeError, OSError):  # not Linux, or forbidden: then it costs what it did
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # 0: this thread
