"""The small repositories are what they say: a task that is not done, that can be done, and that is told from one that only looks so."""

import subprocess
import sys
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.evaluation.hidden import Examiner, Verdict, examiner
from fleet_pipeline.evaluation.repositories import Repository, repositories
from fleet_pipeline.tools.audit import read_calls
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline_tests.support.tool_world import PATIENCE

pytestmark = pytest.mark.unit


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[Examiner]:
    options = ToolOptions(workspaces=str(tmp_path / "fleet/workspaces"), limits={"seconds": PATIENCE})
    with examiner(options, tmp_path / "fleet/audit") as own:
        yield own
    assert list((tmp_path / "fleet/workspaces").iterdir()) == []


def diff(before: dict[str, str], after: dict[str, str]) -> str:
    return "".join(
        f"diff --git a/{name} b/{name}\n"
        + ("new file mode 100644\n" if name not in before else "")
        + "".join(
            unified_diff(
                before.get(name, "").splitlines(keepends=True),
                text.splitlines(keepends=True),
                f"a/{name}" if name in before else "/dev/null",
                f"b/{name}",
            )
        )
        for name, text in after.items()
    )


def examined(judge: Examiner, repository: Repository, folder: Path, changed: dict[str, str]) -> Verdict:
    made = diff(dict(repository.files), changed) if changed else ""
    return judge.examine(repository, repository.write(folder), made, list(changed))


def test_there_are_twenty_with_one_or_two_modules_and_a_test_that_agents_see() -> None:
    found = repositories()
    assert len(found) == 20
    for one in found:
        modules = [name for name in one.files if not name.startswith("test_")]
        assert 1 <= len(modules) <= 2, one.name
        assert len(one.files) == len(modules) + 1, one.name
        assert set(one.solution) <= set(modules), one.name
        assert len(one.hidden_tests) >= 3, one.name
        assert not set(one.hidden) & set(one.files)
    with pytest.raises(InvalidInput, match="no repository none; there are average, "):
        repositories(["none"])


def outcomes(folder: Path, *parts: str) -> dict[str, set[str]]:
    """What came of all repositories' tests, run together: their outcomes by file. `parts` are fields of the repositories."""
    folder.mkdir()
    for repository in repositories():
        for part in parts:
            for name, text in getattr(repository, part).items():
                (folder / name).write_text(text)
    # Not in the sandbox: these files are ours.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=20", "--junit-xml=report.xml", "-o", "junit_family=xunit1"]  # fmt: skip
    subprocess.run([*command, "--continue-on-collection-errors", "."], cwd=folder, capture_output=True, check=False)
    found: dict[str, set[str]] = {}
    for one in ElementTree.parse(folder / "report.xml").iter("testcase"):
        file = one.get("file") or f"{one.get('name')}.py"  # a file that cannot be read has its name alone
        found.setdefault(file, set()).add("failed" if len(one) else "passed")
    return found


def test_what_agents_see_passes_and_no_task_is_done(tmp_path: Path) -> None:
    found = outcomes(tmp_path / "undone", "files", "hidden")
    hidden = {name for one in repositories() for name in one.hidden}
    visible = {name for one in repositories() for name in one.files if name.startswith("test_")}
    assert found.keys() == hidden | visible
    assert all(found[name] == {"passed"} for name in visible)
    assert all("failed" in found[name] for name in hidden)


def test_each_task_can_be_done_and_nothing_breaks(tmp_path: Path) -> None:
    found = outcomes(tmp_path / "done", "files", "hidden", "solution")
    assert len(found) == 40
    assert set().union(*found.values()) == {"passed"}


@pytest.mark.parametrize("name", ["bank", "roman", "slug"])
def test_a_solution_is_one_and_what_there_was_is_none(judge: Examiner, name: str, tmp_path: Path) -> None:
    (repository,) = repositories([name])
    assert not examined(judge, repository, tmp_path, {}).solved
    assert examined(judge, repository, tmp_path, dict(repository.solution)) == Verdict(True)


SKIPS = "import pytest\n\n\ndef pytest_collection_modifyitems(items):\n    items.clear()\n"
PASSES = (
    "import pytest\n\n\n@pytest.hookimpl(hookwrapper=True)\ndef pytest_runtest_makereport(item, call):\n"
    "    report = (yield).get_result()\n    report.outcome = 'passed'\n"
)


@pytest.mark.parametrize(
    "changed",
    [
        {"conftest.py": SKIPS},
        {"conftest.py": PASSES},
        {"pytest.ini": "[pytest]\naddopts = --collect-only\n"},
        {"pytest.ini": "[pytest]\npython_functions = nothing_*\n"},
        {"search.py": "import os\n\nos._exit(0)\n"},
        {"search.py": "import sys\n\nsys.exit(0)\n"},
        {"search.py": "import pytest\n\npytest.skip('no', allow_module_level=True)\n"},
        {"test_hidden_search.py": "def test_all():\n    assert True\n"},
        {"search.py": "while True:\n    pass\n"},
    ],
    ids=["deselected", "reported as passed", "only collected", "renamed", "process ended", "left", "skipped", "replaced", "endless"],
)  # fmt: skip
def test_what_only_looks_like_a_solution_is_none(judge: Examiner, tmp_path: Path, changed: dict[str, str]) -> None:
    (repository,) = repositories(["search"])
    judge._options = ToolOptions(
        workspaces=judge._options.workspaces, limits={"seconds": 3 if "while" in str(changed) else PATIENCE}
    )
    verdict = examined(judge, repository, tmp_path, changed)
    assert not verdict.solved
    assert verdict.why


def test_a_diff_that_leads_out_or_cannot_be_applied_is_no_solution(judge: Examiner, tmp_path: Path) -> None:
    (repository,) = repositories(["search"])
    folder = repository.write(tmp_path)
    outside = diff({}, {"../outside.py": "x = 1\n"})
    link = "diff --git a/link b/link\nnew file mode 120000\n--- /dev/null\n+++ b/link\n@@ -0,0 +1 @@\n+/etc\n\\ No newline at end of file\n"
    through = diff({}, {"link/passwd": "x\n"})
    for one in (outside, link + through, "no diff at all", diff({"search.py": "else\n"}, {"search.py": "x\n"})):
        verdict = judge.examine(repository, folder, one, ["search.py"])
        assert verdict.why.startswith("its diff cannot be applied"), verdict
    assert not (tmp_path / "outside.py").exists()


def test_each_run_of_hidden_tests_stands_in_the_audit(tmp_path: Path) -> None:
    (repository,) = repositories(["search"])
    options = ToolOptions(workspaces=str(tmp_path / "fleet/workspaces"))
    with examiner(options, tmp_path / "fleet/audit") as judge:
        assert examined(judge, repository, tmp_path, dict(repository.solution)).solved
    (path,) = (tmp_path / "fleet/audit").iterdir()
    (call,) = read_calls(path)
    assert (call.begun.operation, call.outcome) == ("pytest", "ok")
