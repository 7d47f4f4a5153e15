"""Test runners, in the sandbox. In read-only mode they cannot change the tree, whatever a target or a script does."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from xml.parsers import expat

from pydantic import Field

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.tools.families.files import PathArgument
from fleet_pipeline.tools.operation import Box, Changes, Family, Output, checked_argument
from fleet_pipeline.tools.sandbox.sandbox import Outcome
from fleet_pipeline.tools.tree import Tree

FAMILY = Family("tests", "Run the workspace's tests, and count them where the runner tells.")
Seconds = Annotated[float | None, Field(gt=0, le=7_200, description="Time limit; the settings' when absent.")]
Verbose = Annotated[bool, Field(description="Name each test.")]
_TARGET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,100}")
_REPORT = "fleet-junit.xml"
_REPORT_BYTES = 2_000_000
_NAME_CHARS = 300  # of a test's name
# pytest is found before the tree is: a pytest.py in it would take its place. Then the tree comes first, as with `python -m pytest`.
_PYTEST = """
import os, sys, pytest

told = os.environ["HOME"] + "/fleet-path.txt"
sys.path.insert(0, os.getcwd())


class Path:
    def pytest_sessionfinish(self):
        try:
            with open(told, "w") as file:
                file.write("\\n".join(sys.path))
        except (OSError, TypeError, ValueError):
            pass


