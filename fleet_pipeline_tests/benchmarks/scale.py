"""What a large load asks of each part, from measured figures: `python -m fleet_pipeline_tests.benchmarks.scale`.

    python -m fleet_pipeline_tests.benchmarks.scale --per-day 1000000 --gpus 100

The load is evened out over the day. Files, events and messages of a deliberation are counted here, on 50 deliberations with a
scripted engine; the other figures are arguments, whose defaults were measured as docs/scale.md says. A share of 1 is as
much as the part can do.
"""

import argparse
from collections import Counter
from dataclasses import dataclass

from fleet_pipeline.storage.store import Store
from fleet_pipeline_tests.benchmarks.figures import Line, publish, takes_json
from fleet_pipeline_tests.benchmarks.overhead import as_shipped
from fleet_pipeline_tests.support.pipeline import Pipeline

DAY = 86_400
SAMPLE = 50
_WRITES, _READS, _LISTS = ("_write", "_upload", "_delete"), ("_read", "_read_end"), ("_listed",)


@dataclass(frozen=True)
class Counted:
    """Of one deliberation."""

    writes: float
    reads: float
    lists: float
    events: float
    kilobytes: float


def count() -> Counted:
    calls: Counter[str] = Counter()
    for name in (*_WRITES, *_READS, *_LISTS):
        _count_calls(name, calls)
    with as_shipped() as (instance, folder):
        pipeline = Pipeline(instance, folder / "storage")
        pipeline.run(pipeline.put(*(f"t{number}" for number in range(SAMPLE))))
        (run,) = instance.get_runs()
        events = len(instance.all_logs(run.run_id))
        size = sum(file.stat().st_size for file in (folder / "storage").rglob("*") if file.is_file())

    def each(names: tuple[str, ...]) -> float:
        return sum(calls[name] for name in names) / SAMPLE

    return Counted(each(_WRITES), each(_READS), each(_LISTS), events / SAMPLE, size / 1_000 / SAMPLE)


def _count_calls(name: str, calls: Counter[str]) -> None:
    own = getattr(Store, name)

    def counted(*arguments: object) -> object:
        calls[name] += 1
        return own(*arguments)

    setattr(Store, name, counted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-day", type=int, default=1_000_000, help="deliberations")
    parser.add_argument("--gpus", type=int, default=100)
    parser.add_argument("--tokens", type=float, default=2_633, help="generated for a deliberation")
    parser.add_argument("--tokens-per-second", type=float, default=9_177, help="of one GPU")
    parser.add_argument("--overhead-ms", type=float, default=70, help="of a processor core, for a deliberation")
    parser.add_argument("--event-ms", type=float, default=2.3, help="to store one event, with one writer at a time")
    parser.add_argument("--ui-keys", type=int, default=25_000, help="partitions at which Dagster's UI grows slow")
    parser.add_argument("--messages-per-second", type=float, default=13_000, help="of one nats-server, with acks")
    parser.add_argument("--messages", type=float, default=5, help="for a deliberation")
    takes_json(parser)
    load = parser.parse_args()
    one = count()
    rate = load.per_day / DAY
    hours = load.ui_keys / load.per_day * 24
    lines = [
        Line.one("deliberations a second", rate),
        Line.one("GPUs that generate all the time", rate * load.tokens / load.tokens_per_second),
        Line.one("share of the GPUs", rate * load.tokens / load.tokens_per_second / load.gpus),
        Line.one("hours until the UI's partitions are used up", hours),
        Line.one("Dagster's events, each", one.events),
        Line.one("Dagster's events a second", one.events * rate),
        Line.one("share of one event log with one writer", one.events * rate * load.event_ms / 1_000),
        Line.one("processor cores beside the engines", rate * load.overhead_ms / 1_000),
        Line.one("storage writes, each", one.writes),
        Line.one("storage writes a second", one.writes * rate),
        Line.one("storage reads, each", one.reads),
        Line.one("storage reads a second", one.reads * rate),
        Line.one("storage lists, each", one.lists),
        Line.one("files' size, GB a day", one.kilobytes * load.per_day / 1e6),
        Line.one("NATS messages a second", load.messages * rate),
        Line.one("share of one nats-server", load.messages * rate / load.messages_per_second),
    ]
    publish(f"{load.per_day} deliberations a day, {load.gpus} GPUs", lines, load.json)


if __name__ == "__main__":
    main()
