"""The command line. `fleet --help` lists the commands; `registry` holds them.

Exit codes: 0 all completed; 1 the pipeline broke; 2 usage, or nothing valid to run; 3 some were refused or
failed; 130 interrupted. Results go to standard output, everything else to standard error.
"""

import io
import os
import sys
import tempfile
import traceback
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from fleet_pipeline.cli.common import fail
from fleet_pipeline.cli.registry import COMMANDS, SECTIONS
from fleet_pipeline.common.errors import BROKE, INTERRUPTED, treatment

LAST_ERROR = Path(".fleet/logs/last-error.log")


class Commands(click.Group):
    """Imports a command when it is called. Turns errors that a person can act on into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{COMMANDS[cmd_name].module}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(entry.name, entry.help) for entry in entries])

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # A terminal of another encoding shows \\u6f22 for what it has no letter for, instead of an error.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            # The reader closed the pipe early, as `head` does. Python would complain when it closes its own end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(BROKE)
        except KeyboardInterrupt:
            fail("interrupted; what had finished is kept", INTERRUPTED)
        except Exception as error:  # noqa: BLE001 - no traceback reaches a person
            error_treatment = treatment(error)
            if error_treatment is None:
                fail(_unforeseen(error), BROKE)
            fail(str(error), error_treatment.exit_code)


def _unforeseen(error: Exception) -> str:
    """What to say of an error that nobody has words for. Its traceback goes to a file: it is for who mends the program."""
    said = (str(error).strip().splitlines() or [""])[0][:300]
    log = LAST_ERROR
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        with tempfile.NamedTemporaryFile(
            "w", prefix="fleet-error-", suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            file.write("".join(traceback.format_exception(error)))
        log = Path(file.name)
    return f"{type(error).__name__}: {said}; the whole error is in {log}"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("fleet-pipeline"))
def main() -> None:
    """Councils of LLM agents deliberate over a backlog, on Dagster and vLLM.

    \b
    fleet doctor                            is all there that is needed?
    fleet run backlog.jsonl --model MODEL   hold the deliberations, here and now
    fleet show rate-limiter.dev             read one: the winner, the others, who said what
    fleet report                            read a run: one HTML file
    fleet submit more.jsonl                 hand tasks to a pipeline that runs (make ui)
    fleet status                            where they stand

    Each command's --help shows examples. Exit codes: 0 all completed, 1 the pipeline broke, 2 usage, 3 some failed.
    """
