"""What commands share: exit codes, options, errors that people can act on."""

from __future__ import annotations

import os
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from fleet_pipeline.deliberation.errors import InvalidInput
from fleet_pipeline.events.connection import BrokerUnavailable
from fleet_pipeline.events.streams import StreamMismatch
from fleet_pipeline.reports.text import printable
from fleet_pipeline.scoring.embeddings import EmbeddingsUnavailable
from fleet_pipeline.storage.store import StorageError

COMPLETED, BROKE, NOTHING_VALID, SOME_FAILED = 0, 1, 2, 3
INTERRUPTED = 130  # as shells say it
WIDTH = 160  # of tables where there is no terminal

storage_option = click.option("--storage", metavar="URL", help="Where results are kept: a folder or any fsspec URL.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


# What each command is for, as `fleet --help` lists them.
SECTIONS = {
    "Have deliberations held": {
        "run": "those of a backlog, here and now",
        "submit": "hand tasks to a pipeline that runs, and return at once",
        "status": "where they stand",
    },
    "Read what came of it": {
        "show": "one deliberation: winner, others, who said what",
        "explain": "why the winner won",
        "report": "a run as one HTML file",
        "export": "a table of many deliberations as one file",
        "score": "proposals made elsewhere, without an engine",
    },
    "Keep it running": {
        "doctor": "look at everything it needs, and say what to mend",
        "metrics": "figures for Prometheus",
        "events": "the broker: check, replay, reconcile, schemas",
        "serve": "answer questions on NATS",
        "prune": "remove what is old",
        "config": "the settings in force, and where each comes from",
        "home": "the folder of the Dagster instance",
    },
}


class Commands(click.Group):
    """Turns the errors that people can act on into one message and an exit code; lists commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InvalidInput as error:
            fail(str(error), NOTHING_VALID)
        except BrokenPipeError:
            # Whoever reads has had enough, as `head` has. Python would complain when it closes the pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(BROKE)
        except KeyboardInterrupt:
            fail("interrupted; what had finished is kept", INTERRUPTED)
        except (StorageError, BrokerUnavailable, StreamMismatch, EmbeddingsUnavailable, OSError) as error:
            fail(str(error), BROKE)


def fail(message: str, code: int) -> None:
    click.echo(f"fleet: {printable(message)}", err=True)
    sys.exit(code)


def flags(**values: Any) -> dict[str, Any]:
    """Flags that were given, nested like the settings: `engine__model` is `{"engine": {"model": ...}}`."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        if value is not None:
            *groups, leaf = name.split("__")
            place = nested
            for group in groups:
                place = place.setdefault(group, {})
            place[leaf] = value
    return nested


def moment(text: str | None) -> datetime | None:
    """A time, or an age, that was typed as `--since`."""
    if text is None:
        return None
    if age := re.fullmatch(r"(\d{1,6})([mhd])", text):
        unit = {"m": "minutes", "h": "hours", "d": "days"}[age[2]]
        try:
            return datetime.now(UTC) - timedelta(**{unit: int(age[1])})
        except OverflowError:
            raise InvalidInput(f"--since {text}: longer ago than there are dates") from None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"--since {text}: expected a time such as 2026-11-20T08:00, or an age such as 12h") from None
    return moment if moment.tzinfo else moment.astimezone()
