"""Gauges for Prometheus, from durable state: results, the Dagster instance, and the broker.

Nothing is counted as it happens. Every gauge reads the present state, so every process reports the same value, also
after a restart. A result file is read once, and again after it has changed.
"""

import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

import dagster as dg
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet_pipeline.common.errors import BrokerUnavailable, CorruptFile
from fleet_pipeline.deliberation.task import is_deliberation_id
from fleet_pipeline.events.connection import run_blocking
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.instance import metadata_keys
from fleet_pipeline.instance.names import TRANSCRIPTS
from fleet_pipeline.instance.partitions import STARTED, UNFINISHED
from fleet_pipeline.services.publishing import unpublished
from fleet_pipeline.services.status import StatusService, requests_at_the_broker
from fleet_pipeline.storage.schemas import DELIBERATIONS, TOOL_CALLS
from fleet_pipeline.storage.tables import read_rows
from fleet_pipeline.tools.toolbox import installed_families

TOKENS = ("prompt", "cached", "completion")
QUANTILES = (0.5, 0.95)
# Gauges of the engine's last run: name -> (metadata entry of what the run has said of its engine, help text).
_LAST_RUN_GAUGES = {
    "fleet_last_run_tokens_per_second": (metadata_keys.TOKENS_PER_SECOND, "Tokens generated a second."),
    "fleet_last_run_prefix_cache_hit_ratio": (metadata_keys.CACHE_HIT_RATE, "Share of prompt tokens from the cache."),
    "fleet_last_run_engine_start_seconds": (metadata_keys.ENGINE_START_SECONDS, "Seconds of all engine starts."),
}


def _family(name: str) -> str:
    """What a model has called in place of a family is no label: there would be no end of them."""
    return name if name in installed_families() else "other"


class _Result(NamedTuple):
    """What gauges need of a stored result, without its texts: a collector keeps one for each."""

    role: str
    wall_s: float | None
    tokens: dict[str, int]  # by kind


class FleetCollector(Collector):
    """Reads the state at every scrape. Use one per registry: it caches the results it has read."""

    def __init__(self, status_service: StatusService, nats: NatsOptions) -> None:
        self.status_service = status_service
        self.nats = nats
        self._one_at_a_time = threading.Lock()
        self._calls: dict[str, Counter[tuple[str, str]]] = {}  # by file of the audit
        self._read: dict[str, tuple[datetime, _Result]] = {}  # by id, with the modification time of its file

    def collect(self) -> Iterable[Metric]:
        with self._one_at_a_time:  # the server has one thread per scrape
            return list(self._collect())

    def _collect(self) -> Iterable[Metric]:
        self._read_results()
        deliberations = GaugeMetricFamily("fleet_deliberations", "Deliberations that are known.", labels=["status"])
        for status, count in self.status_service.counts().items():
            if status != "total_deliberations":
                deliberations.add_metric([status], count)
        yield deliberations
        rows = [row for _, row in self._read.values()]
        tokens = GaugeMetricFamily("fleet_stored_tokens", "Tokens that the stored results took.", labels=["kind"])
        for kind in TOKENS:
            tokens.add_metric([kind], sum(row.tokens[kind] for row in rows))
        yield tokens
        seconds = GaugeMetricFamily(
            "fleet_deliberation_seconds",
            "First to last answer, of the stored results: so many of a hundred were quicker.",
            labels=["role", "quantile"],
        )
        for role in sorted({row.role for row in rows}):
            durations = sorted(row.wall_s for row in rows if row.role == role and row.wall_s is not None)
            for quantile in QUANTILES if durations else ():
                seconds.add_metric([role, str(quantile)], durations[int(quantile * (len(durations) - 1))])
        yield seconds
        yield self._tool_calls()
        yield from self._queue()
        yield from self._last_run()

    def _tool_calls(self) -> Metric:
        """Files of the audit never change: each is read once."""
        store = self.status_service.store
        for key in store.mtimes(TOOL_CALLS.name, ".parquet").keys() - self._calls.keys():
            with suppress(CorruptFile):
                self._calls[key] = Counter(
                    (_family(row.family), row.outcome) for row in read_rows(store, TOOL_CALLS, key)
                )
        calls = GaugeMetricFamily("fleet_tool_calls", "Calls of tools in the audit.", labels=["family", "outcome"])
        for (family, outcome), count in sorted(sum(self._calls.values(), Counter[tuple[str, str]]()).items()):
            calls.add_metric([family, outcome], count)
        return calls

    def _read_results(self) -> None:
        mtimes = {
            key: mtime
            for key, mtime in self.status_service.store.mtimes("deliberations", ".parquet").items()
            if is_deliberation_id(key)
        }
        for key in self._read.keys() - mtimes.keys():  # pruned
            del self._read[key]
        for key, mtime in mtimes.items():
            if key in self._read and self._read[key][0] == mtime:
                continue
            try:
                rows = read_rows(self.status_service.store, DELIBERATIONS, key)
            except CorruptFile:
                continue
            for row in rows:
                tokens = {kind: int(getattr(row, f"{kind}_tokens")) for kind in TOKENS}
                self._read[key] = (mtime, _Result(row.role, row.wall_s, tokens))

    def _queue(self) -> Iterable[Metric]:
        instance = self.status_service.instance
        runs = GaugeMetricFamily("fleet_runs", "Dagster runs that have not ended.", labels=["state"])
        under_way = instance.get_runs_count(dg.RunsFilter(statuses=STARTED))
        runs.add_metric(["started"], under_way)
        runs.add_metric(["queued"], instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED)) - under_way)
        yield runs
        lag = len(unpublished(instance, self.nats))
        yield GaugeMetricFamily("fleet_events_lag", "Outcomes whose events have not been published yet.", value=lag)
        if self.nats.url is None:
            return
        requests = GaugeMetricFamily("fleet_requests", "Requests at the broker.", labels=["state"])
        try:
            counts, up = run_blocking(self.nats, requests_at_the_broker), 1
        except BrokerUnavailable:
            counts, up = {}, 0
        for name, count in counts.items():
            requests.add_metric([name.removeprefix("requests_")], count)
        yield requests
        yield GaugeMetricFamily("fleet_broker_up", "Whether the broker answers.", value=up)

    def _last_run(self) -> Iterable[Metric]:
        records = self.status_service.instance.fetch_observations(dg.AssetKey(TRANSCRIPTS), limit=1).records
        observation = records[0].asset_observation if records else None
        metadata = observation.metadata if observation else {}
        for name, (entry, text) in _LAST_RUN_GAUGES.items():
            if entry in metadata:
                yield GaugeMetricFamily(name, text, value=float(str(metadata[entry].value)))
