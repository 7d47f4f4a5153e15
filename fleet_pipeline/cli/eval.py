"""`fleet eval`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from fleet_pipeline.cli.common import console, flags, json_option
from fleet_pipeline.cli.terminal import Terminal, logs_to_file, sigterm_as_ctrl_c
from fleet_pipeline.common.errors import BROKE, INTERRUPTED
from fleet_pipeline.common.files import written_whole
from fleet_pipeline.common.text import printable
from fleet_pipeline.evaluation.arms import ARMS, COUNCIL, ROLE, Trial
from fleet_pipeline.evaluation.figures import Case, difference, rate
from fleet_pipeline.evaluation.repositories import Repository, repositories
from fleet_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from rich.console import RenderableType

_FAMILIES = ("files", "git", "tests")
RESULT = "evaluation.json"


@click.command()
@click.option("--model", metavar="NAME_OR_PATH", help="A hub name, a local folder, or fleet-tiny.")
@click.option(
    "--server", "servers", metavar="URL", multiple=True, help="The model is at this OpenAI-compatible server."
)
@click.option(
    "--answers",
    type=click.IntRange(COUNCIL.least, 10_000),
    default=39,
    show_default=True,
    help="How many answers of the model each arm may have on a task, all its agents together.",
)
@click.option("--max-tokens", type=click.IntRange(16, 131_072), help="Of one answer; as the settings say where absent.")
@click.option("--repeats", type=click.IntRange(1, 1_000), default=1, show_default=True, help="Each with other seeds.")
@click.option("--only", metavar="NAME", multiple=True, help="One of the repositories; several may be named.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(".fleet/eval"),
    show_default=True,
    help="A folder for all of it.",
)
@json_option
@click.option("--verbose", is_flag=True, help="Show the logs of Dagster and vLLM.")
def eval(
    model: str | None,
    servers: tuple[str, ...],
    answers: int,
    max_tokens: int | None,
    repeats: int,
    only: tuple[str, ...],
    out: Path,
    as_json: bool,
    verbose: bool,
) -> None:
    """Compare one agent, the best of three and a council on small repositories with hidden tests.

    Each repository is a task of its own: its agents see its tests, and the winner's change is judged by others. All three may have as
    many answers of the model. The same command goes on from what is there; another --out begins anew.

    \b
    fleet eval --model Qwen/Qwen3-8B
    fleet eval --model Qwen/Qwen3-32B --server http://gpu-1:8000/v1 --repeats 5 --json
    fleet eval --model fleet-tiny --only slug --only roman --answers 9
    """
    out = out.absolute()
    settings = _settings(out, model, servers, max_tokens)
    trials = _trials(repositories(only), out / "repositories", repeats)
    with ExitStack() as stack:
        plain_terminal = nullcontext(Terminal(sys.stdout, sys.stderr))
        terminal = stack.enter_context(plain_terminal if verbose else logs_to_file())
        cases = _cases(settings, trials, answers, out, terminal)
        document = _document(settings, answers, repeats, cases)
        with written_whole(out / RESULT) as file:
            file.write(json.dumps(document, indent=2).encode())
        if as_json:
            click.echo(json.dumps(document, indent=2), terminal.out)
            return
        shown = console(terminal.out)
        shown.print(_table(cases))
        for line in _comparisons(cases):
            shown.print(Text(line))
        shown.print(Text(printable(f"\n{settings.engine.model}; every case: {out / RESULT}")))


def _settings(out: Path, model: str | None, servers: Sequence[str], max_tokens: int | None) -> Settings:
    """Those in force, with a storage and workspaces of its own, from which no result of others is taken or lost."""
    settings = load_settings(
        flags(
            storage=str(out / "storage"),
            engine__model=model,
            engine__server__urls=list(servers) or None,
            council__sampling__max_tokens=max_tokens,
        )
    )
    tools = settings.tools.model_copy(
        update={
            "sources": (*settings.tools.sources, str(out / "repositories")),
            "workspaces": str(out / "workspaces"),
            "roles": settings.tools.roles | {ROLE: _FAMILIES},
        }
    )
    return settings.model_copy(update={"tools": tools})


def _trials(found: Sequence[Repository], folder: Path, repeats: int) -> list[Trial]:
    places = {repository.name: repository.write(folder) for repository in found}
    return [
        Trial(arm, repository, places[repository.name], repeat)
        for repository, arm, repeat in product(found, ARMS, range(1, repeats + 1))
    ]


def _cases(settings: Settings, trials: Sequence[Trial], answers: int, out: Path, terminal: Terminal) -> list[Case]:
    """Hold the deliberations, and judge what came of them."""
    from fleet_pipeline.cli.local_run import run_backlog
    from fleet_pipeline.evaluation.cases import cases_of
    from fleet_pipeline.evaluation.hidden import examiner
    from fleet_pipeline.instance.home import open_instance
    from fleet_pipeline.instance.in_process import INTERRUPTED as WAS_INTERRUPTED
    from fleet_pipeline.reports.terminal import ProgressLine
    from fleet_pipeline.services.fleet import Fleet
    from fleet_pipeline.services.tool_calls import audit_folder, store_calls

    # An instance of its own: these partitions are no work of anybody's.
    (out / "dagster").mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(out / "dagster")
    err = console(terminal.err)
    with open_instance() as instance, ProgressLine(err) as show, sigterm_as_ctrl_c():
        tasks = [trial.task(answers) for trial in trials]
        result = run_backlog(instance, settings, tasks, lambda progress: show(str(progress), progress.phase))
        if result.broke:
            err.print(
                Text(f"fleet: run {result.run_id} broke: {result.broke}\nfleet: the same command goes on from there")
            )
            sys.exit(INTERRUPTED if result.broke == WAS_INTERRUPTED else BROKE)
        store, folder = Fleet.of(settings).store, audit_folder(settings.tools)
        with examiner(settings.tools, folder) as judge:
            cases = list(
                cases_of(
                    *(trials, store, judge), lambda number: show(f"hidden tests: {number} of {len(trials)}", "hidden")
                )
            )
        store_calls(store, folder)
    return cases


def _document(settings: Settings, answers: int, repeats: int, cases: Sequence[Case]) -> dict[str, Any]:
    arms = {}
    for arm in ARMS:
        own = [case for case in cases if case.arm == arm.name]
        arms[arm.name] = {
            "agents": arm.agents,
            "rounds": arm.rounds,
            "steps_a_turn": arm.steps(answers),
            **asdict(rate(sum(case.solved for case in own), len(own))),
            "tokens_a_task": round(fmean(case.completion_tokens for case in own), 1),
            "calls_a_task": round(fmean(case.calls for case in own), 1),
        }
    others = [arm for arm in ARMS if arm is not COUNCIL]
    council = [case for case in cases if case.arm == COUNCIL.name]
    less = {arm.name: asdict(difference(council, [case for case in cases if case.arm == arm.name])) for arm in others}
    return {
        "model": settings.engine.model,
        "answers": answers,
        "repeats": repeats,
        "repositories": len({case.repository for case in cases}),
        "arms": arms,
        "council_less": less,
        "cases": [asdict(case) for case in cases],
    }


def _table(cases: Sequence[Case]) -> RenderableType:
    table = Table(pad_edge=False, box=None, header_style="bold")
    table.add_column("arm", no_wrap=True)
    for name in ("solved", "rate", "95 % interval", "verified", "tokens a task", "calls a task"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in ARMS:
        own = [case for case in cases if case.arm == arm.name]
        found = rate(sum(case.solved for case in own), len(own))
        table.add_row(
            arm.title,
            f"{found.solved} of {found.n}",
            f"{found.value:.2f}",
            f"{found.low:.2f} to {found.high:.2f}",
            str(sum(case.tested == "verified" for case in own)),
            f"{fmean(case.completion_tokens for case in own):,.0f}",
            f"{fmean(case.calls for case in own):.1f}",
        )
    return table


def _comparisons(cases: Sequence[Case]) -> list[str]:
    council = [case for case in cases if case.arm == COUNCIL.name]
    lines = []
    for arm in ARMS:
        if arm is not COUNCIL:
            gap = difference(council, [case for case in cases if case.arm == arm.name])
            said = "more" if gap.low > 0 else "less" if gap.high < 0 else "no difference is shown"
            if gap.low == gap.high:
                said = "the same on every repository, which says little of others"
            lines.append(
                f"{COUNCIL.title} less {arm.title}: {gap.value:+.2f} (95 %: {gap.low:+.2f} to {gap.high:+.2f}): {said}"
            )
    return lines
