"""`fleet run`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, get_args

import click
from rich.text import Text

from fleet_pipeline.cli.backlog import Reading, backlog_options, option_flags, read, report
from fleet_pipeline.cli.common import console, fail, flags, json_option, storage_option
from fleet_pipeline.cli.terminal import Terminal, logs_to_file, sigterm_as_ctrl_c
from fleet_pipeline.common.errors import BROKE, COMPLETED, INTERRUPTED, INVALID, SOME_FAILED, BrokerUnavailable
from fleet_pipeline.common.text import printable
from fleet_pipeline.deliberation.council import Resume
from fleet_pipeline.deliberation.rows import OutcomeRow
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.services.progress import Progress
from fleet_pipeline.settings import Settings, load_settings


@click.command()
@click.argument("backlogs", metavar="BACKLOG...", nargs=-1, required=True)
@backlog_options
@storage_option
@click.option(
    "--model",
    metavar="NAME_OR_PATH",
    help="A hub name, a local folder, or fleet-tiny, the demonstrator that comes with the package.",
)
@click.option(
    "--server",
    "servers",
    metavar="URL",
    multiple=True,
    help="The model is at this OpenAI-compatible server, such as http://gpu:8000/v1; several share the work.",
)
@click.option("--nats", metavar="URL|embedded|off", help="Broker for completion events; embedded starts one.")
@click.option(
    "--resume",
    type=click.Choice(get_args(Resume)),
    help="What is generated anew: if-possible (the default), what is missing, failed or changed; always, what is "
    "missing or failed; never, everything.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Run seed. Another one makes the councils speak anew.")
@click.option("--plan", is_flag=True, help="Say what would run, on which models and in which order, and start nothing.")
@json_option
@click.option("--verbose", is_flag=True, help="Show the logs of Dagster and vLLM.")
def run(
    backlogs: tuple[str, ...],
    preset: str | None,
    mappings: tuple[str, ...],
    strict: bool | None,
    storage: str | None,
    model: str | None,
    servers: tuple[str, ...],
    nats: str | None,
    resume: str | None,
    seed: int | None,
    plan: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Deliberate over BACKLOG: JSON, JSON Lines, CSV or Parquet; - reads JSON from standard input.

    Files of other programs are read with --preset or --map; `fleet backlog check` shows what of them would run.

    Executes one Dagster run, recorded in DAGSTER_HOME (.fleet/dagster where that is not set), with
    one engine start. What is finished and was made from the same inputs is not run again.

    \b
    fleet run examples/backlog.jsonl --model Qwen/Qwen3-0.6B
    fleet run tasks.csv --storage s3://bucket/fleet --nats nats://broker:4222
    fleet run tasks.jsonl --model Qwen/Qwen3-32B --server http://gpu-1:8000/v1 --server http://gpu-2:8000/v1
    head -5 tasks.jsonl | fleet run - --model fleet-tiny --json | jq .deliberations
    gh issue list --json number,title,body,labels | fleet run - --preset github
    """
    settings = load_settings(
        flags(
            storage=storage,
            engine__model=model,
            engine__server__urls=list(servers) or None,
            council__seed=seed,
            council__resume=resume,
            nats__url=nats if _is_url(nats) else None,
            **option_flags(preset, mappings, strict),
        )
    )
    own = settings.models.get(settings.engine.model)
    if servers and own and own.server:
        fail(f"--server: [models.{settings.engine.model}] names servers of its own; change them there", INVALID)
    parsed = read(backlogs, settings)
    if not as_json:
        report(parsed)
    if not parsed.tasks:
        if as_json:
            click.echo(json.dumps(_document(None, settings, [], parsed, None), indent=2))
        fail(f"{', '.join(backlogs)}: no valid task in it", INVALID)
    if plan:
        _show_plan(settings, parsed, as_json)
        sys.exit(COMPLETED if not parsed.refused else SOME_FAILED)
    with ExitStack() as stack:
        plain_terminal = nullcontext(Terminal(sys.stdout, sys.stderr))
        terminal = stack.enter_context(plain_terminal if verbose else logs_to_file())
        broker = NatsOptions() if nats == "off" else settings.nats
        if nats == "embedded":
            from fleet_pipeline.events.embedded import embedded_server

            broker = NatsOptions(url=stack.enter_context(embedded_server()))
        exit_code = _run(settings, parsed, broker, as_json, terminal)
    sys.exit(exit_code)


