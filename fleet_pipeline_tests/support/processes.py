"""Waiting for processes to end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

import psutil


def wait_until_gone(processes: Iterable[psutil.Process]) -> None:
    """Return when none of them runs. A zombie has ended: whoever should reap it may have ended before it.

    There is no limit in time: a machine may be loaded. What never ends is found by the limit of the whole test.
    """
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.05)
