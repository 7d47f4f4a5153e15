"""Each operation: what it does, what it refuses, and what it leaves alone where nothing may be changed."""

import inspect
import json
import os
import random
import shutil
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fleet_pipeline.tools.audit import read_calls
from fleet_pipeline.tools.families import files
from fleet_pipeline.tools.families.git import artifacts
from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline.tools.sandbox.sandbox import Sandbox
from fleet_pipeline.tools.toolbox import FAMILIES, Toolbox, call_schema, prompt_text
from fleet_pipeline_tests.support import tools_page
from fleet_pipeline_tests.support.tool_world import World, a_world

pytestmark = pytest.mark.unit
ALL = {f"{family.name}.{one.name}": one for family in FAMILIES.values() for one in family.operations.values()}


def text_of(world: World, path: str) -> str:
    return (world.workspace.tree_folder / path).read_text()


# -- files


def test_files_are_written_read_edited_moved_copied_and_removed(world: World) -> None:
    assert world.call("files.write_file", path="src/new.py", content="a = 1\nb = 2\na = 3\n").ok
    assert world.call("files.read_file", path="src/new.py", first_line=2, lines=1).output == "b = 2\n"
    assert world.call("files.append_file", path="src/new.py", content="c = 4\n").ok
    twice = world.call("files.edit_file", path="src/new.py", search="a = ", replace="x = ")
    assert (twice.ok, twice.outcome) == (False, "refused")
    assert "occurs 2 times" in twice.error
    assert world.call("files.edit_file", path="src/new.py", search="a = ", replace="x = ", count=2).ok
    assert text_of(world, "src/new.py") == "x = 1\nb = 2\nx = 3\nc = 4\n"
    assert world.call("files.copy_file", path="src/new.py", to="copy.py").ok
    assert world.call("files.move_file", path="copy.py", to="src/moved.py").ok
    assert not world.call("files.move_file", path="app.py", to="src/moved.py").ok
    assert world.call("files.diff_files", path="src/new.py", other="src/moved.py").output == ""
    assert world.call("files.mkdir", path="src/deep/er").ok
    listed = world.call("files.list_files", recursive=True, pattern="*.py").output.splitlines()
    assert listed == ["app.py", "test_app.py", "src/moved.py", "src/new.py"]
    info = json.loads(world.call("files.file_info", path="src/new.py").output)
    assert (info["kind"], info["bytes"]) == ("file", 24)
    assert not world.call("files.delete_file", path="src").ok
    assert world.call("files.delete_file", path="src", recursive=True).ok
    assert world.call("files.list_files").output.splitlines() == ["app.py", "test_app.py"]


def test_a_search_finds_lines_of_text_files_by_their_endings(world: World) -> None:
    world.call("files.write_file", path="deep/notes.md", content="def of a word\n")
    (world.workspace.tree_folder / "binary.py").write_bytes(b"\0def\n")
    found = world.call("files.search_in_files", pattern="^def", extensions=["py"])
    assert sorted(found.output.splitlines()) == ["app.py:1:def one():", "test_app.py:4:def test_one():"]
    assert world.call("files.search_in_files", pattern="word", path="deep").output == "deep/notes.md:1:def of a word"
    assert (
        world.call("files.search_in_files", pattern="word", path="deep/notes.md").output
        == "deep/notes.md:1:def of a word"
    )
    assert world.call("files.search_in_files", pattern="nothing of it").output == ""
    assert not world.call("files.search_in_files", pattern="(").ok
    assert world.call("files.search_in_files", pattern="--help").output == ""


def test_what_is_no_text_or_too_long_is_told_and_not_read(world: World) -> None:
    (world.workspace.tree_folder / "b").write_bytes(b"x\0y")
    (world.workspace.tree_folder / "latin").write_bytes(b"\xe9")
    (world.workspace.tree_folder / "long").write_bytes(b"x" * 10_000_001)
    for path, why in {
        "b": "is no text",
        "latin": "is not UTF-8",
        "long": "at most",
        "absent": "does not exist",
    }.items():
        result = world.call("files.read_file", path=path)
        assert result.outcome == "refused"
        assert result.error.startswith(f"{path}: ")
        assert why in result.error


