"""What has become of a workspace, and whether it is better than before: found by the pipeline, and not told by an agent.

Tests are run three times, each time in a copy: on what the workspace started from, on what it is now, and on what it is now with
the tests as they were. So what an agent makes of a test does not count: one that it rewrites, skips or removes is put back, and is broken
if it does not pass then; that it was changed is told. What is new beside the tests is not there then: settings, packages, helpers and
bytecode could keep a test from being run, or stand before what it imports. New tests count as they are. What the diff does not hold is not in the copy.

The tests run in one process with the code that they test. Code that is written to deceive pytest can deceive this as well: a
verified change is evidence, and no proof.
"""

from __future__ import annotations

import json
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.metadata import entry_points, packages_distributions
from pathlib import PurePosixPath

from fleet_pipeline.common.errors import FleetError, Refused
from fleet_pipeline.common.text import shown
from fleet_pipeline.deliberation.acting import Change
from fleet_pipeline.tools.audit import Audit, Caller, CallOutcome
from fleet_pipeline.tools.containers import remove_containers
from fleet_pipeline.tools.families import git
from fleet_pipeline.tools.families.tests import run_pytest
from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.workspace import Workspace, Workspaces

MOST_NAMES = 500  # of tests and of files
_PLAIN = re.compile(r"[\w./+@=:\[\]()-]+")
# With what tests compare with.
_TEST_FILE = re.compile(
    r"(^|/)(test_[^/]*\.py|[^/]*_test\.py|conftest\.py)$"
    r"|(^|/)(tests?|test_?data|fixtures|__snapshots__|snapshots|golden|expected)/"
    # Python may run bytecode in place of the source that is beside it.
    r"|\.pyc$|(^|/)__pycache__/",
    re.IGNORECASE,
)
_SETTINGS = frozenset(
    {
        "conftest.py",
        "pytest.ini",
        ".pytest.ini",
        "pytest.toml",
        ".pytest.toml",
        "tox.ini",
        "setup.cfg",
        "pyproject.toml",
    }
)
_WHOLE = (0, 1, 5)  # exit codes of pytest


@dataclass(frozen=True)
class Results:
    """What came of each test, by its name; `error` says why there are none, or not all. `path`: folders in which modules were looked for."""

    cases: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    path: frozenset[str] = frozenset()

    @property
    def passed(self) -> frozenset[str]:
        return frozenset(name for name, outcome in self.cases.items() if outcome == "passed")

    @cached_property
    def files(self) -> frozenset[str]:
        """In which tests are. Those that stand in docstrings are code's, which may change."""
        return frozenset(_file_of(name) for name in self.cases if not _is_doctest(name))

    @cached_property
    def places(self) -> frozenset[PurePosixPath]:
        """Folders in which modules are looked for: those of the tests, and what settings name."""
        return frozenset(
            {PurePosixPath(), *map(PurePosixPath, self.path), *(PurePosixPath(one).parent for one in self.files)}
        )


class Base:
    """What workspaces start from: its commit, and its tests as they were, which are run once."""

    def __init__(self, workspace: Workspace, commit: str) -> None:
        """`commit` is known from the pipeline: a reference in an agent's repository is what its git has made of it."""
        self.workspace = workspace
        self.commit = commit
        self._results: dict[str, Results] = {}
        self._ignored: tuple[str, ...] | None = None
        self._lock = threading.Lock()

    def ignores(self, bench: Bench, path: str) -> bool:
        """Whether a `.gitignore` kept this path out from the start, as it does installed packages."""
        with self._lock:
            if self._ignored is None:
                self._ignored = git.ignored(Box(self.workspace, bench.box.sandbox, bench.box.options))
        return any(path == one or (one.endswith("/") and path.startswith(one)) for one in self._ignored)

    def results(self, bench: Bench, path: str) -> Results:
        with self._lock:
            found = self._results.get(path)
            if found is None:
                found = bench.run(self.workspace, self.commit, path)
                if not found.error:  # a run that was stopped at a bound says nothing of the next
                    self._results[path] = found
            return found


