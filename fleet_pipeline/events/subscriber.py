"""Watching events arrive."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Queue
from typing import Any

from fleet_pipeline.events.publisher import connect
from fleet_pipeline.events.streams import DELIBERATIONS

PATIENCE_SECONDS = 10.0
Arrived = Callable[[int], Iterator[tuple[str, dict[str, Any]]]]


@contextmanager
def arriving(url: str) -> Iterator[Arrived]:
    """Subscribe to completion events while the block runs.

    Gives a function that takes how many to wait for and yields (subject, event) as they come; it
    gives up when none has come for `PATIENCE_SECONDS`.
    """
    queue: Queue[tuple[str, dict[str, Any]]] = Queue()
    ready, stop = threading.Event(), threading.Event()

    async def listen() -> None:
        async with connect(url) as connection:

            async def heard(message: Any) -> None:
                queue.put((message.subject, json.loads(message.data)))

            for subject in DELIBERATIONS.subjects:
                await connection.subscribe(subject, cb=heard)
            await connection.flush()
            ready.set()
            await asyncio.to_thread(stop.wait)

    def arrived(expected: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for _ in range(expected):
            try:
                yield queue.get(timeout=PATIENCE_SECONDS)
            except Empty:
                return

    listener = threading.Thread(target=asyncio.run, args=(listen(),), daemon=True)
    listener.start()
    ready.wait(PATIENCE_SECONDS)
    try:
        yield arrived
    finally:
        stop.set()
        listener.join(PATIENCE_SECONDS)
