"""`python -m fleet_pipeline.training make` and `... evaluate`: the demonstrator model anew, and its figures."""

import json
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import click

PACKAGED = Path(__file__).parents[1] / "models" / "fleet_tiny"
EVALUATION_TASKS = Path(__file__).with_name("evaluation.jsonl")
SEED = 3
TOKENIZER_PAIRS = 8_000
# Sampling that suits the model; vLLM takes it from the model's folder.
GENERATION = {"temperature": 0.15, "top_p": 0.95, "min_p": 0.2, "max_new_tokens": 1_024}

_model = click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=PACKAGED,
    help="The model's folder; the packaged one by default.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Make the demonstrator model, and measure it."""


@main.command()
@_model
@click.option("--tokens", default=7_200_000, help="Tokens to train on; two cores do 3,200 a second.")
def make(model: Path, tokens: int) -> None:
    """Train tokenizer and network from nothing; the same seed gives the same corpus and start."""
    import torch

    from fleet_pipeline.training import network, tokens as tokenizers
    from fleet_pipeline.training.corpus import Pair, pairs
    from fleet_pipeline.training.layout import prompt_layout
    from fleet_pipeline.training.train import train

    began = time.monotonic()
    tokenizer = tokenizers.train(_texts(islice(pairs(SEED), TOKENIZER_PAIRS)))
    marks = (tokenizers.new_lines(), tokenizers.names(), tokenizers.DASH, tokenizers.TASK)
    net = network.build(tokenizer, tokenizers.CONTEXT, SEED, *marks)
    click.echo(f"{len(tokenizer):,} tokens, {sum(p.numel() for p in net.parameters()):,} parameters")
    drawn = 0

    def counted() -> Iterable[Pair]:
        nonlocal drawn
        for pair in pairs(SEED + 1, tokenizers.pieces(tokenizer)):
            drawn += 1
            yield pair

    last: dict[str, float] = {}
    for last in train(net, tokenizer, iter(counted()), tokens, SEED):
        last = {name: round(value, 4) for name, value in last.items()}
        click.echo(json.dumps(last | {"done": round(last["tokens"] / tokens, 3)}))
    tokenizer.save_pretrained(model)
    net.to(torch.bfloat16).save_pretrained(model)
    generation = {"eos_token_id": tokenizer.eos_token_id, **GENERATION}
    facts = {
        "prompt_layout": prompt_layout(),
        "seed": SEED,
        "pairs": drawn,
        "seconds": round(time.monotonic() - began),
        **last,
    }
    for name, content in {"generation_config": generation, "training": facts}.items():
        (model / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (model / "model.safetensors").chmod(0o644)  # it is written for its owner alone, and ships in a package


@main.command()
@_model
@click.option("--tasks", type=click.Path(path_type=Path), default=EVALUATION_TASKS, help="Tasks to measure on.")
@click.option("--storage", type=click.Path(path_type=Path), help="Keep the results here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def evaluate(model: Path, tasks: Path, storage: Path | None, as_json: bool) -> None:
    """Run the pipeline on tasks written after training, and print the table and all failures."""
    from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
    from fleet_pipeline.ingest.backlog import read_backlog
    from fleet_pipeline.training.evaluate import evaluate, table

    with tempfile.TemporaryDirectory() as scratch:
        read = read_backlog(str(tasks), BUILT_IN_ROLES)
        with redirect_stdout(sys.stderr):  # vLLM logs to standard output
            utterances, proposals = _deliberate(model, read.tasks, storage or Path(scratch))
    figures = evaluate(read.tasks, utterances, proposals, _trained_words(model))
    if as_json:
        click.echo(json.dumps([asdict(figure) | {"reached": figure.reached} for figure in figures], indent=2))
        return
    click.echo(table(figures))
    for figure in figures:
        if figure.failures:
            click.echo(f"\n{figure.name}: {len(figure.failures)} of {figure.count} fell short")
            click.echo("\n".join(f"  {failure}" for failure in figure.failures))


def _deliberate(model: Path, tasks: list[Any], storage: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of `utterances` and `proposals` after a real run."""
    import dagster as dg

    from fleet_pipeline.cli.local_run import run_backlog
    from fleet_pipeline.settings import load_settings
    from fleet_pipeline.storage.schemas import PROPOSALS, UTTERANCES
    from fleet_pipeline.storage.store import Store
    from fleet_pipeline.storage.tables import read_rows

    settings = load_settings({"storage": str(storage), "engine": {"model": str(model.absolute())}})
    with dg.DagsterInstance.ephemeral() as instance:
        outcome = run_backlog(instance, settings, tasks, lambda progress: None)
    if outcome.broke:
        raise click.ClickException(outcome.broke)
    click.echo(str(outcome.progress), err=True)
    store = Store(settings.storage)
    utterances = [asdict(row) for key in outcome.keys for row in read_rows(store, UTTERANCES, key)]
    return utterances, [asdict(row) for key in outcome.keys for row in read_rows(store, PROPOSALS, key)]


def _trained_words(model: Path) -> set[str]:
    """Every word of the corpus, written once more from its seed."""
    from transformers import AutoTokenizer

    from fleet_pipeline.training import tokens as tokenizers
    from fleet_pipeline.training.corpus import pairs
    from fleet_pipeline.training.evaluate import words

    facts = json.loads((model / "training.json").read_text(encoding="utf-8"))
    pieces = tokenizers.pieces(AutoTokenizer.from_pretrained(model))
    first = islice(pairs(facts["seed"]), TOKENIZER_PAIRS)
    rest = islice(pairs(facts["seed"] + 1, pieces), facts["pairs"])
    return {word for part in (first, rest) for text in _texts(part) for word in words(text)}


def _texts(pairs: Iterable[Any]) -> Iterable[str]:
    return (text for pair in pairs for text in (pair.turn.messages[-1].content, pair.answer))


if __name__ == "__main__":
    main()