def _show_plan(settings: Settings, backlog: Reading, as_json: bool) -> None:
    from fleet_pipeline.services.plan import plan_of

    plan = plan_of(settings, backlog.tasks)
    click.echo(json.dumps(asdict(plan), indent=2) if as_json else printable(str(plan)))


def _run(settings: Settings, backlog: Reading, broker: NatsOptions, as_json: bool, terminal: Terminal) -> int:
    from fleet_pipeline.cli import local_run
    from fleet_pipeline.events.connection import run_blocking
    from fleet_pipeline.events.publisher import prepare_broker
    from fleet_pipeline.events.streams import PUBLISHED_STREAMS
    from fleet_pipeline.events.subscriber import arriving
    from fleet_pipeline.instance.home import open_instance
    from fleet_pipeline.instance.in_process import INTERRUPTED as WAS_INTERRUPTED
    from fleet_pipeline.reports.terminal import ProgressLine, run_table
    from fleet_pipeline.services.publishing import PublishSummary

    if broker.url:
        for remark in run_blocking(broker, partial(prepare_broker, streams=PUBLISHED_STREAMS)):
            click.echo(printable(f"NATS: {remark}"), terminal.err)
    publish_error = ""
    out, err = console(terminal.out), console(terminal.err)
    published = PublishSummary()
    with ExitStack() as stack:
        instance = stack.enter_context(open_instance())
        publisher = arrived = None
        if broker.url:
            if not as_json:
                arrived = stack.enter_context(arriving(broker, _event_line))
            publisher = stack.enter_context(local_run.RunPublisher(instance, broker))
        with ProgressLine(err) as show, sigterm_as_ctrl_c():
            result = local_run.run_backlog(
                instance, settings, backlog.tasks, lambda progress: show(str(progress), progress.phase)
            )
        if publisher is not None:
            published = publisher.published
            if not result.broke:
                try:
                    publisher.finish()
                except BrokerUnavailable as error:  # the results are stored all the same
                    publish_error = str(error)
            for line in arrived(published.receipts.stored) if arrived else ():
                out.print(line, style="dim")
    if result.broke:
        err.print(Text(f"fleet: run {result.run_id} broke: {result.broke}"))
        err.print(
            f"fleet: what had finished is kept; {_how_to_go_on(settings, result.broke == WAS_INTERRUPTED)}. Logs: .fleet/logs/last-run.log"
        )
    rows = [] if result.broke else local_run.outcome_rows(settings, result)
    if as_json:
        click.echo(
            json.dumps(_document(result.run_id, settings, rows, backlog, result.progress), indent=2), terminal.out
        )
    elif not result.broke:
        out.print()
        out.print(run_table(rows))
        out.print(Text(f"\n{_summary(result.progress, _cost(rows))}\nresults in {settings.storage}"))
        for line in _next_steps(rows):
            out.print(Text(line, style="dim"))
        if published.receipts:
            stored, duplicates = published.receipts.stored, published.receipts.duplicates
            out.print(Text(f"{len(stored)} events published, {len(duplicates)} already known to the broker"))
    for key, reason in published.unreadable.items():
        err.print(Text(printable(f"fleet: the events of {key} were not published: {reason}")))
    if publish_error:
        err.print(Text(f"fleet: events were not published: {publish_error}\nThe same command publishes them."))
    if result.broke == WAS_INTERRUPTED:
        return INTERRUPTED
    if result.broke or publish_error:
        return BROKE
    completed = all(row.status == "completed" for row in rows) and len(rows) == len(result.keys)
    return COMPLETED if completed and not backlog.refused else SOME_FAILED