def test_a_replacement_that_would_be_huge_is_refused_before_it_is_made(world: World) -> None:
    """A gigabyte was made, and then found too long."""
    world.call("files.write_file", path="a", content="a" * 5_000_000)
    tracemalloc.start()
    result = world.call("files.edit_file", path="a", search="a", replace="b" * 1_000_000, count=5_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "would have 5,000,000,000,000 bytes" in result.error
    assert peak < 10**8


def test_a_comparison_that_takes_the_square_of_its_lines_ends_at_its_bound(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SEARCH_SECONDS", 1.0)
    lines = [f"line {number % 90_000}" for number in range(180_000)]
    chance = random.Random(1)
    for name in ("a", "b"):
        chance.shuffle(lines)
        world.call("files.write_file", path=name, content="\n".join(lines))
    result = world.call("files.diff_files", path="a", other="b")
    assert result.ok or "stopped by the bound on time" in result.error


def test_names_of_any_bytes_are_listed_so_that_every_encoder_takes_them(world: World) -> None:
    for name in (b"\xff\xfe", b"a\nb", b"\x1b[2J", b"-rf", b"x" * 255):
        (world.workspace.tree_folder / os.fsdecode(name)).write_text("def\n")
    for call in ("files.list_files", "git.status", "git.add"):
        result = world.call(call)
        assert result.ok, result.error
        result.output.encode()
        assert "\x1b" not in result.output
    assert world.call("files.read_file", path="a\nb").ok
    assert len(artifacts(world.box).files_changed) == 5


# -- git


def test_work_is_committed_and_its_commits_files_and_diff_are_artifacts(world: World) -> None:
    world.call("files.write_file", path="app.py", content="def one():\n    return 2\n")
    world.call("files.write_file", path="new file.txt", content="new\n")
    assert "app.py" in world.call("git.status", short=True).output
    assert "+    return 2" in world.call("git.diff").output
    assert world.call("git.add", paths=["app.py"]).ok
    assert world.call("git.diff", cached=True, files=["app.py"]).output.count("return 2") == 1
    done = world.call("git.commit", message="Return two\n\nBecause.", author="QA <qa@example.com>")
    assert done.ok, done.error
    assert world.call("git.log", max_count=1).output.count("QA <qa@example.com>") == 1
    assert "Return two" in world.call("git.show", commit=done.facts["commit"]).output
    made = artifacts(world.box)
    assert made.commits == (done.facts["commit"],)
    assert made.files_changed == ("app.py", "new file.txt")
    assert "+new" in made.diff
    assert not made.cut
    for number in range(100):
        world.workspace.tree.write(f"{number}-{'x' * 200}", b"")
    assert artifacts(Box(world.workspace, world.box.sandbox, ToolOptions(limits={"output_kib": 4}))).cut


def test_branches_are_made_pushed_pulled_and_deleted_within_the_workspace(world: World) -> None:
    assert world.call("git.checkout", branch="feature/x", create=True).ok
    world.call("files.write_file", path="x.txt", content="x")
    world.call("git.add")
    world.call("git.commit", message="x")
    assert world.call("git.push").ok
    assert world.call("git.checkout", branch="main").ok
    assert not (world.workspace.tree_folder / "x.txt").exists()
    assert world.call("git.pull", branch="feature/x").ok
    assert text_of(world, "x.txt") == "x"
    assert world.call("git.branch", delete="feature/x").ok
    assert "feature/x" not in world.call("git.branch").output
    world.call("files.write_file", path="x.txt", content="lost")
    assert world.call("git.restore", paths=["x.txt"]).ok
    assert text_of(world, "x.txt") == "x"
    assert world.call("git.clone", branch="main").ok
    assert not (world.workspace.tree_folder / "x.txt").exists()


def test_a_push_that_would_lose_commits_of_origin_is_refused_unless_forced(world: World) -> None:
    for number in (1, 2):
        world.call("files.write_file", path="x.txt", content=str(number))
        world.call("git.add")
        world.call("git.commit", message=str(number))
        if number == 1:
            assert world.call("git.push").ok
            assert world.call("git.checkout", branch="other", create=True).ok
    assert world.call("git.push", branch="other").ok
    assert world.call("git.clone", branch="other").ok
    assert world.call("git.push", branch="main").ok


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("git.checkout", {"branch": "--orphan"}),
        ("git.checkout", {"branch": "a..b"}),
        ("git.show", {"commit": "--output=/tmp/x"}),
        ("git.show", {"commit": "HEAD:../../x"}),
        ("git.branch", {"delete": "-D"}),
        ("git.add", {"paths": ["--exec=x"]}),
        ("git.add", {"paths": ["../outside"]}),
        ("git.diff", {"files": ["/etc/passwd"]}),
        ("git.commit", {"message": "m", "author": "A <a>\nB <b>"}),
        ("git.push", {"branch": "--receive-pack=x"}),
    ],
)
def test_an_argument_that_git_would_take_for_something_else_is_refused(
    world: World, name: str, arguments: dict[str, Any]
) -> None:
    assert world.call(name, **arguments).outcome == "refused"
    world.unharmed()


