"""`fleet metrics`."""

import signal
import threading

import click

from fleet_pipeline.cli.common import answering_at, flags, storage_option
from fleet_pipeline.settings import load_settings


@click.command()
@click.option("--serve", "address", metavar="HOST:PORT", help="Answer there until it is told to stop.")
@click.option("--nats", metavar="URL", help="The broker; nats.url of the settings where absent.")
@storage_option
def metrics(address: str | None, nats: str | None, storage: str | None) -> None:
    """Print figures as Prometheus reads them, or answer its questions.

    Deliberations by status, tokens, durations, runs and requests that wait, events that are not published yet,
    speed and cache hits of the last run. k8s/components/monitoring/grafana.json is a dashboard of them. Beside
    /metrics it answers /healthz, and /readyz while the storage and Dagster's database do.

    \b
    fleet metrics
    fleet metrics --serve 127.0.0.1:9464
    """
    from prometheus_client import CollectorRegistry, generate_latest

    from fleet_pipeline.services.fleet import Fleet
    from fleet_pipeline.services.metrics import FleetCollector

    settings = load_settings(flags(storage=storage, nats__url=nats))
    with Fleet.of(settings).open_status() as status_service:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(FleetCollector(status_service, settings.nats))
        if address is None:
            click.echo(generate_latest(registry).decode(), nl=False)
            return
        stop = threading.Event()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, lambda *_: stop.set())
        with answering_at("--serve", address, lambda: None, status_service.check, registry):
            click.echo(f"http://{address}/metrics", err=True)
            stop.wait()
