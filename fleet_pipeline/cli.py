"""The command line: `fleet run`, `fleet show`, `fleet explain`, `fleet score`, `fleet config`.

Exit codes: 0 all completed; 3 some were refused or failed; 2 usage, or nothing valid to run; 1 the
pipeline broke. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fleet_pipeline.defs.progress import Progress
from fleet_pipeline.deliberation.errors import InvalidInput
from fleet_pipeline.events.publisher import BrokerUnavailable, Receipts, without_secrets
from fleet_pipeline.reports.text import printable
from fleet_pipeline.scoring.embeddings import EmbeddingsUnavailable
from fleet_pipeline.settings import Settings, load_settings, origins, read_roles
from fleet_pipeline.storage.backlog import Backlog, read_backlog
from fleet_pipeline.storage.store import StorageError, Store

WIDTH = 160  # of tables where there is no terminal
COMPLETED, BROKE, NOTHING_VALID, SOME_FAILED = 0, 1, 2, 3


class _Commands(click.Group):
    """Turns the errors that people can act on into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InvalidInput as error:
            _fail(str(error), NOTHING_VALID)
        except (StorageError, BrokerUnavailable, EmbeddingsUnavailable, OSError) as error:
            _fail(str(error), BROKE)


def _fail(message: str, code: int) -> None:
    click.echo(f"fleet: {printable(message)}", err=True)
    sys.exit(code)