def test_hooks_filters_and_configuration_that_a_workspace_brings_are_not_used(world: World) -> None:
    """Planted where git would look: in the tree, in the HOME of programs, and by attributes."""
    mark = world.workspace.home / "was-run"
    run = f"touch {mark}"
    tree = world.workspace.tree_folder
    (tree / ".git/hooks").mkdir(parents=True)
    for hook in ("pre-commit", "post-commit", "post-checkout", "pre-push"):
        (tree / ".git/hooks" / hook).write_text(f"#!/bin/sh\n{run}\n")
        (tree / ".git/hooks" / hook).chmod(0o755)
    evil = f'[core]\n fsmonitor = "{run}"\n pager = "{run}"\n[filter "evil"]\n clean = "{run}"\n smudge = "{run}"\n[diff "evil"]\n textconv = "{run}"\n command = "{run}"\n'
    (tree / ".git/config").write_text(evil)
    (world.workspace.home / ".gitconfig").write_text(evil)
    (tree / ".gitattributes").write_text("* filter=evil diff=evil\n")
    (tree / ".gitmodules").write_text(f'[submodule "m"]\n path = m\n url = "ext::sh -c {run}"\n')
    for name, arguments in (("git.status", {}), ("git.add", {}), ("git.commit", {"message": "m"}), ("git.diff", {}), ("git.log", {}),
                            ("git.checkout", {"branch": "b", "create": True}), ("git.push", {}), ("git.pull", {"branch": "main"}),
                            ("git.show", {}), ("git.clone", {})):  # fmt: skip
        world.call(name, **arguments)
    artifacts(world.box)
    assert not mark.exists()


