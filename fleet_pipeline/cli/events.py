"""`fleet events`: the broker and its streams."""

from __future__ import annotations

import json

import click

from fleet_pipeline.cli.common import flags, json_option
from fleet_pipeline.deliberation.errors import InvalidInput
from fleet_pipeline.reports.text import printable
from fleet_pipeline.settings import load_settings


@click.group()
def events() -> None:
    """The broker: what goes to it, and whether it can take it."""


@events.command()
@click.option("--nats", metavar="URL", help="The broker; nats.url of the settings where absent.")
@json_option
def check(nats: str | None, as_json: bool) -> None:
    """Make the streams that are absent, and say what differs from those declared.

    A stream that is there is never changed. Exit code 1 where events would be lost.

    \b
    fleet events check --nats nats://broker:4222
    FLEET_NATS__USER=setup FLEET_NATS__PASSWORD=... fleet events check --json
    """
    from fleet_pipeline.events.options import without_secrets
    from fleet_pipeline.events.publisher import check as check_broker
    from fleet_pipeline.events.streams import STREAMS

    broker = load_settings(flags(nats__url=nats)).nats
    if broker.url is None:
        raise InvalidInput("no broker is configured: --nats URL, FLEET_NATS__URL, or nats.url in fleet.toml")
    remarks = check_broker(broker)
    if as_json:
        streams = {stream.name: list(stream.subjects) for stream in STREAMS}
        click.echo(
            json.dumps({"broker": without_secrets(broker.url), "streams": streams, "remarks": remarks}, indent=2)
        )
        return
    for stream in STREAMS:
        click.echo(f"{stream.name:<22} {', '.join(stream.subjects)}")
    for remark in remarks:
        click.echo(printable(f"note: {remark}"))
