"""`fleet status`: where deliberations stand."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from fleet_pipeline.cli.common import console, flags, json_option, storage_option
from fleet_pipeline.common.errors import SOME_FAILED
from fleet_pipeline.common.text import printable
from fleet_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from fleet_pipeline.events.payloads import DeliberationStatus
    from fleet_pipeline.services.status import StatusService


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
    from fleet_pipeline.services.fleet import Fleet

    settings = load_settings(flags(storage=storage))
    with Fleet.of(settings).open_status() as status_service:
        if not deliberation_ids:
            _overview(status_service, settings, as_json)
            return
        answers = _answers(status_service, settings, deliberation_ids, as_json)
    if as_json:
        click.echo(json.dumps([answer.model_dump(mode="json") for answer in answers], indent=2))
    else:
        from fleet_pipeline.reports.terminal import status_table

        console().print(status_table(answers))
    sys.exit(0 if all(answer.status == "COMPLETED" for answer in answers) else SOME_FAILED)


def _answers(
    status_service: StatusService, settings: Settings, keys: Sequence[str], with_texts: bool
) -> list[DeliberationStatus]:
    """The status of each. The broker is asked about those that are not known here, if it can be reached."""
    from fleet_pipeline.common.errors import BrokerUnavailable
    from fleet_pipeline.events.connection import run_blocking
    from fleet_pipeline.events.payloads import Status
    from fleet_pipeline.services.status import RequestStatusService

    answers = {key: status_service.status(key, with_texts) for key in keys}
    unknown = [key for key, answer in answers.items() if answer.status is Status.UNKNOWN]

    async def ask(connection: Any) -> None:
        requests = RequestStatusService(status_service)
        for key in unknown:
            answers[key] = await requests.status(connection, key, with_texts=with_texts)

    if unknown and settings.nats.url is not None:
        try:
            run_blocking(settings.nats, ask)
        except BrokerUnavailable as error:
            for key in unknown:
                answers[key].error = f"not known here, and the broker cannot be asked: {error}"
    return [answers[key] for key in keys]


def _overview(status_service: StatusService, settings: Settings, as_json: bool) -> None:
    from fleet_pipeline.reports.terminal import MOST_ROWS, overview

    states = {key: str(state) for key, state in status_service.statuses().items()}
    counts = Counter(states.values())
    broker_counts, broker_line = _broker_counts(settings)
    failed = _failed(states) if as_json else _failed(states)[:MOST_ROWS]
    why = {key: error for key in failed if (error := status_service.status(key).error)}
    if as_json:
        document = {"counts": counts, **broker_counts, "deliberations": states, "reasons": why}
        click.echo(json.dumps(document, indent=2))
        return
    console().print(overview(states, counts, settings.storage, why))
    if broker_line:
        click.echo(printable(broker_line))


def _failed(states: Mapping[str, str]) -> list[str]:
    return [key for key, state in states.items() if state in ("FAILED", "TIMEOUT")]


def _broker_counts(settings: Settings) -> tuple[Mapping[str, int | str], str]:
    """(counts, the same in words): requests that wait at the broker, and requests that were refused."""
    if settings.nats.url is None:
        return {}, ""
    from fleet_pipeline.common.errors import BrokerUnavailable
    from fleet_pipeline.events.connection import run_blocking
    from fleet_pipeline.services.status import requests_at_the_broker

    try:
        counts = run_blocking(settings.nats, requests_at_the_broker)
    except BrokerUnavailable as error:
        return {"broker_error": str(error)}, str(error)
    template = "requests at the broker: {requests_waiting} waiting to be taken, {requests_refused} refused"
    return counts, template.format(**counts)