def test_a_repository_within_the_tree_runs_nothing_where_the_repository_can_be_written(world: World) -> None:
    """Once it is a submodule, git follows the configuration that it brings, filters included."""
    mark = world.workspace.git_folder / "marked"
    made = world.run(
        f"""
import os, subprocess
os.environ.update(GIT_CONFIG_NOSYSTEM="1", GIT_CONFIG_GLOBAL="/dev/null")
def git(*a): subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *a], check=True)
open("run.sh", "w").write("#!/bin/sh\\ntouch {mark}\\ncat\\n")
git("init", "-q", "sub"); open("sub/f", "w").write("1"); git("-C", "sub", "add", "."); git("-C", "sub", "commit", "-qm", "m")
git("-C", "sub", "config", "filter.z.clean", "sh " + os.getcwd() + "/run.sh"); git("-C", "sub", "config", "core.fsmonitor", "touch {mark}")
open("sub/.gitattributes", "w").write("f filter=z\\n"); open("sub/f", "w").write("2")
"""
    )
    assert made.ok, made.errors
    refused = world.call("git.add")
    assert refused.outcome == "refused"
    assert refused.error.startswith("sub: is a repository within the repository")
    # Even where its link is in the index, as a source with submodules brings it.
    head = (world.workspace.tree_folder / "sub/.git/refs/heads").glob("*").__next__().read_text().strip()
    subprocess.run(
        [
            "git",
            f"--git-dir={world.workspace.git_folder}",
            "update-index",
            "--add",
            "--cacheinfo",
            f"160000,{head},sub",
        ],
        check=True,
    )
    for name in ("git.status", "git.diff", "git.commit", "git.show", "git.log"):
        world.call(name, **({"message": "m"} if name == "git.commit" else {}))
    assert artifacts(world.box).cut
    assert not mark.exists()


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.open('locked', os.O_CREAT | os.O_WRONLY, 0)",
        "open('.gitattributes', 'w').write('enc.txt working-tree-encoding=UTF-16\\n'); open('enc.txt', 'w').write('abc')",
        "import os\nfor n in ('objects', 'refs'): os.makedirs('sub/.git/' + n)\nopen('sub/.git/HEAD', 'w').write('ref: refs/heads/main')",
        "import os\nos.makedirs(os.environ['HOME'] + '/.config/git'); open(os.environ['HOME'] + '/.config/git/ignore', 'w').write('*')",
    ],
)
def test_work_that_git_cannot_take_is_not_lost_in_silence(world: World, code: str) -> None:
    world.run(code)
    world.call("files.write_file", path="evil.py", content="x")
    made = artifacts(world.box)
    assert "evil.py" in made.files_changed
    assert made.cut is ("locked" in code or "sub" in code)


def test_an_agent_can_hide_no_file_from_its_artifacts(world: World) -> None:
    world.call("files.write_file", path=".gitignore", content="evil.py\nout/\n")
    for path in ("evil.py", "out/a", "out/b"):
        world.call("files.write_file", path=path, content="x")
    world.workspace.tree.write("app.py", b"def one():\n    return 3  # \0\n")
    made = artifacts(world.box)
    assert made.files_changed == (".gitignore", "app.py")
    assert made.ignored == ("evil.py", "out/")
    assert "+    return 3" in made.diff  # a NUL byte makes no file unreadable
    assert "+    return 3" in world.call("git.diff", cached=True).output


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.mkdir('src', 0o300); open('src/extra.py', 'w').write('x')",
        "import os; os.mkdir('.git'); open('.git/extra.py', 'w').write('x')",
    ],
)
def test_what_git_cannot_see_is_said_to_be_missing(world: World, code: str) -> None:
    world.run(code)
    assert artifacts(world.box).cut


def test_ends_of_lines_are_changes_whatever_the_tree_says_of_them(world: World) -> None:
    world.workspace.tree.write(".gitattributes", b"* text eol=lf\n")
    world.workspace.tree.write("app.py", b"def one():\r\n    return 1\r\n")
    assert artifacts(world.box).files_changed == (".gitattributes", "app.py")


def test_lines_are_numbered_as_grep_and_git_number_them(world: World) -> None:
    world.workspace.tree.write("forms.txt", "one\ftwo\x85three\u2028\r\nfour\rfive\nsix".encode())
    assert world.call("files.search_in_files", pattern="four", path="forms.txt").output.startswith("forms.txt:2:")
    assert world.call("files.read_file", path="forms.txt", first_line=2, lines=1).output.startswith("four")
    assert world.call("files.read_file", path="forms.txt", first_line=10**30, lines=10**30).output == ""


def test_files_without_content_do_not_grow_in_number_from_call_to_call(tmp_path: Path) -> None:
    """A disk has room for a number of files: they were stopped one program at a time, and the next one made as many again."""
    with a_world(tmp_path / "small", options=ToolOptions(limits={"disk_mib": 4, "seconds": 20})) as small:
        assert (
            small.run("import os\nos.mkdir('d')\nfor n in range(2_000): open(f'd/{n}', 'w').close()").stopped == "disk"
        )
        assert "more than 4,194,304 bytes" in small.call("tests.pytest").error


