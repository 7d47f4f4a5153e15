"""`fleet report`."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import click

from fleet_pipeline.cli.common import fail, flags, parse_since, storage_option
from fleet_pipeline.common.errors import BROKE, INVALID
from fleet_pipeline.services.fleet import Fleet
from fleet_pipeline.settings import Settings, load_settings


@click.command()
@click.argument("run_id", required=False)
@click.option("--since", metavar="TIME", help="What finished since then: 2026-11-20, 2026-11-20T08:00, 90m, 12h or 7d.")
@click.option(
    "--against",
    metavar="RUN|STORAGE",
    help="Compare with another run of the same tasks, also one that was replaced since, or with another storage.",
)
@click.option("--title", metavar="TEXT", help="What the page is called; which run it is of stands below.")
@click.option("--out", metavar="FILE", help="fleet-report.html where absent; - for standard output.")
@storage_option
def report(
    run_id: str | None, since: str | None, against: str | None, title: str | None, out: str | None, storage: str | None
) -> None:
    """Write one HTML file on a run: figures, pictures, failures, and every deliberation in full.

    Of the last run, of the one that is named (the first letters of its id will do), or of what finished since a
    time. The file needs no network. A small script of its own finds, filters and sorts; all can be read without it.

    \b
    fleet report
    fleet report 3f0c2a91 --out nightly.html --title "The night's backlog"
    fleet report --since 12h --storage s3://bucket/fleet
    fleet report 3f0c2a91 --against 77e1b0c4 --out two-models.html
    """
    from fleet_pipeline.services.run_report import chosen, outcome_table, write

    if run_id and since:
        raise click.UsageError("name a run, or a time with --since")
    settings = load_settings(flags(storage=storage))
    if since and against:
        raise click.UsageError("--against compares runs: name one, or leave --since out")
    if against:
        _compare(settings, run_id, against, title, out)
        return
    store = Fleet.of(settings).store

    def on_progress(done: int, total: int) -> None:
        if total > 1_000:
            click.echo(f"read {done} of {total}", err=True)

    about, rows = chosen(outcome_table(store, on_progress=on_progress), run_id, parse_since(since), store.url)
    _written(out, lambda file: write(file, store, about, rows, title), f"{about}: {len(rows)} deliberations")


def _compare(settings: Settings, run_id: str | None, against: str, title: str | None, out: str | None) -> None:
    from fleet_pipeline.reports.comparison import Side, write_comparison
    from fleet_pipeline.services.conclude import Rules
    from fleet_pipeline.services.earlier_runs import results_of
    from fleet_pipeline.services.run_report import chosen, outcome_table, reader
    from fleet_pipeline.storage.store import Store

    fleet = Fleet.of(settings)
    rules = Rules(settings.weights, settings.scoring, settings.judge, settings.council_checks)
    with ExitStack() as stack:

        def side(run: str) -> Side:
            found, store, rows = stack.enter_context(results_of(fleet.store, run, fleet.roles, rules))
            return Side(f"run {found[:8]}", rows, reader(store))

        if "://" in against or Path(against).is_dir():
            store = Store(against)
            rows = outcome_table(store)
            if rows.empty:
                fail(f"no deliberations in {against} yet", INVALID)
            other = Side(against, rows, reader(store))
        else:
            other = side(against)
        if run_id:
            one = side(run_id)
        else:
            _, rows = chosen(outcome_table(fleet.store), None, None, fleet.store.url)
            one = Side(f"run {rows['run_id'].iloc[0][:8]}", rows, reader(fleet.store))
        common = set(one.rows["deliberation_id"]) & set(other.rows["deliberation_id"])
        if not common:
            fail(f"{one.name} and {other.name} have no deliberation in common", INVALID)
        names = f"{one.name} and {other.name}"
        _written(out, lambda file: write_comparison(file, one, other, title), f"{names}: {len(common)} deliberations")


def _written(out: str | None, write: Callable[[IO[str]], object], what: str) -> None:
    """To a file, or to standard output."""
    from fleet_pipeline.services.run_report import write_whole

    if out == "-":
        write(sys.stdout)
        return
    file = Path(out or "fleet-report.html")
    if file.is_dir():
        file /= "fleet-report.html"
    try:
        write_whole(file, write)
    except OSError as error:
        fail(f"cannot write {file}: {error.strerror or error}", BROKE)
    click.echo(f"{what} in {file} ({file.stat().st_size / 1e6:.1f} MB)", err=True)
