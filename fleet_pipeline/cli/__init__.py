"""The command line. `fleet --help` lists the commands.

Exit codes: 0 all completed; 3 some were refused or failed; 2 usage, or nothing valid to run; 1 the
pipeline broke. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

from importlib.metadata import version

import click

from fleet_pipeline.cli.common import Commands
from fleet_pipeline.cli.config import config, home
from fleet_pipeline.cli.doctor import doctor
from fleet_pipeline.cli.events import events
from fleet_pipeline.cli.export import export
from fleet_pipeline.cli.metrics import metrics
from fleet_pipeline.cli.prune import prune
from fleet_pipeline.cli.report import report
from fleet_pipeline.cli.run import run
from fleet_pipeline.cli.score import score
from fleet_pipeline.cli.show import explain, show
from fleet_pipeline.cli.status import serve, status
from fleet_pipeline.cli.submit import submit


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


for command in (
    run,
    submit,
    status,
    show,
    explain,
    report,
    score,
    export,
    events,
    prune,
    serve,
    metrics,
    doctor,
    config,
    home,
):
    main.add_command(command)
