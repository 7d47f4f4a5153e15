"""`fleet score`: scores proposals made elsewhere."""

import json
import os
import sys
from typing import NamedTuple

import click

from fleet_pipeline.cli.common import console, fail, flags, json_option
from fleet_pipeline.common.errors import COMPLETED, INVALID, SOME_FAILED, InvalidInput
from fleet_pipeline.common.text import printable
from fleet_pipeline.settings import load_settings


@click.command()
@click.argument("file")
@click.option(
    "--embeddings", metavar="NAME_OR_PATH", help="A sentence-transformers model, to measure diversity by it as well."
)
@json_option
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
    from fleet_pipeline.common.errors import InvalidRecord
    from fleet_pipeline.ingest.records import read_cases
    from fleet_pipeline.reports.terminal import cases_table
    from fleet_pipeline.scoring.cases import Case, case_results, read_case, score_cases
    from fleet_pipeline.scoring.embeddings import Encoder

    settings = load_settings(flags(scoring__embeddings=embeddings))
    cases: list[Case] = []
    names: list[str] = []
    refused: list[_Refused] = []
    for number, parse in read_cases(file):
        name = f"case {number}"
        try:
            entry = parse()
            entry_name = entry.get("name") if isinstance(entry, dict) else None
            name = entry_name if isinstance(entry_name, str) and entry_name else name
            cases.append(read_case(entry))
            names.append(name)
        except (InvalidRecord, InvalidInput) as error:
            field = f"{error.field}: " if isinstance(error, InvalidRecord) else ""
            refused.append(_Refused(number, name, f"{field}{error}"))
    for refusal in refused:
        click.echo(printable(f"refused: case {refusal.case} ({refusal.name[:80]}): {refusal.error}"), err=True)
    if not cases:
        fail(f"{file}: no valid case in it", INVALID)
    options = settings.scoring
    encoder = Encoder(options.embeddings, options.embeddings_device) if options.embeddings else None
    scored = score_cases(cases, settings.weights, encoder, processes=_processes(len(cases)))
    results = case_results(names, scored, options.clear_from)
    if as_json:
        click.echo(json.dumps(results, indent=2))
    else:
        console().print(cases_table(results))
    sys.exit(SOME_FAILED if refused else COMPLETED)


class _Refused(NamedTuple):
    case: int
    name: str
    error: str


def _processes(cases: int) -> int:
    """Number of worker processes. Starting one takes 2 s; in that time a running one scores 250 cases."""
    return min(os.cpu_count() or 1, 1 + cases // 1_000)
