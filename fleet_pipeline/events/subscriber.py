"""Watching events arrive."""

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, Queue
from typing import Any, TypeVar

from fleet_pipeline.events.connection import connect
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.streams import OUTGOING

PATIENCE_SECONDS = 10.0
Kept = TypeVar("Kept")
Arrived = Callable[[Collection[str]], Iterator[Kept]]


@contextmanager
def arriving(options: NatsOptions, keep: Callable[[Envelope], Kept | None]) -> Iterator[Arrived[Kept]]:
    """Subscribe to completion events while the block runs, and hold of each what `keep` makes of it.

    Yields a function that takes idempotency keys and yields what is held of each as it arrives, where that is not None.
    It gives up when no event has arrived for `PATIENCE_SECONDS`. It skips all others: subscribers also get the repeats
    that the broker does not store.
    """
    queue: Queue[tuple[str, Kept | None]] = Queue()
    ready, stop = threading.Event(), threading.Event()

    async def listen() -> None:
        async with connect(options) as connection:

            async def enqueue(message: Any) -> None:
                # Other services may send other formats on these subjects.
                with suppress(ValueError):
                    event = Envelope.model_validate_json(message.data)
                    queue.put((event.idempotency_key, keep(event)))

            for subject in OUTGOING:
                await connection.subscribe(subject, cb=enqueue)
            await connection.flush()
            ready.set()
            await asyncio.to_thread(stop.wait)

    def arrived(keys: Collection[str]) -> Iterator[Kept]:
        missing = set(keys)
        while missing:
            try:
                key, kept = queue.get(timeout=PATIENCE_SECONDS)
            except Empty:
                return
            if key in missing:
                missing.remove(key)
                if kept is not None:
                    yield kept

    listener = threading.Thread(target=asyncio.run, args=(listen(),), daemon=True)
    listener.start()
    ready.wait(PATIENCE_SECONDS)
    try:
        yield arrived
    finally:
        stop.set()
        listener.join(PATIENCE_SECONDS)
