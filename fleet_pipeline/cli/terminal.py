"""The terminal of commands that hold an engine: logs go to a file, and SIGTERM is Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple


class Terminal(NamedTuple):
    out: IO[str]
    err: IO[str]


@contextmanager
def logs_to_file() -> Iterator[Terminal]:
    """Send the output of Dagster, vLLM and their native code to a file, by file descriptor. Yields the terminal."""
    log = Path(".fleet/logs/last-run.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    sys.stdout.flush()
    sys.stderr.flush()
    with (
        log.open("w", encoding="utf-8") as file,
        os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8") as out,
        os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8") as err,
    ):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield Terminal(out, err)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM (an evicted pod gets it) as Ctrl-C: the engine is shut down and the run closed.

    Dagster does the same while ops run. This covers the seconds before.
    """
    previous_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