def test_file_operations_keep_to_the_bound_on_the_disk(tmp_path: Path) -> None:
    with a_world(tmp_path / "small", options=ToolOptions(limits={"disk_mib": 4})) as small:
        results = [small.call("files.write_file", path=f"{n}", content="x" * 500_000) for n in range(20)]
        assert 6 <= sum(result.ok for result in results) <= 8
        assert "more than 4,194,304 bytes" in results[-1].error
        assert small.call("files.delete_file", path="0").ok
        assert small.call("files.write_file", path="0", content="x" * 400_000).ok


def test_no_program_starts_where_the_workspace_has_more_than_its_bound(tmp_path: Path) -> None:
    with a_world(tmp_path / "small", options=ToolOptions(limits={"disk_mib": 4})) as small:
        (small.workspace.tree_folder / "left").write_bytes(b"x" * 5_000_000)
        calls: dict[str, dict] = {
            "tests.pytest": {},
            "git.add": {},
            "db.sqlite_query": {"path": "a.db", "query": "select 1"},
        }
        for name, arguments in calls.items():
            assert "more than 4,194,304 bytes" in small.call(name, **arguments).error, name
        assert small.call("git.status").ok
        assert small.call("files.delete_file", path="left").ok
        assert small.call("tests.pytest").ok


def test_what_programs_leave_in_their_home_does_not_grow_from_call_to_call(tmp_path: Path) -> None:
    """Each was ended above the bound, and the next one added as much again; and no operation could remove it."""
    with a_world(tmp_path / "small", options=ToolOptions(limits={"disk_mib": 4, "seconds": 20})) as small:
        for number in range(3):
            code = f"open({str(small.workspace.home / str(number))!r}, 'wb').write(bytes(10**7))"
            assert small.run(code).stopped == "disk"
        assert [one.name for one in small.workspace.home.iterdir()] == ["2"]
        assert small.call("tests.pytest").ok


def test_the_repository_does_not_grow_from_call_to_call(tmp_path: Path) -> None:
    with a_world(tmp_path / "small", options=ToolOptions(limits={"disk_mib": 4, "seconds": 20})) as small:
        for _ in range(4):
            (small.workspace.tree_folder / "data").write_bytes(os.urandom(2_000_000))
            added = small.call("git.add")
        assert "more than 4,194,304 bytes" in added.error
        assert small.call("git.log").ok
        assert sum(file.stat().st_size for file in small.workspace.git_folder.rglob("*")) < 7_000_000


def test_settings_that_a_program_leaves_in_its_home_do_not_steer_a_call_that_may_only_read(world: World) -> None:
    world.run("import os; open(os.environ['HOME'] + '/.npmrc', 'w').write('x'); open('seen.py', 'w').write('x')")
    reading = Toolbox(Box(world.workspace, world.box.sandbox, world.box.options, read_only=True), world.audit)
    assert reading.call("tests.pytest", {}).facts["passed"] == 1
    assert not (world.workspace.home / ".npmrc").exists()


def test_a_second_name_in_home_of_a_file_is_no_way_to_change_it_where_nothing_may_be_changed(world: World) -> None:
    world.call("db.sqlite_query", path="data.db", query="create table t(a)")
    reading = Toolbox(Box(world.workspace, world.box.sandbox, world.box.options, read_only=True), world.audit)
    for name in ("l", "l?mode=rw&y"):
        assert world.run(f"import os; os.link('data.db', os.environ['HOME'] + {'/' + name!r})").ok
        world.run(f"import os; os.symlink('../home/' + {name!r}, {name!r})")
        before = (world.workspace.tree_folder / "data.db").read_bytes()
        reading.call("db.sqlite_query", {"path": name, "query": "insert into t values (1)"})
        assert (world.workspace.tree_folder / "data.db").read_bytes() == before
    assert reading.call("git.status", {}).ok
    assert list(world.workspace.home.iterdir()) == []


def test_settings_of_pytest_above_the_workspaces_do_not_keep_tests_from_being_run(world: World) -> None:
    """Workspaces lie in the project's own `.fleet`: its pyproject.toml was found, and could not be read."""
    for name in ("pyproject.toml", "pytest.ini"):
        (world.root / name).write_text(
            "[pytest]\naddopts = --no-such-option\n[tool.pytest.ini_options]\naddopts = '--no-such-option'\n"
        )
    assert world.call("tests.pytest").facts["passed"] == 1
    world.workspace.tree.write("pytest.ini", b"[pytest]\npython_files = check_*.py\n")  # one's own counts
    assert world.call("tests.pytest").facts["tests"] == 0


