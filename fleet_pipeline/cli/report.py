"""`fleet report`."""

import sys
from pathlib import Path

import click

from fleet_pipeline.cli.common import fail, flags, parse_since, storage_option
from fleet_pipeline.common.errors import BROKE
from fleet_pipeline.services.fleet import Fleet
from fleet_pipeline.settings import load_settings


@click.command()
@click.argument("run_id", required=False)
@click.option("--since", metavar="TIME", help="What finished since then: 2026-11-20, 2026-11-20T08:00, 90m, 12h or 7d.")
@click.option("--title", metavar="TEXT", help="What the page is called; which run it is of stands below.")
@click.option("--out", metavar="FILE", help="fleet-report.html where absent; - for standard output.")
@storage_option
def report(run_id: str | None, since: str | None, title: str | None, out: str | None, storage: str | None) -> None:
    """Write one HTML file on a run: figures, pictures, failures, and every deliberation in full.

    Of the last run, of the one that is named (the first letters of its id will do), or of what finished since a
    time. The file needs no network. A small script of its own finds, filters and sorts; all can be read without it.

    \b
    fleet report
    fleet report 3f0c2a91 --out nightly.html --title "The night's backlog"
    fleet report --since 12h --storage s3://bucket/fleet
    """
    from fleet_pipeline.services.run_report import chosen, outcome_table, write, write_file

    if run_id and since:
        raise click.UsageError("name a run, or a time with --since")
    store = Fleet.of(load_settings(flags(storage=storage))).store

    def on_progress(done: int, total: int) -> None:
        if total > 1_000:
            click.echo(f"read {done} of {total}", err=True)

    about, rows = chosen(outcome_table(store, on_progress=on_progress), run_id, parse_since(since), store.url)
    if out == "-":
        write(sys.stdout, store, about, rows, title)
        return
    file = Path(out or "fleet-report.html")
    if file.is_dir():
        file /= "fleet-report.html"
    try:
        write_file(file, store, about, rows, title)
    except OSError as error:
        fail(f"cannot write {file}: {error.strerror or error}", BROKE)
    click.echo(f"{about}: {len(rows)} deliberations in {file} ({file.stat().st_size / 1e6:.1f} MB)", err=True)
