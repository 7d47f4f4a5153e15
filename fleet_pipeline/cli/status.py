"""`fleet status`: where deliberations stand."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from fleet_pipeline.cli.common import flags, json_option, storage_option
from fleet_pipeline.common.errors import SOME_FAILED
from fleet_pipeline.common.text import printable
from fleet_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from fleet_pipeline.services.status import RequestStatusService, StatusService


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
    from fleet_pipeline.services.status import RequestStatusService

    settings = load_settings(flags(storage=storage))
    with Fleet.of(settings).open_status() as status_service:
        if not deliberation_ids:
            _overview(status_service, settings, as_json)
            return
        request_status = RequestStatusService(status_service, settings.nats)
        answers = [_answer(request_status, key, as_json) for key in deliberation_ids]
    if as_json:
        click.echo(json.dumps(answers, indent=2))
    else:
        from fleet_pipeline.reports.terminal import status_table

        Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(status_table(answers))
    sys.exit(0 if all(answer["status"] == "COMPLETED" for answer in answers) else SOME_FAILED)


def _answer(request_status: RequestStatusService, key: str, with_texts: bool) -> dict[str, Any]:
    """A deliberation's status. If the broker cannot be reached: the status known here, with an error."""
    from fleet_pipeline.common.errors import BrokerUnavailable

    try:
        return request_status.status(key, with_texts=with_texts)
    except BrokerUnavailable as error:
        answer = request_status.status_service.status(key, with_texts)
        return answer | {"error": f"not known here, and the broker cannot be asked: {error}"}


def _overview(status_service: StatusService, settings: Settings, as_json: bool) -> None:
    from fleet_pipeline.reports.terminal import overview

    states = {key: str(state) for key, state in status_service.statuses().items()}
    counts: dict[str, int] = {}
    for state in states.values():
        counts[state] = counts.get(state, 0) + 1
    broker_counts, broker_line = _broker_counts(settings)
    if as_json:
        click.echo(json.dumps({"counts": counts, **broker_counts, "deliberations": states}, indent=2))
        return
    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(overview(states, counts, settings.storage))
    if broker_line:
        click.echo(printable(broker_line))


def _broker_counts(settings: Settings) -> tuple[dict[str, Any], str]:
    """(counts, the same in words): requests that wait at the broker, and requests that were refused."""
    if settings.nats.url is None:
        return {}, ""
    from fleet_pipeline.common.errors import BrokerUnavailable
    from fleet_pipeline.services.status import requests_at_the_broker

    try:
        counts = requests_at_the_broker(settings.nats)
    except BrokerUnavailable as error:
        return {"broker_error": str(error)}, str(error)
    template = "requests at the broker: {requests_waiting} waiting to be taken, {requests_refused} refused"
    return dict(counts), template.format(**counts)