sys.exit(pytest.main(sys.argv[1:], plugins=[Path()]))
"""
_PATH = "fleet-path.txt"
_PATH_BYTES = 100_000
_TOTALS = ("tests", "failures", "errors", "skipped")
_NUMBER = re.compile(r"[0-9]{1,9}")


@FAMILY.operation(executes=True, changes=Changes.TREE)
def pytest(
    box: Box,
    path: PathArgument = ".",
    markers: Annotated[str | None, Field(max_length=200, description="As pytest's -m takes them.")] = None,
    verbose: Verbose = False,
    timeout: Seconds = None,
) -> Output:
    """Run Python tests with pytest."""
    return run_pytest(box, path, markers, verbose, timeout).output


@dataclass(frozen=True)
class Ran:
    """What pytest has done. `cases`: what came of each test by its name (passed, failed or skipped); `problem`: why that is not known;
    `path`: folders of the tree in which modules were looked for.
    """

    output: Output
    cases: Mapping[str, str]
    problem: str
    path: frozenset[str]


def run_pytest(
    box: Box,
    path: str,
    markers: str | None = None,
    verbose: bool = False,
    timeout: float | None = None,
    *,
    whole: bool = False,
) -> Ran:
    """`whole`: neither a file that cannot be read as tests nor one that fails keeps the others from being run."""
    box.workspace.tree.status(path)
    marked = ["-m", checked_argument(markers, "markers")] if markers else []
    report = box.workspace.home / _REPORT
    done = box.execute(
        *(
            sys.executable,
            "-P",
            "-c",
            _PYTEST,
            "-p",
            "no:cacheprovider",
            "--color=no",
            f"--junit-xml={report}",
            *marked,
        ),
        # Which tells a test's file, as a path of the tree: pytest takes a folder with settings of its own for the root.
        *("-o", "junit_family=xunit1", "--rootdir=.", "--confcutdir=."),
        *(["--continue-on-collection-errors", "--maxfail=0"] if whole else []),
        *(["-v"] if verbose else ["-q"]),
        *("--", f"./{path}"),  # which is no `@file` with further arguments
        seconds=timeout,
        readable=[box.workspace.no_settings],
        PYTHONDONTWRITEBYTECODE="1",
    )
    counts, cases, problem = _report(box)
    return Ran(_result(done, counts), cases, problem, _path(box))


@FAMILY.operation(executes=True, changes=Changes.TREE)
def unittest(box: Box, path: PathArgument = ".", verbose: Verbose = False, timeout: Seconds = None) -> Output:
    """Run Python tests with unittest, found below a folder."""
    done = box.execute(
        *(sys.executable, "-m", "unittest", "discover", "-s", path, *(["-v"] if verbose else [])),
        seconds=timeout,
        PYTHONDONTWRITEBYTECODE="1",
    )
    ran = re.search(rb"^Ran (\d{1,9}) tests?", done.errors, re.MULTILINE)
    return _result(done, {"tests": int(ran[1])} if ran else {})


@FAMILY.operation(executes=True, changes=Changes.TREE)
def go_test(
    box: Box,
    package: Annotated[str, Field(max_length=200)] = "./...",
    verbose: Verbose = False,
    race: Annotated[bool, Field(description="With the race detector.")] = False,
    timeout: Seconds = None,
) -> Output:
    """Run Go tests. Modules must be in the workspace (vendor): there is no network."""
    options = [*(["-v"] if verbose else []), *(["-race"] if race else [])]
    home = str(box.workspace.home)
    return _result(
        box.execute(
            *("go", "test", *options, checked_argument(package, "package")),
            seconds=timeout,
            GOPROXY="off",
            GOCACHE=f"{home}/go-build",
            GOPATH=f"{home}/go",
            # Go looks for a `go.work` in every folder above, of which it may read none.
            GOWORK="" if box.workspace.tree.has("go.work") else "off",
        ),
        {},
    )


@FAMILY.operation(executes=True, changes=Changes.TREE)
def npm_test(
    box: Box, script: Annotated[str, Field(description="A script of package.json.")] = "test", timeout: Seconds = None
) -> Output:
    """Run a script of package.json. Packages must be in the workspace: there is no network."""
    return _result(
        box.execute("npm", "run", "--offline", "--no-audit", "--no-fund", _target(script), seconds=timeout), {}
    )


@FAMILY.operation(executes=True, changes=Changes.TREE)
def cargo_test(
    box: Box,
    package: Annotated[str | None, Field(max_length=200, description="One of a workspace of Cargo.")] = None,
    timeout: Seconds = None,
) -> Output:
    """Run Rust tests. Crates must be in the workspace (vendor): there is no network."""
    if above := _settings_of_cargo_above(box.workspace.tree_folder):
        raise Refused(
            f"Cargo reads {above}, which programs of tools may not: put tools.workspaces into a folder that has none above it"
        )
    which = ["--package", checked_argument(package, "package")] if package else []
    target = "target" if not box.read_only else str(box.workspace.home / "target")
    return _result(
        box.execute(
            "cargo", "test", "--offline", *which, seconds=timeout, CARGO_TARGET_DIR=target, CARGO_TERM_COLOR="never"
        ),
        {},
    )


def _settings_of_cargo_above(tree: Path) -> Path | None:
    """It looks into every folder above, and gives up at the first file that it may not read. None can tell it not to."""
    names = ("Cargo.toml", ".cargo/config.toml", ".cargo/config")
    files = (folder / name for folder in tree.parents for name in names)
    return next((file for file in files if os.path.exists(file)), None)


@FAMILY.operation(executes=True, changes=Changes.TREE)
def make_test(
    box: Box, target: Annotated[str, Field(description="A target of the Makefile.")] = "test", timeout: Seconds = None
) -> Output:
    """Run a target of the Makefile."""
    return _result(box.execute("make", "--", _target(target), seconds=timeout), {})


def _target(name: str) -> str:
    if not _TARGET.fullmatch(name):
        raise Refused(f"{name!r} is no target: letters, digits, dots, colons and dashes")
    return name


def _result(done: Outcome, counts: dict[str, Any]) -> Output:
    text = "\n".join(part for part in (_decoded(done.output), _decoded(done.errors)) if part)
    if done.cut:
        text += "\n(cut)"
    return Output(text, ok=done.ok, error=done.end, facts={"exit_code": done.code, **counts})


def _decoded(content: bytes) -> str:
    return content.decode(errors="replace").strip()


def _path(box: Box) -> frozenset[str]:
    """Folders of the tree in which modules were looked for. Empty where the run did not come to its end."""
    with Tree(box.workspace.home) as home:
        try:
            lines = home.read(_PATH, _PATH_BYTES).decode(errors="surrogateescape").split("\n")
            home.remove(_PATH)
        except Refused:
            return frozenset()
    tree = box.workspace.tree_folder
    folders = (Path(os.path.normpath(tree / line)) for line in lines)
    return frozenset(folder.relative_to(tree).as_posix() for folder in folders if folder.is_relative_to(tree))


def _report(box: Box) -> tuple[dict[str, int], dict[str, str], str]:
    """From the report that pytest has written, or why there is nothing to be had from it. A test may have written it as well: what
    counts is run by the pipeline again.
    """
    with Tree(box.workspace.home) as home:
        try:
            content = home.read(_REPORT, _REPORT_BYTES)
            home.remove(_REPORT)
        except Refused as refusal:
            return {}, {}, f"pytest's report cannot be read: {refusal}"
    totals = dict.fromkeys(_TOTALS, 0)
    cases: dict[str, str] = {}
    case = ""

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal case
        if tag == "testcase":
            case = _case(attributes)
            cases.setdefault(case, "passed")
        elif tag in ("failure", "error", "skipped") and case:  # of several with one name the worst counts
            if cases[case] != "failed":
                cases[case] = "skipped" if tag == "skipped" else "failed"
        elif tag == "testsuite":
            for name in _TOTALS:
                if _NUMBER.fullmatch(value := attributes.get(name, "0")):
                    totals[name] += int(value)

    def refuse(*_: object) -> None:
        raise ValueError("a document type: its entities could grow")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)  # nothing is kept but the totals
    except (expat.ExpatError, ValueError) as error:
        return {}, {}, f"pytest's report cannot be read: {error}"
    passed = totals["tests"] - totals["failures"] - totals["errors"] - totals["skipped"]
    return totals | {"passed": passed}, cases, ""


def _case(attributes: dict[str, str]) -> str:
    """A test's name as pytest tells it: `file::Class::name`. Two classes of a file may have tests of one name."""
    file, dotted, name = (attributes.get(one, "") for one in ("file", "classname", "name"))
    module = file.removesuffix(".py").replace("/", ".")
    classes = "" if dotted == module else dotted.removeprefix(f"{module}.")
    return "::".join(filter(None, (file, classes.replace(".", "::") if file else dotted, name)))[:_NAME_CHARS]
