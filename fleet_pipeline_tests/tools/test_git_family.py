"""Git: what its operations do, what of a tree it does not follow, and what work it tells of."""

import os
import subprocess
from typing import Any

import pytest

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.tools.families.git import artifacts, ignored, put_back
from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline_tests.support.tool_world import World

pytestmark = pytest.mark.unit


def text_of(world: World, path: str) -> str:
    return (world.workspace.tree_folder / path).read_text()


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


def test_a_git_that_was_stopped_leaves_no_lock_for_the_next_one(world: World) -> None:
    (world.workspace.git_folder / "index.lock").touch()
    assert world.call("git.add").ok


def test_what_git_ignores_is_not_known_where_git_fails(world: World) -> None:
    """Nothing was taken to be ignored then, for all agents of the run: what had been there from the start was taken away for their tests."""
    world.workspace.tree.write(".gitignore", b"*.log\n")
    world.workspace.tree.write("a.log", b"")
    head = world.workspace.git_folder / "HEAD"
    kept = head.rename(head.with_name("kept"))
    with pytest.raises(Refused, match="not known"):
        ignored(world.box)
    kept.rename(head)
    assert ignored(world.box) == ("a.log",)


def test_any_number_of_files_with_names_of_any_bytes_can_be_put_back(world: World) -> None:
    """Their names were arguments, and too long for a program; one in Latin-1 was not there."""
    names = [f"tests/fixtures/{'recorded-answer-' * 8}{number:04}.json" for number in range(1_500)]
    folder = world.workspace.tree_folder / "tests/fixtures"
    folder.mkdir(parents=True)
    odd = os.fsdecode(b"tests/fixtures/caf\xe9.txt")
    for name in (*names, odd):
        (world.workspace.tree_folder / name).write_text("before")
    world.call("git.add")
    world.call("git.commit", message="Record")
    commit = world.call("git.log", max_count=1, oneline=True).output.split()[0]
    for name in (*names, odd):
        (world.workspace.tree_folder / name).write_text("after")
    changed = artifacts(world.box, commit).files_changed
    assert set(changed) == {*names, odd}
    assert put_back(world.box, commit, changed).ok
    assert {text_of(world, name) for name in (*names, odd)} == {"before"}


def test_where_nothing_may_be_changed_git_takes_no_lock_away(reading: World) -> None:
    lock = reading.workspace.git_folder / "index.lock"
    lock.touch()
    assert reading.call("git.status").ok
    assert lock.exists()
