"""`fleet doctor`."""

import json
from dataclasses import asdict

import click
from rich.text import Text

from fleet_pipeline.cli.common import console, flags, json_option, storage_option
from fleet_pipeline.common.errors import BROKE, COMPLETED
from fleet_pipeline.common.text import printable
from fleet_pipeline.settings import load_settings

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command()
@click.option("--model", metavar="NAME_OR_PATH", help="Look at this model; engine.model where absent.")
@click.option("--nats", metavar="URL", help="Look at this broker; nats.url of the settings where absent.")
@storage_option
@json_option
def doctor(model: str | None, nats: str | None, storage: str | None, as_json: bool) -> None:
    """Look at Python, vLLM, GPU, model, storage, Dagster and NATS, and say what to mend.

    Exit code 1 where something would keep runs from working.

    \b
    fleet doctor
    fleet doctor --model /models/Qwen3-8B --json | jq '.[] | select(.health != "ok")'
    """
    from fleet_pipeline.services.doctor import Health, examine

    settings = load_settings(flags(storage=storage, engine__model=model, nats__url=nats))
    out = console()
    findings = []
    for finding in examine(settings):
        findings.append(finding)
        if not as_json:
            health = (f"{finding.health:<5}", _STYLES[finding.health])
            out.print(Text.assemble(health, f"{finding.what:<9}", printable(finding.said)), soft_wrap=True)
            if finding.remedy:
                out.print(Text(f"{'':14}{finding.remedy}", style="dim"), soft_wrap=True)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    raise SystemExit(BROKE if any(finding.health is Health.FAIL for finding in findings) else COMPLETED)
