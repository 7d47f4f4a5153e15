"""`fleet show`: one deliberation in full. `fleet explain`: its result in plain words."""

import json
import os
from contextlib import nullcontext
from typing import Any

import click
from rich.console import Console

from fleet_pipeline.cli.common import flags, json_option, storage_option
from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.text import printable
from fleet_pipeline.services.fleet import Fleet
from fleet_pipeline.settings import load_settings
from fleet_pipeline.storage.store import Store


@click.command()
@click.argument("deliberation_id")
@storage_option
@json_option
def show(deliberation_id: str, storage: str | None, as_json: bool) -> None:
    """Print a deliberation as a person wants to read it: task, winner, the others, who said what.

    \b
    fleet show rate-limiter.dev
    fleet show rate-limiter.dev --json | jq '.proposals[0].text'
    """
    from fleet_pipeline.reports.terminal import deliberation_page
    from fleet_pipeline.storage.tables import read_rows

    store = Fleet.of(load_settings(flags(storage=storage))).store
    outcome = _outcome(store, deliberation_id)
    tables = {name: read_rows(store, name, deliberation_id) for name in ("proposals", "utterances")}
    rows = {name: table.to_pylist() if table is not None else [] for name, table in tables.items()}
    if as_json:
        document = {"deliberation": outcome, "proposals": rows["proposals"], "utterances": rows["utterances"]}
        click.echo(json.dumps(document, indent=2, default=str))
    else:
        console = Console(highlight=False)
        # -R shows colours, -F quits at once if all fits on the screen, -X leaves the text there.
        os.environ.setdefault("LESS", "-RFX")
        with console.pager(styles=True) if console.is_terminal else nullcontext():
            console.print(deliberation_page(outcome, rows["proposals"], rows["utterances"]))


@click.command()
@click.argument("deliberation_id")
@storage_option
@json_option
def explain(deliberation_id: str, storage: str | None, as_json: bool) -> None:
    """Say in plain words why the winner won: parts and weights, what it covers and where, what checks found.

    \b
    fleet explain rate-limiter.dev
    fleet explain rate-limiter.dev --json | jq '.weights'
    """
    from fleet_pipeline.scoring.explain import explain as explain_in_words
    from fleet_pipeline.storage.tables import read_file, read_rows

    store = Fleet.of(load_settings(flags(storage=storage))).store
    outcome = _outcome(store, deliberation_id)
    proposals_file = read_file(store, "proposals", deliberation_id)
    seats, scoring = (proposals_file[0].to_pylist(), proposals_file[1]) if proposals_file else ([], {})
    scores = read_rows(store, "scores", deliberation_id)
    lines = explain_in_words(outcome, seats, scoring, scores.to_pylist() if scores is not None else [])
    if as_json:
        document = {"deliberation_id": deliberation_id, "explanation": lines, **scoring, "proposals": seats}
        click.echo(json.dumps(document, indent=2, default=str))
    else:
        click.echo(printable("\n".join(lines)))


def _outcome(store: Store, deliberation_id: str) -> dict[str, Any]:
    """The outcome of a deliberation. Raises `InvalidInput`, which names similar ids, if there is none."""
    from fleet_pipeline.storage.tables import read_rows

    table = read_rows(store, "deliberations", deliberation_id)
    if table is None:
        stored = store.names("deliberations", ".parquet")
        similar = [key for key in stored if key.startswith(deliberation_id.split(".")[0])] or stored
        hint = f"; there are {', '.join(similar[:5])}" if similar else "; nothing has been run there yet"
        raise InvalidInput(f"no deliberation {deliberation_id} in {store.url}{hint}")
    row: dict[str, Any] = table.to_pylist()[0]
    return row