@dataclass(frozen=True)
class Bench:
    """Runs tests in copies of workspaces, so that neither a test nor what it leaves behind changes what is kept."""

    workspaces: Workspaces
    box: Box  # whose sandbox and options are used
    audit: Audit
    caller: Caller
    name: str  # of the copies, unique among all at work
    given_up: Callable[[], bool] = lambda: False  # whether nobody waits for it any more

    def run(
        self, workspace: Workspace, commit: str, path: str, restored: Sequence[str] = (), removed: Sequence[str] = ()
    ) -> Results:
        """`restored`: files that are put back as they are in `commit`; `removed`: files and folders that go."""
        most = self.box.options.limits.disk_mib * 2**20
        if self.given_up():
            return Results(error="it was given up")
        try:
            with self.workspaces.copy(self.name, workspace, most) as copy:
                box = Box(copy, self.box.sandbox, self.box.options)
                for one in removed:
                    copy.tree.remove(one.rstrip("/"), recursive=True)
                if restored and not (done := git.put_back(box, commit, tuple(restored))).ok:
                    return Results(error=f"tests could not be put back: {done.error}")
                return self._run(workspace, box, path)
        except (FleetError, OSError) as refusal:
            # A tree of closed folders, or of paths that no system takes, cannot be copied.
            return Results(error=str(refusal))

    def _run(self, workspace: Workspace, box: Box, path: str) -> Results:
        arguments = {"path": path, "by": "the pipeline"}
        begun = self.audit.begin(workspace.name, "tests", "pytest", arguments, False, box.sandbox.level, self.caller)
        began = time.monotonic()
        outcome: CallOutcome = "broke"
        error = ""
        try:
            ran = run_pytest(box, path, whole=True)
            outcome = "ok" if ran.output.ok else "failed"
            # Passed, failed, or none there: everything else is a run that did not come to its end.
            error = ran.problem if ran.output.facts["exit_code"] in _WHOLE else ran.output.error
            return Results(ran.cases, error, ran.path)
        except FleetError as refusal:
            outcome, error = "refused", str(refusal)
            raise
        finally:
            self.audit.end(begun, outcome, error, 0, time.monotonic() - began)


def change_in(box: Box, base: Base, bench: Bench, path: str) -> Change:
    """What an agent has made of `base` in its workspace. `path` is what pytest is given."""
    remove_containers(box.workspace.place)  # nothing may change while it is looked at
    try:
        made = git.artifacts(box, base.commit)
        # What was kept out from the start stays. What is now was in the diff before, or is new: it would be tested and not be there.
        hidden = [one for one in made.ignored if not base.ignores(bench, one)]
    except FleetError as refusal:
        return _unseen(box, base, bench, path, str(refusal))
    facts = Change(
        commits=made.commits[:MOST_NAMES],
        files_changed=_names(made.files_changed),
        ignored=_names(made.ignored),
        diff=made.diff,
        cut=made.cut or max(map(len, (made.commits, made.files_changed, made.ignored))) > MOST_NAMES,
    )
    if not made.files_changed and not facts.cut:
        return facts
    before = base.results(bench, path)
    after = bench.run(box.workspace, base.commit, path, removed=hidden)
    of_tests = [
        name
        for name in made.files_changed
        if _is_of_tests(name)
        or name in before.files
        or (name in after.files and not _is_at_start(base, name))
        or stands_before(name, lambda module: _is_at_start(base, module) and _is_kept(box, module))
        or (is_plugin(name) and not base.workspace.tree.has(PurePosixPath(name).parts[0]))
        or (not _is_at_start(base, name) and comes_first(name, before.places, base.workspace.tree.has))
    ]
    edited = [name for name in of_tests if _is_at_start(base, name)]
    added = [name for name in of_tests if name not in edited]
    as_before = after
    if edited or added:
        # Whatever came beside the old tests could stand before what they import, or change it.
        as_before = bench.run(box.workspace, base.commit, path, edited, [*hidden, *added])
    new = after.passed - before.cases.keys()
    # What a test needs may have been put back with the tests, as what lies in `fixtures/` is. In the tree as it is it fails.
    fails = {one for one in before.passed if after.cases.get(one) == "failed" and _file_of(one) not in edited}
    return replace(
        facts,
        fixed=_names(sorted((as_before.passed - before.passed) & before.cases.keys() | new)),
        broken=_names(sorted(before.passed - as_before.passed | fails)),
        edited=_names(edited),
        passed=len(after.passed) if after.cases else None,
        error=_in_a_line(before.error or after.error or as_before.error),
    )


