"""Whether a change solves a task: its hidden tests pass on the repository with that change, in the sandbox."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fleet_pipeline.common.errors import FleetError
from fleet_pipeline.evaluation.repositories import Repository
from fleet_pipeline.tools.audit import Audit, Caller
from fleet_pipeline.tools.change import Bench, is_plugin, stands_before, steers
from fleet_pipeline.tools.families import git
from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline.tools.sandbox.sandbox import Sandbox
from fleet_pipeline.tools.sources import Source, settle
from fleet_pipeline.tools.workspace import Workspaces


@dataclass(frozen=True)
class Verdict:
    """`why` says what is missing where it is not solved."""

    solved: bool
    why: str = ""


class Examiner:
    """Runs hidden tests. Close it."""

    def __init__(self, options: ToolOptions, audit: Path) -> None:
        """`audit` is the folder of the audit, in which each run of tests stands."""
        self._options = options
        self._audit = Audit(audit)
        self._workspaces = Workspaces(Path(options.workspaces))
        self._sandbox = Sandbox.find(options.toolchains)

    def close(self) -> None:
        self._audit.close()

    def examine(self, repository: Repository, folder: Path, diff: str, files_changed: Sequence[str]) -> Verdict:
        """`folder` holds the repository as it was. Settings of pytest and `conftest.py` do not count: they could decide which of the
        hidden tests are run."""
        try:
            with self._workspaces.make(f"{repository.name}-hidden", Source(folder=folder)) as workspace:
                commit = settle(workspace.place)
                box = Box(workspace, self._sandbox, self._options)
                if diff and not (applied := git.apply(box, diff)).ok:
                    return Verdict(False, f"its diff cannot be applied: {applied.error}")
                for name, text in repository.hidden.items():
                    workspace.tree.write(name, text.encode())
                bench = Bench(self._workspaces, box, self._audit, Caller(), f"{workspace.name}.t")
                steering = [
                    name
                    for name in files_changed
                    if steers(name) or is_plugin(name) or stands_before(name, repository.hidden.__contains__)
                ]
                restored = [name for name in steering if name in repository.files]
                removed = [name for name in steering if name not in restored and workspace.tree.has(name)]
                (test,) = repository.hidden
                results = bench.run(workspace, commit, test, restored, removed)
        except FleetError as error:
            return Verdict(False, str(error))
        if results.error:
            return Verdict(False, results.error)
        failed = sorted(name for name, outcome in results.cases.items() if outcome != "passed")
        if missing := repository.hidden_tests - {name.partition("[")[0] for name in results.cases}:
            return Verdict(False, f"{len(missing)} of its hidden tests could not be run")
        return Verdict(not failed, f"{len(failed)} of {len(results.cases)} hidden tests fail" if failed else "")


def examiner(options: ToolOptions, audit: Path) -> closing[Examiner]:
    return closing(Examiner(options, audit))