def test_a_long_output_is_cut_before_it_is_made_printable(world: World) -> None:
    world.workspace.tree.write("long", b"\x01" * 9_000_000)
    result = world.call("files.read_file", path="long")
    most = ToolOptions().limits.output_kib * 1_024
    assert result.output.startswith(r"\x01\x01")
    assert result.output.count(r"\x01") == most
    assert result.output.endswith(f"\n(cut: {9_000_000 - most:,} more characters; ask for less at a time)")


def test_a_git_that_was_stopped_leaves_no_lock_for_the_next_one(world: World) -> None:
    (world.workspace.git_folder / "index.lock").touch()
    assert world.call("git.add").ok


# -- tests


def test_tests_are_run_and_counted(world: World) -> None:
    passed = world.call("tests.pytest")
    assert passed.ok, passed
    assert (passed.facts["tests"], passed.facts["passed"]) == (1, 1)
    world.call("files.write_file", path="app.py", content="def one():\n    return 3\n")
    failed = world.call("tests.pytest", path="test_app.py", verbose=True)
    assert (failed.ok, failed.outcome, failed.facts["failures"]) == (False, "failed", 1)
    assert "assert 3 == 1" in failed.output
    marked = world.call("tests.pytest", markers="not slow")
    assert marked.facts["tests"] == 1
    assert world.call("tests.pytest", markers="-p evil").outcome == "refused"


def test_unittest_and_make_run_in_the_workspace(world: World) -> None:
    world.call(
        "files.write_file",
        path="test_u.py",
        content="import unittest\nclass T(unittest.TestCase):\n def test(self): pass\n",
    )
    assert world.call("tests.unittest").facts["tests"] == 1
    world.call("files.write_file", path="Makefile", content="check:\n\t@echo made > made.txt; cat made.txt\n")
    assert world.call("tests.make_test", target="check").output == "made"
    assert world.call("tests.make_test", target="--eval=x:;id").outcome == "refused"


@pytest.mark.parametrize(("program", "name"), [("npm", "npm_test"), ("cargo", "cargo_test"), ("go", "go_test")])
def test_a_runner_that_is_not_there_says_so(world: World, program: str, name: str) -> None:
    if shutil.which(program, path="/usr/local/bin:/usr/bin:/bin"):
        assert world.call(f"tests.{name}").outcome == "failed"  # there is no package here
    else:
        assert world.call(f"tests.{name}").error == f"{program} is not installed here"


def test_a_test_that_hangs_is_stopped_with_what_it_said(world: World) -> None:
    world.call("files.write_file", path="test_h.py", content="def test_h():\n    import time\n    time.sleep(100)\n")
    result = world.call("tests.pytest", path="test_h.py", timeout=3)
    assert (result.outcome, result.error) == ("failed", "stopped by the bound on time")
    world.unharmed()


def test_a_report_that_a_test_has_written_itself_is_read_without_harm(world: World) -> None:
    """Entities that grow, and numbers that are none."""
    hidden = '<?x <testsuite ?><!DOCTYPE r [<!ENTITY a "3">]><r><testsuite tests="&a;"/></r>'
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><testsuite tests="&b;"/>'
    for text in (
        bomb,
        hidden,
        "<r>" + '<testsuite tests="' + "9" * 4_300 + '"/></r>',
        '<testsuite tests="many"/>',
        "<",
        '<testsuite tests="1"' + " " * 1_000,
    ):
        code = f"import os\ndef pytest_unconfigure(config):\n    for p in os.listdir(os.environ['HOME']): open(os.path.join(os.environ['HOME'], p), 'w').write({text!r})\n"
        world.call("files.write_file", path="conftest.py", content=code)
        result = world.call("tests.pytest")
        assert result.outcome in ("ok", "failed")
        assert not result.facts.get("tests"), text
        json.dumps(dict(result.facts))


