"""`fleet show`: one deliberation in full. `fleet explain`: its result in plain words."""

import json
import os
import shutil
import sys
import textwrap
from contextlib import nullcontext
from dataclasses import asdict

import click
from rich.console import Console

from fleet_pipeline.cli.common import flags, json_option, storage_option
from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.text import printable
from fleet_pipeline.deliberation.rows import OutcomeRow
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
    from fleet_pipeline.reports.actions import actions_page
    from fleet_pipeline.reports.terminal import deliberation_page
    from fleet_pipeline.storage.schemas import ARTIFACTS, OPERATIONS, PROPOSALS, UTTERANCES
    from fleet_pipeline.storage.tables import read_rows

    store = Fleet.of(load_settings(flags(storage=storage))).store
    outcome = _outcome(store, deliberation_id)
    seats, utterances = read_rows(store, PROPOSALS, deliberation_id), read_rows(store, UTTERANCES, deliberation_id)
    # Of this transcript: an earlier one may have had agents with tools.
    operations = [
        one for one in read_rows(store, OPERATIONS, deliberation_id) if one.fingerprint == outcome.fingerprint
    ]
    artifacts = [one for one in read_rows(store, ARTIFACTS, deliberation_id) if one.fingerprint == outcome.fingerprint]
    if as_json:
        plain = {"proposals": [asdict(seat) for seat in seats], "utterances": [asdict(one) for one in utterances]}
        if operations or artifacts:
            plain |= {
                "operations": [asdict(one) for one in operations],
                "artifacts": [asdict(one) for one in artifacts],
            }
        click.echo(json.dumps({"deliberation": asdict(outcome), **plain}, indent=2, default=str))
    else:
        console = Console(highlight=False)
        # -R shows colours, -F quits at once if all fits on the screen, -X leaves the text there.
        os.environ.setdefault("LESS", "-RFX")
        with console.pager(styles=True) if console.is_terminal else nullcontext():
            console.print(deliberation_page(outcome, seats, utterances))
            if operations or artifacts:
                console.print(actions_page(operations, artifacts))


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
    from fleet_pipeline.services.explanation import explanation
    from fleet_pipeline.storage.schemas import PROPOSALS

    store = Fleet.of(load_settings(flags(storage=storage))).store
    why = explanation(store, _outcome(store, deliberation_id))
    if as_json:
        footer = {"schema_version": PROPOSALS.version, **asdict(why.scoring)} if why.scoring else {}
        document = {"deliberation_id": deliberation_id, "explanation": why.lines, **footer}
        click.echo(json.dumps({**document, "proposals": [asdict(seat) for seat in why.seats]}, indent=2, default=str))
    else:
        lines = "\n".join(why.lines).split("\n")
        click.echo(printable("\n".join(map(_folded, lines) if sys.stdout.isatty() else lines)))


def _folded(line: str) -> str:
    """To the width of the terminal. What belongs to a line stays below its beginning."""
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    width = min(shutil.get_terminal_size((80, 24)).columns, 110)
    return textwrap.fill(line, max(width, 40), subsequent_indent=indent, drop_whitespace=True) if line else ""


def _outcome(store: Store, deliberation_id: str) -> OutcomeRow:
    """The outcome of a deliberation. Raises `InvalidInput`, which names similar ids, if there is none."""
    from fleet_pipeline.storage.schemas import DELIBERATIONS
    from fleet_pipeline.storage.tables import read_rows

    rows = read_rows(store, DELIBERATIONS, deliberation_id)
    if not rows:
        stored = store.names("deliberations", ".parquet")
        similar = [key for key in stored if key.startswith(deliberation_id.split(".")[0])] or stored
        hint = f"; there are {', '.join(similar[:5])}" if similar else "; nothing has been run there yet"
        raise InvalidInput(f"no deliberation {deliberation_id} in {store.url}{hint}")
    return rows[0]
