"""`fleet metrics`."""

import signal
import threading

import click

from fleet_pipeline.cli.common import fail, flags, storage_option
from fleet_pipeline.common.errors import BROKE
from fleet_pipeline.settings import load_settings


@click.command()
@click.option("--serve", "address", metavar="HOST:PORT", help="Answer there until it is told to stop.")
@click.option("--nats", metavar="URL", help="The broker; nats.url of the settings where absent.")
@storage_option
def metrics(address: str | None, nats: str | None, storage: str | None) -> None:
    """Print figures as Prometheus reads them, or answer its questions.

    Deliberations by status, tokens, durations, runs and requests that wait, events that are not published yet,
    speed and cache hits of the last run. docs/grafana.json is a dashboard of them.

    \b
    fleet metrics
    fleet metrics --serve 127.0.0.1:9464
    """
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server

    from fleet_pipeline.services.fleet import Fleet
    from fleet_pipeline.services.metrics import FleetCollector

    settings = load_settings(flags(storage=storage, nats__url=nats))
    with Fleet.of(settings).open_status() as status_service:
        registry = CollectorRegistry(auto_describe=False)
        if address is None:
            registry.register(FleetCollector(status_service, settings.nats))
            click.echo(generate_latest(registry).decode(), nl=False)
            return
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65_535:
            raise click.BadParameter("expected HOST:PORT, such as 127.0.0.1:9464", param_hint="--serve")
        registry.register(FleetCollector(status_service, settings.nats))
        stop = threading.Event()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, lambda *_: stop.set())
        try:
            server, thread = start_http_server(int(port), host, registry)
        except OSError as error:
            fail(f"cannot answer at {address}: {error.strerror or error}", BROKE)
        click.echo(f"http://{address}/metrics", err=True)
        stop.wait()
        server.shutdown()
        thread.join()