def _unseen(box: Box, base: Base, bench: Bench, path: str, why: str) -> Change:
    """Of a change that cannot be looked at, such as one with a hundred repositories in it: never verified, and broken like any other."""
    before, after = base.results(bench, path), bench.run(box.workspace, base.commit, path)
    broken = _names(sorted(before.passed - after.passed))
    return Change(cut=True, broken=broken, error=_in_a_line(f"the change cannot be looked at: {why}"))


def _names(names: Sequence[str]) -> tuple[str, ...]:
    """As they are shown: a file's name may hold anything, and one with line breaks told what the pipeline had found."""
    return tuple(one if _PLAIN.fullmatch(one) else json.dumps(one) for one in names[:MOST_NAMES])


def _in_a_line(error: str) -> str:
    """What went wrong may name files."""
    return " ".join(shown(error).split())[:1_000]


def _file_of(test: str) -> str:
    return test.partition("::")[0]


def _is_doctest(test: str) -> bool:
    """Their names begin with their module's."""
    return "." in test.rpartition("::")[2].partition("[")[0]


def _is_of_tests(path: str) -> bool:
    return bool(_TEST_FILE.search(path)) or steers(path)


def steers(path: str) -> bool:
    """Whether it can decide which tests are run, and how: settings of pytest, and packages that bring plugins for it."""
    parts = PurePosixPath(path.lower()).parts
    return parts[-1] in _SETTINGS or any(part.endswith((".dist-info", ".egg-info")) for part in parts)


def is_plugin(path: str) -> bool:
    """Whether it has the name of a plugin of pytest that is installed here: the tree's would be taken first."""
    return PurePosixPath(path).parts[0].partition(".")[0] in _plugins()


def stands_before(path: str, is_module: Callable[[str], bool]) -> bool:
    """Whether Python would take it, or the package that it is in, in place of a module beside it: it looks for `check/` and for
    `check.cpython-311.so` before `check.py`. `is_module` says of a path whether there is such a module."""
    parts = PurePosixPath(path).parts
    modules = (PurePosixPath(*parts[:at], part.partition(".")[0] + ".py") for at, part in enumerate(parts))
    return any(is_module(str(module)) for module in modules if str(module) != path)


def comes_first(path: str, places: frozenset[PurePosixPath], is_at_start: Callable[[str], bool]) -> bool:
    """Whether what is new at `path` would be run with the tests, or be found in place of what they import: the start of a package around
    one of `places`, where modules are looked for, or in one of them a module with the name of another one.
    """
    whole = PurePosixPath(path)
    if whole.name == "__init__.py" and any(folder.is_relative_to(whole.parent) for folder in places):
        return True
    for folder in whole.parents:  # not all places: there may be as many as files
        if folder in places:
            name = whole.relative_to(folder).parts[0].partition(".")[0]
            is_another = folder != PurePosixPath() and (is_at_start(name) or is_at_start(f"{name}.py"))
            if is_another or name in sys.stdlib_module_names or name in _installed():
                return True
    return False


@cache
def _installed() -> frozenset[str]:
    return frozenset(packages_distributions())


@cache
def _plugins() -> frozenset[str]:
    """The packages in which plugins of pytest that are installed here are."""
    return frozenset(one.value.partition(":")[0].partition(".")[0] for one in entry_points(group="pytest11"))


def _is_kept(box: Box, path: str) -> bool:
    """Of what a change has taken away the tests alone are put back."""
    return _is_of_tests(path) or box.workspace.tree.has(path)


def _is_at_start(base: Base, path: str) -> bool:
    try:
        return not stat.S_ISDIR(base.workspace.tree.status(path).st_mode)
    except Refused:  # also of a name that no file system takes
        return False
