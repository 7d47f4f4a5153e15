"""`fleet backlog`: looks at backlogs without an engine. Also what other commands share that read them."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import click

from fleet_pipeline.cli.common import flags, json_option
from fleet_pipeline.common.errors import COMPLETED, INVALID, SOME_FAILED
from fleet_pipeline.common.text import printable
from fleet_pipeline.ingest.backlog import Backlog, read_backlog, read_backlogs
from fleet_pipeline.ingest.columns import Preset, hint
from fleet_pipeline.services.fleet import Fleet
from fleet_pipeline.settings import Settings, load_settings

MOST_SHOWN = 3  # refusals of a kind
MOST_KINDS = 12
MOST_COLUMNS = 20
_VALUES = re.compile(r"'[^']*'|\d+")  # what differs between two refusals of a kind


def backlog_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how a file of another program is read."""
    for option in (
        click.option(
            "--strict", is_flag=True, default=None, help="Refuse columns that no field is made of, not ignore them."
        ),
        click.option(
            "--map",
            "mappings",
            multiple=True,
            metavar="FIELD=COLUMN[,COLUMN]",
            help="Columns of a field, such as task_id=Key; several are joined. Repeat for each field.",
        ),
        click.option("--preset", type=click.Choice(get_args(Preset)), help="Whose export BACKLOG is."),
    ):
        command = option(command)
    return command


def option_flags(preset: str | None, mappings: Sequence[str], strict: bool | None) -> dict[str, Any]:
    """The same as keywords of `flags`."""
    mapping = {}
    for one in mappings:
        field, found, columns = one.partition("=")
        if not (found and field.strip() and columns.strip()):
            raise click.BadParameter(f"{one!r}: expected FIELD=COLUMN, such as task_id=Key", param_hint="--map")
        mapping[field.strip()] = [column.strip() for column in columns.split(",")]
    return {"backlog__preset": preset, "backlog__map": mapping or None, "backlog__strict": strict}


class FileRefusal(NamedTuple):
    """A refused record, with its file."""

    file: str
    line: int
    field: str
    error: str


class Reading(NamedTuple):
    """What the files of a command hold, together."""

    backlogs: Mapping[str, Backlog]

    @property
    def tasks(self) -> list[Any]:
        return [task for backlog in self.backlogs.values() for task in backlog.tasks]

    @property
    def refused(self) -> list[FileRefusal]:
        return [
            FileRefusal(file, refusal.line, refusal.field, refusal.error)
            for file, backlog in self.backlogs.items()
            for refusal in backlog.refused
        ]

    @property
    def ignored(self) -> list[str]:
        """Columns that no field was made of, in the order of the files."""
        return list(dict.fromkeys(name for backlog in self.backlogs.values() for name in backlog.ignored))


def read(locations: Sequence[str], settings: Settings) -> Reading:
    """Read all of them. Raises `InvalidInput` for a single file that cannot be read as a whole."""
    fleet = Fleet.of(settings)
    reading = Reading(read_backlogs(locations, fleet.roles, fleet.backlog_options))
    if len(reading.backlogs) == 1:
        (file, backlog), *_ = reading.backlogs.items()
        if any(refusal.line == 0 for refusal in backlog.refused) and not backlog.tasks:
            read_backlog(file, fleet.roles, fleet.backlog_options)  # raises the same with its reason
    return reading


def report(reading: Reading) -> None:
    """Say on standard error what is ignored and what is refused: each kind once, with a count and the first of it."""
    for line in problem_lines(reading):
        click.echo(printable(line), err=True)


def problem_lines(reading: Reading) -> Iterator[str]:
    if reading.ignored:
        shown = [f"{name} (did you mean {hint(name)}?)" if hint(name) else name for name in reading.ignored]
        more = f" and {len(shown) - MOST_COLUMNS} more" if len(shown) > MOST_COLUMNS else ""
        yield f"ignored: {', '.join(name[:80] for name in shown[:MOST_COLUMNS])}{more}; --strict refuses them"
    kinds: dict[tuple[str, str, str], list[FileRefusal]] = {}
    for refusal in reading.refused:
        kinds.setdefault((refusal.file, refusal.field, _VALUES.sub("*", refusal.error)), []).append(refusal)
    several = len(reading.backlogs) > 1
    for refusals in list(kinds.values())[:MOST_KINDS]:
        for refusal in refusals[:MOST_SHOWN]:
            line = f"line {refusal.line}: " if refusal.line else ""
            yield f"refused: {f'{refusal.file}: ' if several else ''}{line}{refusal.field[:80]}: {refusal.error}"
        if len(refusals) > MOST_SHOWN:
            yield f"  ... and {len(refusals) - MOST_SHOWN} more of this kind (--json lists all)"
    if len(kinds) > MOST_KINDS:
        rest = sum(len(refusals) for refusals in list(kinds.values())[MOST_KINDS:])
        yield f"  ... and {rest} more of {len(kinds) - MOST_KINDS} other kinds (--json lists all)"


@click.group()
def backlog() -> None:
    """Look at a backlog before it is run."""


@backlog.command()
@click.argument("backlogs", metavar="BACKLOG...", nargs=-1, required=True)
@backlog_options
@json_option
def check(
    backlogs: tuple[str, ...], preset: str | None, mappings: tuple[str, ...], strict: bool | None, as_json: bool
) -> None:
    """Show what of BACKLOG would run, what is ignored, and what is refused. Starts no engine and stores nothing.

    Exit code 3 where something is refused, 2 where nothing would run.

    \b
    fleet backlog check tasks.csv
    fleet backlog check export.csv --preset jira
    fleet backlog check sheet.csv --map task_id=Key --map description=Title,Details --json | jq .refused
    """
    settings = load_settings(flags(**option_flags(preset, mappings, strict)))
    reading = read(backlogs, settings)
    tasks = reading.tasks
    if as_json:
        document = {
            "tasks": [task.model_dump(mode="json", exclude_defaults=True) for task in tasks],
            "ignored": reading.ignored,
            "refused": [refusal._asdict() for refusal in reading.refused],
        }
        click.echo(json.dumps(document, indent=2))
    else:
        for task in tasks[:MOST_COLUMNS]:
            first_line = next(iter(task.description.strip().splitlines()), "")
            click.echo(printable(f"{task.task_id}  {','.join(task.roles)}  {first_line[:80]}"))
        if len(tasks) > MOST_COLUMNS:
            click.echo(f"... and {len(tasks) - MOST_COLUMNS} more (--json lists all)")
        report(reading)
        deliberations = sum(len(task.roles) for task in tasks)
        click.echo(f"{len(tasks)} tasks would run as {deliberations} deliberations, {len(reading.refused)} refusals")
    sys.exit(INVALID if not tasks else SOME_FAILED if reading.refused else COMPLETED)
