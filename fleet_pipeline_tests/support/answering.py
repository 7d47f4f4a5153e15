"""Runs the NATS service in a thread; `fleet serve` runs it in a process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fleet_pipeline.api.nats_service import Answering, serve
from fleet_pipeline.events.options import NatsOptions


@contextmanager
def answering(nats: NatsOptions, answer: Answering) -> Iterator[None]:
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    service = serve(nats, answer, "0.1.0", stop, lambda _: ready.set())
    thread = threading.Thread(target=loop.run_until_complete, args=(service,))
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
