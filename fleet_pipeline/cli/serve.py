"""`fleet serve`: answers questions on NATS."""

import asyncio
import signal
from importlib.metadata import version
from typing import Any

import click

from fleet_pipeline.cli.common import answering_at, flags, storage_option
from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.settings import load_settings

# How long the loop that answers questions may be busy before it counts as stuck: it reads files of results meanwhile.
ALIVE_SECONDS = 10.0


@click.command()
@click.option("--nats", metavar="URL", help="The broker; nats.url of the settings where absent.")
@click.option("--health", metavar="HOST:PORT", help="Answer /healthz and /readyz there.")
@storage_option
def serve(nats: str | None, health: str | None, storage: str | None) -> None:
    """Answer questions on NATS: fleet.status, fleet.result and fleet.stats, until it is told to stop.

    Run one beside the Dagster daemon, or several: each question reaches one of them. It is ready while the broker, the
    storage and Dagster's database answer, and healthy while it works at all.

    \b
    fleet serve --nats nats://broker:4222 --health 0.0.0.0:8080
    nats request fleet.status '{"id": "rate-limiter.dev"}'
    """
    from fleet_pipeline.api.nats_service import STATS, Answer, serve as answer_questions
    from fleet_pipeline.events.connection import unavailable
    from fleet_pipeline.services.fleet import Fleet
    from fleet_pipeline.services.status import RequestStatusService

    settings = load_settings(flags(storage=storage, nats__url=nats))
    if settings.nats.url is None:
        raise InvalidInput("no broker is configured: --nats URL, FLEET_NATS__URL, or nats.url in fleet.toml")
    with Fleet.of(settings).open_status() as status_service:
        requests = RequestStatusService(status_service)

        async def answer(connection: Any, subject: str, key: str, request_id: str, with_texts: bool) -> Answer:
            if subject == STATS:
                return await requests.stats(connection)
            return await requests.status(connection, key, request_id, with_texts)

        connections: list[Any] = []
        loop = asyncio.new_event_loop()

        def alive() -> None:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(ALIVE_SECONDS)

        def ready() -> None:
            if not connections or not connections[0].is_connected:
                raise ConnectionError
            status_service.check()

        def tell(connection: Any) -> None:
            connections.append(connection)
            click.echo("answering on fleet.status, fleet.result, fleet.stats; Ctrl-C ends it", err=True)

        async def serve_until_signal() -> None:
            stop = asyncio.Event()
            for signal_number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(signal_number, stop.set)
            await answer_questions(settings.nats, answer, version("fleet-pipeline"), stop, tell)

        with (
            asyncio.Runner(loop_factory=lambda: loop) as runner,
            answering_at("--health", health, alive, ready),
            unavailable(settings.nats),
        ):
            runner.run(serve_until_signal())