_storage = click.option("--storage", metavar="URL", help="Where results are kept: a folder or any fsspec URL.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("fleet-pipeline"))
def main() -> None:
    """Councils of LLM agents deliberate over a backlog, on Dagster and vLLM.

    \b
    fleet run examples/backlog.jsonl --model /models/Qwen3-0.6B
    fleet show rate-limiter.dev
    fleet config
    """


@main.command()
@click.argument("backlog")
@_storage
@click.option(
    "--model",
    metavar="NAME_OR_PATH",
    help="A hub name, a local folder, or fleet-tiny, the demonstrator that comes with the package.",
)
@click.option("--nats", metavar="URL|embedded|off", help="Broker for completion events; embedded starts one.")
@click.option("--seed", type=click.IntRange(min=0), help="Run seed. Another one makes the councils speak anew.")
@_json
@click.option("--verbose", is_flag=True, help="Show the logs of Dagster and vLLM.")
def run(
    backlog: str,
    storage: str | None,
    model: str | None,
    nats: str | None,
    seed: int | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Deliberate over BACKLOG: JSON Lines, CSV or Parquet; - reads JSON Lines from standard input.

    Executes one Dagster run, recorded in DAGSTER_HOME (.fleet/dagster where that is not set), with
    one engine start. What is finished and was made from the same inputs is not run again.

    \b
    fleet run examples/backlog.jsonl --model Qwen/Qwen3-0.6B
    fleet run tasks.csv --storage s3://bucket/fleet --nats nats://broker:4222
    head -5 tasks.jsonl | fleet run - --model fleet-tiny --json | jq .deliberations
    """
    settings = load_settings(
        _flags(storage=storage, engine__model=model, council__seed=seed, nats__url=nats if _is_url(nats) else None)
    )
    read = read_backlog(backlog, read_roles(settings.council.roles_file))
    if not as_json:
        _print_refusals(read)
    if not read.tasks:
        if as_json:
            click.echo(json.dumps(_document(None, settings, [], read, None), indent=2))
        _fail(f"{backlog}: no valid task in it", NOTHING_VALID)
    with ExitStack() as stack:
        shown = nullcontext(_Terminal(sys.stdout, sys.stderr))
        terminal = stack.enter_context(shown if verbose else _logs_set_aside())
        url = None if nats == "off" else settings.nats.url
        if nats == "embedded":
            from fleet_pipeline.events.embedded import embedded_server

            url = stack.enter_context(embedded_server())
        code = _run(settings, read, url, as_json, terminal)
    sys.exit(code)


def _run(settings: Settings, read: Backlog, url: str | None, as_json: bool, terminal: _Terminal) -> int:
    from dagster import DagsterInstance

    from fleet_pipeline import runs
    from fleet_pipeline.events.publisher import check
    from fleet_pipeline.events.subscriber import arriving
    from fleet_pipeline.reports.terminal import ProgressLine, run_table

    if url:
        check(url)
    runs.instance_home()
    unannounced = ""
    out = Console(file=terminal.out, highlight=False, soft_wrap=not terminal.out.isatty())
    err = Console(file=terminal.err, highlight=False, soft_wrap=not terminal.err.isatty())
    receipts: Receipts | None = None
    with DagsterInstance.get() as instance:
        with ProgressLine(err) as line:
            outcome = runs.run_backlog(instance, settings, read.tasks, lambda state: line(str(state), state.phase))
        if url and not outcome.broke:
            try:
                with arriving(url) as arrived:
                    receipts = runs.announce_all(instance, url, outcome)
                    for subject, event in arrived(() if as_json else receipts.stored):
                        who = f"winner {event['payload']['winner_id']}" if event["payload"]["winner_id"] else ""
                        out.print(f"event {subject}  {event['payload']['deliberation_id']}  {who}", style="dim")
            except BrokerUnavailable as error:  # the results are there all the same
                unannounced = str(error)
    if outcome.broke:
        err.print(Text(f"fleet: run {outcome.run_id} broke: {outcome.broke}"))
        err.print(
            "fleet: what had finished is kept; the same command goes on from there. Logs: .fleet/logs/last-run.log"
        )
    rows = [] if outcome.broke else runs.verdicts(settings, outcome)
    if as_json:
        click.echo(
            json.dumps(_document(outcome.run_id, settings, rows, read, outcome.progress), indent=2), terminal.out
        )
    elif not outcome.broke:
        out.print()
        out.print(run_table(rows))
        out.print(Text(f"\n{_summary(outcome.progress)}\nresults in {settings.storage}"))
        if receipts:
            known = len(receipts.duplicates)
            out.print(Text(f"{len(receipts.stored)} events published, {known} already known to the broker"))
    if unannounced:
        err.print(Text(f"fleet: events were not published: {unannounced}\nThe same command publishes them."))
    if outcome.broke or unannounced:
        return BROKE
    completed = all(row["status"] == "completed" for row in rows) and len(rows) == len(outcome.keys)
    return COMPLETED if completed and not read.refused else SOME_FAILED


@main.command()
@click.argument("deliberation_id")
@_storage
@_json
def show(deliberation_id: str, storage: str | None, as_json: bool) -> None:
    """Print a deliberation as a person wants to read it: task, winner, the others, who said what.

    \b
    fleet show rate-limiter.dev
    fleet show rate-limiter.dev --json | jq '.proposals[0].text'
    """
    from fleet_pipeline.reports.terminal import deliberation_page
    from fleet_pipeline.storage.tables import read_rows

    settings = load_settings(_flags(storage=storage))
    store = Store(settings.storage)
    verdict = _verdict(store, deliberation_id)
    tables = {name: read_rows(store, name, deliberation_id) for name in ("proposals", "utterances")}
    rows = {name: table.to_pylist() if table is not None else [] for name, table in tables.items()}
    if as_json:
        document = {
            "deliberation": verdict,
            "proposals": rows["proposals"],
            "utterances": rows["utterances"],
        }
        click.echo(json.dumps(document, indent=2, default=str))
    else:
        console = Console(highlight=False)
        # -R shows colours, -F leaves at once when all fits on the screen, -X leaves it there.
        os.environ.setdefault("LESS", "-RFX")
        with console.pager(styles=True) if console.is_terminal else nullcontext():
            console.print(deliberation_page(verdict, rows["proposals"], rows["utterances"]))


@main.command()
@click.argument("deliberation_id")
@_storage
@_json
def explain(deliberation_id: str, storage: str | None, as_json: bool) -> None:
    """Say in plain words why the winner won: parts and weights, what it covers and where, what checks found.

    \b
    fleet explain rate-limiter.dev
    fleet explain rate-limiter.dev --json | jq '.weights'
    """
    from fleet_pipeline.scoring.explain import explain as sentences
    from fleet_pipeline.storage.tables import read_file

    settings = load_settings(_flags(storage=storage))
    store = Store(settings.storage)
    verdict = _verdict(store, deliberation_id)
    found = read_file(store, "proposals", deliberation_id)
    seats, scoring = (found[0].to_pylist(), found[1]) if found else ([], {})
    lines = sentences(verdict, seats, scoring)
    if as_json:
        document = {"deliberation_id": deliberation_id, "explanation": lines, **scoring, "proposals": seats}
        click.echo(json.dumps(document, indent=2, default=str))
    else:
        click.echo(printable("\n".join(lines)))


@main.command()
@click.argument("file")
@click.option(
    "--embeddings", metavar="NAME_OR_PATH", help="A sentence-transformers model, to measure diversity by it as well."
)
@_json
def score(file: str, embeddings: str | None, as_json: bool) -> None:
    """Score proposals made elsewhere, without an engine.

    FILE is JSON (a case or a list of cases), JSON Lines or Parquet; - reads JSON or JSON Lines from standard
    input. A case is {"name", "task", "requirements", "rubric", "proposals": [{"agent_id", "content"}]}; all but
    task and proposals may be absent. The tasks of the other cases serve as wrong tasks, so put a batch into
    one file.

    \b
    fleet score proposals.json
    fleet score cases.jsonl --json | jq '.[0].proposals[] | {agent_id, score}'
    """
    from fleet_pipeline.reports.terminal import cases_table
    from fleet_pipeline.scoring.cases import Case, case_results, read_case, score_cases
    from fleet_pipeline.scoring.embeddings import Encoder
    from fleet_pipeline.storage.records import BadRecord, read_cases

    settings = load_settings(_flags(scoring__embeddings=embeddings))
    cases: list[Case] = []
    names: list[str] = []
    refused: list[dict[str, Any]] = []
    for number, parse in read_cases(file):
        name = f"case {number}"
        try:
            entry = parse()
            given = entry.get("name") if isinstance(entry, dict) else None
            name = given if isinstance(given, str) and given else name
            cases.append(read_case(entry))
            names.append(name)
        except (BadRecord, InvalidInput) as error:
            field = f"{error.field}: " if isinstance(error, BadRecord) else ""
            refused.append({"case": number, "name": name, "error": f"{field}{error}"})
    for refusal in refused:
        click.echo(printable(f"refused: case {refusal['case']} ({refusal['name'][:80]}): {refusal['error']}"), err=True)
    if not cases:
        _fail(f"{file}: no valid case in it", NOTHING_VALID)
    options = settings.scoring
    encoder = Encoder(options.embeddings, options.embeddings_device) if options.embeddings else None
    results = case_results(names, score_cases(cases, settings.weights, encoder))
    if as_json:
        click.echo(json.dumps(results, indent=2))
    else:
        Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH).print(cases_table(results))
    sys.exit(SOME_FAILED if refused else COMPLETED)


@main.command()
@_json
def config(as_json: bool) -> None:
    """Print the settings in force and where each comes from.

    Defaults, then fleet.toml (or the file FLEET_CONFIG_FILE names), then FLEET_* variables, such as
    FLEET_ENGINE__MODEL, then flags. The later wins.

    \b
    FLEET_ENGINE__MODEL=/models/Qwen3-8B fleet config
    fleet config --json | jq '.storage'
    """
    settings = load_settings()
    found = [
        (name, without_secrets(value) if name == "nats.url" and value else value, origin)
        for name, value, origin in origins(settings)
    ]
    if as_json:
        click.echo(json.dumps({name: {"value": value, "origin": origin} for name, value, origin in found}, indent=2))
        return
    table = Table("setting", "value", "origin", box=None, header_style="bold", pad_edge=False)
    for name, value, origin in found:
        shown = "" if value is None else str(value)
        table.add_row(name, Text(shown), Text(origin, style="dim" if origin == "default" else "bold"))
    Console(highlight=False).print(table)


@main.command()
def home() -> None:
    """Print the Dagster instance's folder, set up on first use: DAGSTER_HOME, or .fleet/dagster.

    \b
    DAGSTER_HOME=$(fleet home) dagster dev
    """
    from fleet_pipeline.runs import instance_home

    click.echo(instance_home())


def _verdict(store: Store, deliberation_id: str) -> dict[str, Any]:
    """The row of a deliberation. Raises `InvalidInput`, with what is near, where there is none."""
    from fleet_pipeline.storage.tables import read_rows

    table = read_rows(store, "deliberations", deliberation_id)
    if table is None:
        known = store.names("deliberations", ".parquet")
        near = [key for key in known if key.startswith(deliberation_id.split(".")[0])] or known
        hint = f"; there are {', '.join(near[:5])}" if near else "; nothing has been run there yet"
        raise InvalidInput(f"no deliberation {deliberation_id} in {store.url}{hint}")
    row: dict[str, Any] = table.to_pylist()[0]
    return row


def _document(
    run_id: str | None, settings: Settings, rows: list[dict[str, Any]], read: Backlog, progress: Progress | None
) -> Any:
    return {
        "run_id": run_id,
        "storage": settings.storage,
        "deliberations": [
            {
                "deliberation_id": row["deliberation_id"],
                "status": row["status"],
                "winner_agent_id": row["winner_agent_id"],
                "winner_score": row["winner_score"],
                "proposals": row["answered"],
                "error": row["error_message"],
            }
            for row in rows
        ],
        "refused": [asdict(refusal) for refusal in read.refused],
        "tokens": {
            "prompt": progress.prompt_tokens if progress else 0,
            "cached": progress.cached_tokens if progress else 0,
            "completion": progress.completion_tokens if progress else 0,
        },
        "tokens_per_second": round(progress.tokens_per_second, 1) if progress else 0.0,
        "engine_start_seconds": round(progress.engine_start_seconds, 2) if progress else 0.0,
    }


def _summary(progress: Progress) -> str:
    if not progress.engine_starts:
        return f"{progress.done} deliberations, all of them done before: the engine was not started"
    return (
        f"{progress.done} deliberations ({progress.reused} done before), {progress.failed} failed; "
        f"{progress.completion_tokens:,} tokens generated in {progress.generating_seconds:.1f} s "
        f"({progress.tokens_per_second:,.0f} a second), {progress.cache_hit_rate:.0%} of prompt tokens from the cache; "
        f"{progress.engine_starts} engine start, {progress.engine_start_seconds:.1f} s"
    )


def _print_refusals(read: Backlog) -> None:
    for refusal in read.refused:
        click.echo(printable(f"refused: line {refusal.line}: {refusal.field[:80]}: {refusal.error}"), err=True)


def _flags(**values: Any) -> dict[str, Any]:
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


def _is_url(nats: str | None) -> bool:
    if nats not in (None, "embedded", "off") and "://" not in nats:
        raise click.BadParameter("expected a URL such as nats://host:4222, or embedded, or off", param_hint="--nats")
    return nats not in (None, "embedded", "off")


class _Terminal(NamedTuple):
    out: IO[str]
    err: IO[str]


@contextmanager
def _logs_set_aside() -> Iterator[_Terminal]:
    """Send what Dagster, vLLM and their libraries print to a file; gives the terminal itself.

    Native code prints as well, so this works on the file descriptors.
    """
    log = Path(".fleet/logs/last-run.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    sys.stdout.flush()
    sys.stderr.flush()
    with (
        log.open("w", encoding="utf-8") as file,
        os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8") as out,
        os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8") as err,
    ):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield _Terminal(out, err)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
