"""`fleet export`."""

import sys
from pathlib import Path

import click

from fleet_pipeline.cli.common import fail, flags, storage_option
from fleet_pipeline.common.errors import BROKE, COMPLETED, INVALID, SOME_FAILED
from fleet_pipeline.common.text import printable
from fleet_pipeline.deliberation.task import is_deliberation_id
from fleet_pipeline.services.fleet import Fleet
from fleet_pipeline.settings import load_settings
from fleet_pipeline.storage.export import FORMATS, export as write
from fleet_pipeline.storage.schemas import TABLES, TOOL_CALLS, TableName

EXPORTED = {**TABLES, TOOL_CALLS.name: TOOL_CALLS}


@click.command()
@click.argument("deliberation_ids", nargs=-1)
@click.option("--format", "form", type=click.Choice(FORMATS), help="By the name of FILE where absent.")
@click.option("--out", required=True, metavar="FILE", help="The file to write; - for standard output.")
@click.option("--table", type=click.Choice(list(EXPORTED)), default="deliberations", show_default=True)
@storage_option
def export(
    deliberation_ids: tuple[str, ...], form: str | None, out: str, table: TableName, storage: str | None
) -> None:
    """Put a table of many deliberations into one file, for analysis: all of them, or those that are named.

    Exit code 3 where some cannot be read: they are named, and the others are written. Texts are written as
    they are: a spreadsheet takes a CSV cell that begins with = for a formula.

    \b
    fleet export --out deliberations.parquet
    fleet export --table proposals --format csv --out - | head
    fleet export --table utterances --out one.jsonl rate-limiter.dev
    """
    form = form or out.rpartition(".")[2].lower()
    if form not in FORMATS:
        raise click.BadParameter(f"expected {', '.join(FORMATS)}", param_hint="--format")
    if out == "-" and sys.stdout.isatty():
        raise click.BadParameter(
            "texts of models are not written to a terminal; name a file, or pipe it", param_hint="--out"
        )
    store = Fleet.of(load_settings(flags(storage=storage))).store
    by_process = table == TOOL_CALLS.name  # its files are those of processes, and not of deliberations
    stored = [key for key in store.names(table, ".parquet") if by_process or is_deliberation_id(key)]
    if by_process and deliberation_ids:
        fail(f"{table} is exported whole: name no deliberations, and choose by the column deliberation_id", INVALID)
    if unknown := sorted(set(deliberation_ids) - set(stored)):
        fail(f"not in {table} of {store.url}: {', '.join(unknown[:5])}", INVALID)
    keys = list(deliberation_ids) or stored
    if not keys:
        fail(f"no {table} in {store.url} yet", INVALID)
    on_progress = (
        (lambda done: click.echo(f"{done} of {len(keys)}", err=True)) if len(keys) > 1_000 else (lambda done: None)
    )
    try:
        rows, damaged = write(
            store, EXPORTED[table], keys, form, sys.stdout.buffer if out == "-" else Path(out), on_progress
        )
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}", BROKE)
    for reason in damaged.values():
        click.echo(printable(f"fleet: {reason}"), err=True)
    click.echo(
        f"{rows} rows of {len(keys) - len(damaged)} {'files' if by_process else 'deliberations'} in {out}", err=True
    )
    raise SystemExit(SOME_FAILED if damaged else COMPLETED)