def _document(
    run_id: str | None, settings: Settings, rows: list[OutcomeRow], backlog: Reading, progress: Progress | None
) -> Any:
    return {
        "run_id": run_id,
        "storage": settings.storage,
        "deliberations": [
            {
                "deliberation_id": row.deliberation_id,
                "status": row.status,
                "winner_agent_id": row.winner_agent_id,
                "winner_score": row.winner_score,
                "confidence": row.confidence,
                "clear_winner": row.clear_winner,
                "proposals": row.answered,
                "error": row.error_message,
            }
            for row in rows
        ],
        "ignored": backlog.ignored,
        "refused": [refusal._asdict() for refusal in backlog.refused],
        "tokens": {
            "prompt": progress.prompt_tokens if progress else 0,
            "cached": progress.cached_tokens if progress else 0,
            "completion": progress.completion_tokens if progress else 0,
        },
        "cost": _cost(rows),
        "tokens_per_second": round(progress.tokens_per_second, 1) if progress else 0.0,
        "engine_start_seconds": round(progress.engine_start_seconds, 2) if progress else 0.0,
    }


def _event_line(event: Envelope) -> str | None:
    """What a person sees of an event that has arrived: one line of a deliberation's end."""
    from fleet_pipeline.events.payloads import DeliberationEnded

    if not event.event_type.startswith("deliberation."):
        return None
    ended = DeliberationEnded.model_validate(event.payload)
    said = "no clear winner; first" if ended.clear_winner is False else "winner"
    winner = f"{said} {ended.winner_id}" if ended.winner_id else ""
    return f"event {event.event_type}  {ended.deliberation_id}  {winner}"


def _how_to_go_on(settings: Settings, interrupted: bool) -> str:
    if settings.council.resume == "never":
        return "with resume never the same command begins anew; without it, it goes on from there"
    same = "the same command with the same input goes on from there"
    return same if interrupted else f"once that is mended, {same}"


def _next_steps(rows: Sequence[OutcomeRow]) -> list[str]:
    """The commands that a person would want next."""
    failed = [row.deliberation_id for row in rows if row.status is not Status.COMPLETED]
    won = [row.deliberation_id for row in rows if row.winner_agent_id]
    lines = []
    if failed:
        lines.append(f"what one of them said: fleet show {failed[0]}; the same command tries them again")
    if won:
        lines.append(f"read one: fleet show {won[0]}; why it won: fleet explain {won[0]}; all: fleet report")
    return lines


def _cost(rows: list[OutcomeRow]) -> float | None:
    """What all that was said cost, results of before included; None where no model has a price."""
    costs = [row.cost for row in rows if row.cost is not None]
    return round(sum(costs), 6) if costs else None


def _summary(progress: Progress, cost: float | None) -> str:
    if not progress.engine_starts:
        return f"{progress.done} deliberations, all of them done before: the engine was not started"
    return (
        f"{progress.done} deliberations ({progress.reused} done before), {progress.failed} failed; "
        f"{progress.completion_tokens:,} tokens generated in {progress.generating_seconds:.1f} s "
        f"({progress.tokens_per_second:,.0f} a second), {progress.cache_hit_rate:.0%} of prompt tokens from the cache; "
        f"{progress.engine_starts} engine start{'s' if progress.engine_starts > 1 else ''}, {progress.engine_start_seconds:.1f} s"
        + (f"; it cost {cost:,.4f}" if cost is not None else "")
    )


def _is_url(nats: str | None) -> bool:
    if nats not in (None, "embedded", "off") and "://" not in nats:
        raise click.BadParameter("expected a URL such as nats://host:4222, or embedded, or off", param_hint="--nats")
    return nats not in (None, "embedded", "off")