# -- sqlite


def test_sqlite_reads_and_writes_a_file_of_the_workspace_and_nothing_else(world: World) -> None:
    def query(text: str, path: str = "d.db", **more: Any) -> Any:
        return world.call("db.sqlite_query", path=path, query=text, **more)

    assert query("create table t(a)").ok
    assert query("insert into t values (?), (?)", params=["x", 2]).facts["rows_affected"] == 2
    assert json.loads(query("select a from t").output) == {"columns": ["a"], "rows": [["x"], [2]]}
    assert not query("select 1; drop table t").ok
    assert not query(f"attach '{world.outside}/data.db' as other").ok
    assert not query("select a from t", path=str(world.outside / "data.db")).ok
    assert not query("select load_extension('/lib/x.so')").ok
    many = query("with recursive n(i) as (select 1 union all select i + 1 from n) select i from n")
    assert many.facts["rows"] == 1_000
    endless = query("with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n", timeout=2)
    assert endless.error == "stopped by the bound on time"
    world.unharmed()


# -- read-only, roles, and what is missing


def test_where_nothing_may_be_changed_no_operation_changes_anything(reading: World) -> None:
    (reading.workspace.tree_folder / "Makefile").write_text("test:\n\techo x > made.txt\n")
    (reading.workspace.tree_folder / "test_w.py").write_text("def test_w():\n    open('made.txt', 'w')\n")
    (reading.workspace.tree_folder / "package.json").write_text('{"scripts": {"test": "echo x > made.txt"}}')
    reading.workspace.tree_folder.joinpath("d.db").touch()
    before = _everything(reading.workspace.place)
    tried = {
        "files.write_file": {"path": "x", "content": ""},
        "files.delete_file": {"path": "app.py"},
        "git.branch": {"delete": "main"},
        "git.commit": {"message": "m"},
        "git.checkout": {"branch": "b", "create": True},
        "http.request": {"method": "POST", "url": "http://127.0.0.1/"},
        "tests.make_test": {},
        "tests.npm_test": {},
        "tests.pytest": {"path": "test_w.py"},
        "db.sqlite_query": {"path": "d.db", "query": "create table t(a)"},
    }
    for name, arguments in tried.items():
        assert not reading.call(name, **arguments).ok, name
    for name in ("git.status", "git.log", "git.diff", "git.branch", "files.list_files"):
        assert reading.call(name).ok, name
    after = _everything(reading.workspace.place)
    assert {path for path in after.items() ^ before.items() if "/home" not in path[0]} == set()


def _everything(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_every_operation_that_writes_is_refused_where_nothing_may_be_changed(reading: World) -> None:
    available = reading.tools.available()
    for name, operation in ALL.items():
        if operation.writes:
            assert name not in available
            assert (
                "read-only" in reading.call(name).error
                or "needs" in reading.call(name).error
                or "no hosts" in reading.call(name).error
            )


@pytest.mark.parametrize(
    ("role", "families"),
    [("DEV", {"files", "git", "tests"}), ("QA", {"files", "tests", "http"}), ("ARCHITECT", {"files", "git", "db", "http"}),
     ("DEVOPS", {"docker", "files", "http", "tests"}), ("DATA", {"db", "files", "tests"}), ("PO", {"files"})],
)  # fmt: skip
def test_a_role_may_call_its_families_alone(world: World, role: str, families: set[str]) -> None:
    tools = Toolbox(world.box, world.audit, role)
    assert set(tools.families) == families
    for name in FAMILIES:
        result = tools.call(f"{name}.{next(iter(FAMILIES[name].operations))}", {})
        assert (f"the role {role} may call" in result.error) is (name not in families)


def test_without_a_sandbox_what_executes_is_refused_with_the_reason_and_the_rest_goes_on(world: World) -> None:
    tools = Toolbox(Box(world.workspace, Sandbox(False, None, "none", "Landlock has version 0 here")), world.audit)
    for name, operation in ALL.items():
        if operation.executes:
            result = tools.call(name, {})
            assert (result.outcome, result.sandbox) == ("refused", "none")
            assert "Landlock has version 0 here" in result.error
    assert tools.call("files.read_file", {"path": "app.py"}).ok
    assert not set(tools.available()) & {name for name, one in ALL.items() if one.executes}


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("files.nothing", {}, "no such operation"),
        ("nothing", {}, "no such operation"),
        ("", {}, "no such operation"),
        ("files.read_file", {}, "path"),
        ("files.read_file", {"path": 3}, "path"),
        ("files.read_file", {"path": "a", "more": 1}, "more"),
        ("files.read_file", {"path": "a", "lines": -1}, "lines"),
        ("files.write_file", {"path": "a", "content": "\ud800"}, "content"),
        ("http.get", {"url": "http://x/"}, "no hosts are named"),
    ],
)
def test_a_call_that_is_wrong_is_told_what_is_and_ends_in_the_audit(
    world: World, name: str, arguments: dict[str, Any], said: str
) -> None:
    result = world.call(name, **arguments)
    assert result.outcome == "refused"
    assert said in result.error


