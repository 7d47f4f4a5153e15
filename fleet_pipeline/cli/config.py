"""`fleet config`: the settings in force. `fleet home`: the folder of the Dagster instance."""

import json

import click
from rich.table import Table
from rich.text import Text

from fleet_pipeline.cli.common import console, json_option
from fleet_pipeline.events.options import without_secrets
from fleet_pipeline.settings import DEFAULT, load_settings, origins


@click.command()
@json_option
def config(as_json: bool) -> None:
    """Print the settings in force and where each comes from.

    Defaults, then fleet.toml (or the file FLEET_CONFIG_FILE names), then FLEET_* variables, such as
    FLEET_ENGINE__MODEL, then flags. The later wins. What differs from the defaults comes first.

    \b
    FLEET_ENGINE__MODEL=/models/Qwen3-8B fleet config
    fleet config --json | jq '.storage'
    """
    settings = load_settings()
    entries = [
        (name, without_secrets(value) if name == "nats.url" and value else value, origin)
        for name, value, origin in origins(settings)
    ]
    if as_json:
        click.echo(json.dumps({name: {"value": value, "origin": origin} for name, value, origin in entries}, indent=2))
        return
    table = Table("setting", "value", "origin", box=None, header_style="bold", pad_edge=False)
    # What somebody has set comes first: there are some hundred defaults.
    for name, value, origin in sorted(entries, key=lambda entry: entry[2] == DEFAULT):
        value_text = "" if value is None else str(value)
        table.add_row(name, Text(value_text), Text(origin, style="dim" if origin == DEFAULT else "bold"))
    console().print(table)


@click.command()
def home() -> None:
    """Print the Dagster instance's folder, set up on first use: DAGSTER_HOME, or .fleet/dagster.

    \b
    DAGSTER_HOME=$(fleet home) dagster dev
    """
    from fleet_pipeline.instance.home import instance_home

    click.echo(instance_home())
