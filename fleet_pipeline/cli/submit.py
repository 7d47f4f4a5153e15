"""`fleet submit`."""

import json
import sys
import uuid
from dataclasses import asdict
from datetime import UTC, datetime

import click

from fleet_pipeline.api.client import Client, Submitted
from fleet_pipeline.cli.backlog import backlog_options, option_flags, read, report
from fleet_pipeline.cli.common import fail, flags, json_option, storage_option
from fleet_pipeline.common.errors import INVALID, SOME_FAILED
from fleet_pipeline.common.text import printable
from fleet_pipeline.deliberation.task import Task, deliberation_id
from fleet_pipeline.services.fleet import Fleet
from fleet_pipeline.settings import Settings, load_settings


@click.command()
@click.argument("backlogs", metavar="BACKLOG...", nargs=-1, required=True)
@backlog_options
@click.option("--nats", metavar="URL|off", help="The broker; nats.url of the settings where absent. off: the inbox.")
@click.option("--inbox", metavar="URL", help="The folder used where there is no broker; <storage>/inbox when absent.")
@storage_option
@click.option("--rerun", is_flag=True, help="Put these tasks in place of earlier ones of the same id, and run them.")
@json_option
def submit(
    backlogs: tuple[str, ...],
    preset: str | None,
    mappings: tuple[str, ...],
    strict: bool | None,
    nats: str | None,
    inbox: str | None,
    storage: str | None,
    rerun: bool,
    as_json: bool,
) -> None:
    """Hand BACKLOG to a running pipeline and return at once; - reads JSON from standard input.

    The tasks go to the broker, or without one into the inbox folder. Where `make ui` or a deployment runs,
    its sensors take them and ask for a run. The same task twice is one deliberation.

    \b
    fleet submit tasks.jsonl --nats nats://broker:4222
    echo '{"task_id": "t1", "description": "Design a rate limiter"}' | fleet submit -
    fleet submit corrected.jsonl --rerun --json | jq -r '.submitted[].deliberation_ids[]'
    """
    broker = None if nats == "off" else nats
    of_backlogs = option_flags(preset, mappings, strict)
    settings = load_settings(flags(storage=storage, nats__url=broker, requests__inbox=inbox, **of_backlogs))
    parsed = read(backlogs, settings)
    report(parsed)
    if not parsed.tasks:
        fail(f"{', '.join(backlogs)}: no valid task in it", INVALID)
    refused = [refusal._asdict() for refusal in parsed.refused]
    if settings.nats.url and nats != "off" and not inbox:
        with Client(settings.nats) as client:
            oversize = {task.task_id: client.oversize(task, rerun=rerun) for task in parsed.tasks}
            submitted = client.submit_all([one for one in parsed.tasks if not oversize[one.task_id]], rerun=rerun)
        for task_id, reason in oversize.items():
            if reason:
                refused.append({"file": "", "line": 0, "field": task_id, "error": reason})
                click.echo(printable(f"refused: {task_id}: {reason}"), err=True)
        target = "the broker"
    else:
        submitted, target = _write_to_inbox(settings, parsed.tasks, rerun)
    if as_json:
        document = {
            "submitted": [asdict(submission) for submission in submitted],
            "to": target,
            "ignored": parsed.ignored,
            "refused": refused,
        }
        click.echo(json.dumps(document, indent=2))
    else:
        for submission in submitted:
            note = "  (the broker had it already)" if submission.duplicate else ""
            click.echo(f"{'  '.join(submission.deliberation_ids)}{note}")
        click.echo(f"{len(submitted)} tasks submitted to {target}; `fleet status` tells where they stand", err=True)
    sys.exit(SOME_FAILED if refused else 0)


def _write_to_inbox(settings: Settings, tasks: list[Task], rerun: bool) -> tuple[list[Submitted], str]:
    inbox = Fleet.of(settings).inbox
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}{'.rerun' if rerun else ''}.jsonl"
    lines = "".join(json.dumps(task.model_dump(mode="json", exclude_unset=True)) + "\n" for task in tasks)
    inbox.write(name, lines.encode())
    submitted = [
        Submitted(
            task.task_id,
            tuple(deliberation_id(task.task_id, role) for role in task.roles),
            duplicate=False,
            request_id="",
        )
        for task in tasks
    ]
    return submitted, inbox.full_path(name)