def test_a_call_that_no_parser_would_take_is_refused_and_in_the_audit(world: World) -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    many = {f"a{number}": 1 for number in range(50_000)}
    calls = [("http.post", {"url": "http://x/", "json_data": deep}), ("files.read_file", many), ("git.add", {"paths": ["a" * 1_000] * 1_000}),
             (5, {}), ("https://u:hunter2pw@h/x", {}), ("files." + "x" * 10_000, {})]  # fmt: skip
    for number, (name, arguments) in enumerate(calls, start=1):
        result = world.tools.call(name, arguments)
        assert result.outcome == "refused", name
        assert len(result.error) < 5_000
        audited = list(read_calls(world.audit.path))
        assert len(audited) == number
        assert len(audited[-1].begun.operation) <= 200
    assert "hunter2pw" not in world.audit.path.read_text()


# -- one declaration


def test_every_operation_tells_what_it_does_and_what_its_arguments_are() -> None:
    assert len(ALL) >= 42
    for name, operation in ALL.items():
        assert operation.help.endswith("."), name
        assert next(iter(inspect.signature(operation.function).parameters)) == "box"
        Draft202012Validator.check_schema(operation.schema)
        assert operation.schema["additionalProperties"] is False
        assert '"title"' not in json.dumps(operation.schema)
    assert len(prompt_text(ALL).splitlines()) == len(ALL)


def test_the_grammar_takes_what_validation_takes(world: World) -> None:
    grammar = Draft202012Validator(call_schema(world.tools.available()))
    good = {"tool": "files.read_file", "arguments": {"path": "app.py"}}
    assert grammar.is_valid(good)
    for bad in (
        good | {"arguments": {}},
        good | {"arguments": {"path": 1}},
        good | {"tool": "files.none"},
        good | {"more": 1},
    ):
        assert not grammar.is_valid(bad)
    assert "http.get" not in world.tools.available()
    named = Box(world.workspace, world.box.sandbox, ToolOptions(http={"hosts": ["example.com"]}))
    assert "http.get" in Toolbox(named, world.audit).available()


def test_the_page_of_tools_has_the_operations_as_they_are_declared() -> None:
    text = tools_page.PAGE.read_text(encoding="utf-8")
    assert text == tools_page.with_table(text), "run: python -m fleet_pipeline_tests.support.tools_page"
    assert tools_page.EARLIER.keys() <= ALL.keys()


def test_every_operation_of_the_earlier_system_is_there() -> None:
    earlier = {
        "git": "clone status add commit push pull checkout branch diff log",
        "files": "read_file write_file append_file search_in_files list_files edit_file delete_file mkdir file_info diff_files",
        "tests": "pytest go_test npm_test cargo_test make_test",
        "docker": "build run exec ps logs stop rm",
        "http": "get post put patch delete head request",
        "db": "postgresql_query redis_command neo4j_query",
    }
    assert {f"{family}.{name}" for family, names in earlier.items() for name in names.split()} <= ALL.keys()
