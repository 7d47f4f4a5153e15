"""Shared by the commands: options, parsing of `--since`, and the exit with an error message."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click

from fleet_pipeline.common.errors import BROKE, InvalidInput
from fleet_pipeline.common.text import printable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from rich.console import Console

    from fleet_pipeline.api.health import Check

# Columns of a table that goes into a pipe or a file: as many as it needs. Rich would take 80, and cut what is left.
WIDTH = 2_000

storage_option = click.option("--storage", metavar="URL", help="Where results are kept: a folder or any fsspec URL.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


@contextmanager
def answering_at(
    option: str, text: str | None, alive: Check, ready: Check, registry: CollectorRegistry | None = None
) -> Iterator[None]:
    """Answer over HTTP at the HOST:PORT that `option` names, while the block runs. Without one, just run the block."""
    from fleet_pipeline.api.health import Address, answering

    if text is None:
        yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(answering(Address.parse(text), alive, ready, registry))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=option) from None
        except OSError as error:
            fail(f"cannot answer at {text}: {error.strerror or error}", BROKE)
        yield


def console(file: IO[str] | None = None) -> Console:
    """Prints on a terminal in its width, and into a pipe or a file without a break in any line."""
    from rich.console import Console

    out = file or sys.stdout
    return Console(file=file, highlight=False, width=None if out.isatty() else WIDTH, soft_wrap=not out.isatty())


def fail(message: str, code: int) -> NoReturn:
    click.echo(f"fleet: {printable(message)}", err=True)
    sys.exit(code)


def flags(**values: Any) -> dict[str, Any]:
    """The flags that are not None, nested like the settings: `engine__model` is `{"engine": {"model": ...}}`."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        if value is not None:
            *groups, leaf = name.split("__")
            table = nested
            for group in groups:
                table = table.setdefault(group, {})
            table[leaf] = value
    return nested


def parse_since(text: str | None) -> datetime | None:
    """Parse `--since`: an ISO time (local if it names no zone) or an age such as 12h. Raises `InvalidInput`."""
    if text is None:
        return None
    if age := re.fullmatch(r"(\d{1,6})([mhd])", text):
        unit = {"m": "minutes", "h": "hours", "d": "days"}[age[2]]
        try:
            return datetime.now(UTC) - timedelta(**{unit: int(age[1])})
        except OverflowError:
            raise InvalidInput(f"--since {text}: longer ago than there are dates") from None
    try:
        since = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"--since {text}: expected a time such as 2026-11-20T08:00, or an age such as 12h") from None
    return since if since.tzinfo else since.astimezone()
