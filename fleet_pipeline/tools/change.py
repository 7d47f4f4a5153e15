"""What has become of a workspace, and whether it is better than before: found by the pipeline, and not told by an agent.

Tests are run three times, each time in a copy: on what the workspace started from, on what it is now, and on what it is now with
the tests as they were. So an agent that rewrites a test, skips it or removes it has broken it. New tests count as they are.

The tests run in one process with the code that they test. Code that is written to deceive pytest can deceive this as well: a
verified change is evidence, and no proof.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

from fleet_pipeline.common.errors import FleetError
from fleet_pipeline.deliberation.acting import Change
from fleet_pipeline.tools.audit import Audit, Caller
from fleet_pipeline.tools.families import git
from fleet_pipeline.tools.families.tests import run_pytest
from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.workspace import Workspace, Workspaces

MOST_NAMES = 500  # of tests and of files
_TEST_FILE = re.compile(r"(^|/)(test_[^/]*\.py|[^/]*_test\.py|conftest\.py)$|(^|/)tests?/")
_SETTINGS = frozenset({"pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml", ".pytest.ini"})


@dataclass(frozen=True)
class Results:
    """What came of each test, by its name; `error` says why there are none."""

    cases: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def passed(self) -> frozenset[str]:
        return frozenset(name for name, outcome in self.cases.items() if outcome == "passed")


class Base:
    """What workspaces start from, and its tests as they were, which are run once."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._results: dict[str, Results] = {}
        self._lock = threading.Lock()

    def results(self, bench: Bench, path: str) -> Results:
        with self._lock:
            if path not in self._results:
                self._results[path] = bench.run(self.workspace, path)
            return self._results[path]


@dataclass(frozen=True)
class Bench:
    """Runs tests in copies of workspaces, so that neither a test nor what it leaves behind changes what is kept."""

    workspaces: Workspaces
    box: Box  # whose sandbox and options are used
    audit: Audit
    caller: Caller
    name: str  # of the copies, unique among all at work

    def run(self, workspace: Workspace, path: str, restored: tuple[str, ...] = ()) -> Results:
        """`restored`: files that are put back as they were at the start."""
        with self.workspaces.copy(self.name, workspace) as copy:
            box = Box(copy, self.box.sandbox, self.box.options)
            if restored and not (done := git.restore_base(box, restored)).ok:
                return Results(error=f"tests could not be put back: {done.error}")
            begun = self.audit.begin(
                workspace.name,
                "tests",
                "pytest",
                {"path": path, "by": "the pipeline"},
                False,
                box.sandbox.level,
                self.caller,
            )
            began, outcome, error = time.monotonic(), "broke", ""
            try:
                output, cases = run_pytest(box, path)
                outcome = "ok" if output.ok else "failed"
                error = "" if cases else output.error or "pytest found no tests"
                return Results(cases, error)
            except FleetError as refusal:
                outcome, error = "refused", str(refusal)
                return Results(error=error)
            finally:
                self.audit.end(begun, outcome, error, 0, time.monotonic() - began)  # type: ignore[arg-type]


def change_in(box: Box, base: Base, bench: Bench, path: str) -> Change:
    """What an agent has made of `base` in its workspace. `path` is what pytest is given."""
    made = git.artifacts(box)
    facts = Change(
        commits=made.commits[:MOST_NAMES],
        files_changed=made.files_changed[:MOST_NAMES],
        ignored=made.ignored[:MOST_NAMES],
        diff=made.diff,
        cut=made.cut or max(map(len, (made.commits, made.files_changed, made.ignored))) > MOST_NAMES,
    )
    if not made.files_changed:
        return facts
    before = base.results(bench, path)
    after = bench.run(box.workspace, path)
    edited = tuple(name for name in made.files_changed if _is_of_tests(name) and _is_at_start(base, name))
    as_before = bench.run(box.workspace, path, edited) if edited else after
    new = after.passed - before.cases.keys()
    values = {
        "fixed": _names((as_before.passed - before.passed) & before.cases.keys() | new),
        "broken": _names(before.passed - as_before.passed),
        "edited": edited[:MOST_NAMES],
        "passed": len(after.passed) if after.cases else None,
        "error": after.error or as_before.error,
    }
    return Change(**{**asdict(facts), **values})


def _names(tests: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(tests)[:MOST_NAMES])


def _is_of_tests(path: str) -> bool:
    return bool(_TEST_FILE.search(path)) or PurePosixPath(path).name in _SETTINGS


def _is_at_start(base: Base, path: str) -> bool:
    return (base.workspace.tree_folder / path).is_file()
