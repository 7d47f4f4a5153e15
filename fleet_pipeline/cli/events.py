"""`fleet events`: commands for the broker and its streams."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING

import click

from fleet_pipeline.cli.common import flags, json_option, parse_since, storage_option
from fleet_pipeline.common.errors import SOME_FAILED, InvalidInput
from fleet_pipeline.common.text import printable
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.services.fleet import Fleet
from fleet_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from fleet_pipeline.services.publishing import PublishSummary

_nats = click.option("--nats", metavar="URL", help="The broker; nats.url of the settings where absent.")
_since = click.option("--since", metavar="TIME", help="Finished since: 2026-11-20, 2026-11-20T08:00, 90m, 12h or 7d.")


@click.group()
def events() -> None:
    """The broker: what goes to it, and whether it can take it."""


@events.command()
@_nats
@click.option(
    "--replicas",
    type=click.IntRange(1, 5),
    default=1,
    show_default=True,
    help="How many brokers of a cluster keep each stream that is made: with 3, one may be lost.",
)
@json_option
def check(nats: str | None, replicas: int, as_json: bool) -> None:
    """Make the streams that are absent, and say what differs from those declared.

    A stream that is there is never changed. Exit code 1 where events would be lost.

    \b
    fleet events check --nats nats://broker:4222
    FLEET_NATS__USER=setup FLEET_NATS__PASSWORD=... fleet events check --json
    """
    from fleet_pipeline.events.connection import run_blocking
    from fleet_pipeline.events.options import without_secrets
    from fleet_pipeline.events.publisher import prepare_broker
    from fleet_pipeline.events.streams import STREAMS

    broker = _required_broker(load_settings(flags(nats__url=nats)))
    remarks = run_blocking(broker, partial(prepare_broker, replicas=replicas))
    if as_json:
        streams = {stream.name: list(stream.subjects) for stream in STREAMS}
        document = {"broker": without_secrets(broker.url or ""), "streams": streams, "remarks": remarks}
        click.echo(json.dumps(document, indent=2))
        return
    for stream in STREAMS:
        click.echo(f"{stream.name:<22} {', '.join(stream.subjects)}")
    for remark in remarks:
        click.echo(printable(f"note: {remark}"))


@events.command()
@click.argument("event_type", required=False)
def schema(event_type: str | None) -> None:
    """Print the JSON Schema of an event, or of all by their types.

    \b
    fleet events schema deliberation.completed
    fleet events schema | jq keys
    """
    from fleet_pipeline.services.event_schemas import schemas

    schema_by_type = schemas()
    if event_type is not None and event_type not in schema_by_type:
        raise InvalidInput(f"no event {event_type!r}; there are {', '.join(schema_by_type)}")
    click.echo(json.dumps(schema_by_type[event_type] if event_type else schema_by_type, indent=2))


@events.command()
@click.argument("deliberation_ids", nargs=-1)
@_since
@storage_option
@_nats
@json_option
def replay(
    deliberation_ids: tuple[str, ...], since: str | None, storage: str | None, nats: str | None, as_json: bool
) -> None:
    """Send events again from the results on disk, under their own idempotency keys.

    Of the deliberations named, or of those finished since a time. What the broker has sent within the hour it
    drops; older ones it stores again, and consumers know them by their keys. To fill gaps alone, use reconcile.

    \b
    fleet events replay rate-limiter.dev rate-limiter.qa
    fleet events replay --since 12h --nats nats://broker:4222
    """
    from fleet_pipeline.services.publishing import PublishSummary, finished_keys, replay as send_again

    settings = load_settings(flags(storage=storage, nats__url=nats))
    store, broker = Fleet.of(settings).store, _required_broker(settings)
    if not deliberation_ids and since is None:
        raise InvalidInput("name deliberations, or a time with --since; `fleet events reconcile` sends what is missing")
    total = PublishSummary()
    finished = finished_keys(store, parse_since(since), total.unreadable)
    if unknown := [key for key in deliberation_ids if key not in finished]:
        raise InvalidInput(f"no finished deliberation {', '.join(unknown[:5])} in {settings.storage}")
    keys = list(deliberation_ids) or finished
    send_again(store, broker, keys, total)
    _print_summary(total, len(keys), as_json)


@events.command()
@_since
@storage_option
@_nats
@json_option
def reconcile(since: str | None, storage: str | None, nats: str | None, as_json: bool) -> None:
    """Compare the results on disk with the streams, and send the events that are missing there.

    After a broker has lost data, or a sensor its cursor. Events that the streams have let go by age are
    missing too: name a time that is younger than their limit (7 days for agent responses).

    \b
    fleet events reconcile --since 7d
    """
    from fleet_pipeline.services.publishing import PublishSummary, finished_keys, reconcile as send_missing

    settings = load_settings(flags(storage=storage, nats__url=nats))
    store, broker = Fleet.of(settings).store, _required_broker(settings)
    total = PublishSummary()
    keys = finished_keys(store, parse_since(since or "7d"), total.unreadable)
    send_missing(store, broker, keys, total)
    _print_summary(total, len(keys), as_json)


def _required_broker(settings: Settings) -> NatsOptions:
    if settings.nats.url is None:
        raise InvalidInput("no broker is configured: --nats URL, FLEET_NATS__URL, or nats.url in fleet.toml")
    return settings.nats


def _print_summary(total: PublishSummary, deliberations: int, as_json: bool) -> None:
    sent, duplicates = len(total.receipts.stored), len(total.receipts.duplicates)
    if as_json:
        document = {
            "deliberations": deliberations,
            "sent": sent,
            "known_to_the_broker": duplicates,
            "unreadable": total.unreadable,
        }
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(f"{sent} events of {deliberations} deliberations sent, {duplicates} known to the broker")
    for key, reason in total.unreadable.items():
        click.echo(printable(f"not sent: {key}: {reason}"), err=True)
    if total.unreadable:
        sys.exit(SOME_FAILED)
