"""Waiting for processes to end."""

import time
from collections.abc import Iterable
from contextlib import suppress

import psutil


def wait_until_gone(processes: Iterable[psutil.Process]) -> None:
    """Return when none of them runs. A zombie counts as ended: the parent that should reap it may have ended first.

    There is no time limit, since a machine may be loaded. The time limit of the test finds a process that never ends.
    """
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.05)
