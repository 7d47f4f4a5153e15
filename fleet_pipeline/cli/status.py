"""`fleet status` and `fleet serve`: where deliberations stand, asked here or over NATS."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from fleet_pipeline.cli.common import SOME_FAILED, flags, json_option, storage_option
from fleet_pipeline.deliberation.errors import InvalidInput
from fleet_pipeline.reports.text import printable
from fleet_pipeline.settings import Settings, load_settings, read_roles
from fleet_pipeline.storage.store import Store

if TYPE_CHECKING:
    from fleet_pipeline.defs.status import Desk, Reception


@click.command()
@click.argument("deliberation_ids", nargs=-1)
@storage_option
@json_option
def status(deliberation_ids: tuple[str, ...], storage: str | None, as_json: bool) -> None:
    """Say where deliberations stand: UNKNOWN, PENDING, IN_PROGRESS, COMPLETED, FAILED or TIMEOUT.

    Without ids, how many there are of each, and those that have not completed. Answers come from the Dagster
    instance and the results, so that they are the same after any restart. Exit code 3 where one that is named
    has not completed.

    \b
    fleet status
    fleet status rate-limiter.dev rate-limiter.qa
    fleet status rate-limiter.dev --json | jq '.[0].results'
    """
    from fleet_pipeline.defs.status import Reception

    settings = load_settings(flags(storage=storage))
    with desk_of(settings) as desk:
        if not deliberation_ids:
            _overview(desk, settings, as_json)
            return
        reception = Reception(desk, settings.nats)
        answers = [_answer(reception, key, as_json) for key in deliberation_ids]
    if as_json:
        click.echo(json.dumps(answers, indent=2))
    else:
        from fleet_pipeline.reports.terminal import status_table

        Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(status_table(answers))
    sys.exit(0 if all(answer["status"] == "COMPLETED" for answer in answers) else SOME_FAILED)


@click.command()
@click.option("--nats", metavar="URL", help="The broker; nats.url of the settings where absent.")
@storage_option
def serve(nats: str | None, storage: str | None) -> None:
    """Answer questions on NATS: fleet.status, fleet.result and fleet.stats, until it is told to stop.

    Run one beside the Dagster daemon, or several: each question reaches one of them.

    \b
    fleet serve --nats nats://broker:4222
    nats request fleet.status '{"id": "rate-limiter.dev"}'
    """
    from fleet_pipeline.defs.status import Reception
    from fleet_pipeline.events.connection import ask
    from fleet_pipeline.events.service import STATS
    from fleet_pipeline.events.service import serve as answer_questions

    settings = load_settings(flags(storage=storage, nats__url=nats))
    if settings.nats.url is None:
        raise InvalidInput("no broker is configured: --nats URL, FLEET_NATS__URL, or nats.url in fleet.toml")
    with desk_of(settings) as desk:
        reception = Reception(desk, settings.nats)

        def answer(subject: str, key: str, request_id: str, with_texts: bool) -> dict[str, Any]:
            return reception.stats() if subject == STATS else reception.status(key, request_id, with_texts)

        async def until_told() -> None:
            stop = asyncio.Event()
            for name in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(name, stop.set)
            await answer_questions(
                settings.nats,
                answer,
                version("fleet-pipeline"),
                stop,
                lambda: click.echo("answering on fleet.status, fleet.result, fleet.stats; Ctrl-C ends it", err=True),
            )

        ask(settings.nats, until_told())


@contextmanager
def desk_of(settings: Settings) -> Iterator[Desk]:
    from dagster import DagsterInstance

    from fleet_pipeline import runs
    from fleet_pipeline.defs.status import Desk

    runs.instance_home()
    with DagsterInstance.get() as instance:
        yield Desk(instance, Store(settings.storage), read_roles(settings.council.roles_file))


def _answer(reception: Reception, key: str, with_texts: bool) -> dict[str, Any]:
    """What is known here, where the broker cannot be asked what it has."""
    from fleet_pipeline.events.connection import BrokerUnavailable

    try:
        return reception.status(key, with_texts=with_texts)
    except BrokerUnavailable as error:
        answer = reception.desk.status(key, with_texts)
        return answer | {"error": f"not known here, and the broker cannot be asked: {error}"}


def _overview(desk: Desk, settings: Settings, as_json: bool) -> None:
    from fleet_pipeline.reports.terminal import overview

    found = {key: str(state) for key, state in desk.statuses().items()}
    counts: dict[str, int] = {}
    for state in found.values():
        counts[state] = counts.get(state, 0) + 1
    broker, told = _told_by_the_broker(settings)
    if as_json:
        click.echo(json.dumps({"counts": counts, **broker, "deliberations": found}, indent=2))
        return
    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(overview(found, counts, settings.storage))
    if told:
        click.echo(printable(told))


def _told_by_the_broker(settings: Settings) -> tuple[dict[str, Any], str]:
    """(figures, the same in words) of the requests that nobody has taken yet, and of those that were refused."""
    if settings.nats.url is None:
        return {}, ""
    from fleet_pipeline.defs.status import requests_at_the_broker
    from fleet_pipeline.events.connection import BrokerUnavailable

    try:
        counts = requests_at_the_broker(settings.nats)
    except BrokerUnavailable as error:
        return {"broker_error": str(error)}, str(error)
    told = "requests at the broker: {requests_waiting} waiting to be taken, {requests_refused} refused"
    return dict(counts), told.format(**counts)
