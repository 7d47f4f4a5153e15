"""Workspaces: made from anything, copied, bounded, and removed whatever happens."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fleet_pipeline.common.errors import InvalidInput, Refused
from fleet_pipeline.tools.audit import Audit, read_calls
from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.sandbox.sandbox import Sandbox
from fleet_pipeline.tools.sources import GIT_ENVIRONMENT, Source, git, size_of
from fleet_pipeline.tools.toolbox import Toolbox
from fleet_pipeline.tools.tree import Tree, remove_tree
from fleet_pipeline.tools.workspace import LOCK, Workspaces, open_kept
from fleet_pipeline_tests.support.git_server import a_git_server
from fleet_pipeline_tests.support.tool_world import processes_in

pytestmark = pytest.mark.unit


def a_repository(folder: Path) -> Path:
    folder.mkdir()
    (folder / "app.py").write_text("x = 1\n")
    (folder / "link").symlink_to("app.py")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    run = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(folder)]
    for command in (
        ["init", "-q", "-b", "trunk"],
        ["add", "."],
        ["commit", "-qm", "First"],
        ["commit", "-qm", "Second", "--allow-empty"],
    ):
        subprocess.run([*run, *command], check=True)
    (folder / "app.py").write_text("x = 2\n")
    return folder


def tools(workspace, tmp_path: Path) -> Toolbox:
    return Toolbox(Box(workspace, Sandbox.find()), Audit(tmp_path / "audit"))


def test_a_folder_with_a_repository_comes_with_its_history_and_its_open_changes(tmp_path: Path) -> None:
    source = Source(folder=a_repository(tmp_path / "source"))
    with Workspaces(tmp_path / "ws").make("one", source) as one:
        own = tools(one, tmp_path)
        assert [line.split(" ", 1)[1] for line in own.call("git.log", {"oneline": True}).output.splitlines()] == [
            "Second",
            "First",
        ]
        assert "+x = 2" in own.call("git.diff", {}).output
        assert (one.tree_folder / "link").readlink() == Path("app.py")
        assert os.access(one.tree_folder / "run.sh", os.X_OK)
        assert not (one.tree_folder / ".git").exists()
    assert list((tmp_path / "ws").iterdir()) == []


def test_a_repository_is_fetched_over_https_at_its_head_or_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = a_repository(tmp_path / "source")
    run = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(origin)]
    for command in (["branch", "old", "HEAD~1"], ["tag", "v1", "HEAD~1"], ["commit", "-qam", "Third"]):
        subprocess.run([*run, *command], check=True)
    first = subprocess.run([*run, "rev-parse", "v1"], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "tls").mkdir()
    monkeypatch.setenv("GIT_SSL_CAINFO", str(tmp_path / "tls/ca.pem"))
    with a_git_server(tmp_path, tmp_path / "tls") as url:
        workspaces = Workspaces(tmp_path / "ws")
        for reference, count in ((None, 3), ("old", 1), ("v1", 1), (first, 1)):
            with workspaces.make("one", Source(url=f"{url}/source", reference=reference)) as one:
                own = tools(one, tmp_path)
                assert len(own.call("git.log", {"oneline": True}).output.splitlines()) == count
                assert (one.tree_folder / "app.py").read_text() == ("x = 2\n" if reference is None else "x = 1\n")
                assert own.call("git.diff", {}).output == ""
        with pytest.raises(InvalidInput, match="no-such-branch"):
            workspaces.make("two", Source(url=f"{url}/source", reference="no-such-branch"))
        with pytest.raises(InvalidInput, match="not found"):
            workspaces.make("two", Source(url=f"{url}/nothing"))
        monkeypatch.delenv("GIT_SSL_CAINFO")
        with pytest.raises(InvalidInput, match="certificate"):
            workspaces.make("two", Source(url=f"{url}/source"))
    assert list((tmp_path / "ws").iterdir()) == []


def test_a_repository_of_some_bytes_with_very_many_files_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees may hold one tree many times, and files without content have no bytes: of 100 to the power of 4 files the disk is full."""
    origin = a_repository(tmp_path / "source")

    def made(*command: str, given: str = "") -> str:
        program = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(origin), *command]
        return subprocess.run(program, check=True, capture_output=True, text=True, input=given).stdout.strip()

    kind, held = "100644 blob", made("hash-object", "-w", "--stdin")
    for _ in range(2):
        held = made("mktree", given="".join(f"{kind} {held}\t{number}\n" for number in range(100)))
        kind = "040000 tree"
    made("update-ref", "HEAD", made("commit-tree", held, "-m", "Many"))
    (tmp_path / "tls").mkdir()
    monkeypatch.setenv("GIT_SSL_CAINFO", str(tmp_path / "tls/ca.pem"))
    refused = pytest.raises(InvalidInput, match="at most 20,000,000 are taken")
    with a_git_server(tmp_path, tmp_path / "tls") as url, refused:
        Workspaces(tmp_path / "ws").make("one", Source(url=f"{url}/source"), 20_000_000)
    assert list((tmp_path / "ws").iterdir()) == []


def test_copies_of_a_workspace_are_apart_from_it_and_from_each_other(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path / "ws")
    with workspaces.make("base", Source(folder=a_repository(tmp_path / "source"))) as base:
        copies = [workspaces.copy(f"agent-{n}", base) for n in range(3)]
        for number, copy in enumerate(copies):
            own = tools(copy, tmp_path)
            own.call("files.write_file", {"path": "app.py", "content": f"x = {number}0\n"})
            own.call("git.add", {})
            assert own.call("git.commit", {"message": f"m{number}"}).ok
        for number, copy in enumerate(copies):
            assert (copy.tree_folder / "app.py").read_text() == f"x = {number}0\n"
            assert tools(copy, tmp_path).call("git.log", {"oneline": True}).output.count("\n") == 3
            copy.close()
        assert (base.tree_folder / "app.py").read_text() == "x = 2\n"
        assert tools(base, tmp_path).call("git.log", {"oneline": True}).output.count("\n") == 2


def test_an_empty_workspace_has_a_repository_as_well(tmp_path: Path) -> None:
    with Workspaces(tmp_path / "ws").make("one") as one:
        assert tools(one, tmp_path).call("git.status", {}).ok


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"url": "file:///etc"}, "https or ssh"),
        ({"url": "ext::sh -c id"}, "https or ssh"),
        ({"url": "https://user:secret-1@host/x.git"}, "holds credentials"),
        ({"url": "ssh://-oProxyCommand=id/x"}, "https or ssh"),
        ({"url": "https://host/x.git", "reference": "--upload-pack=id"}, "a branch, a tag or a commit"),
        ({"folder": Path("/nowhere")}, "/nowhere is no folder"),
    ],
)
def test_a_source_that_cannot_be_had_is_told_with_the_remedy(tmp_path: Path, source: dict, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        Workspaces(tmp_path / "ws").make("one", Source(**source))
    assert "secret-1" not in str(caught.value)
    assert not (tmp_path / "ws/one").exists()


def test_a_source_that_is_too_large_is_refused_before_it_is_copied_whole(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(10):
        (tmp_path / f"source/{number}").write_bytes(bytes(100_000))
    with pytest.raises(InvalidInput, match="more than 250,000 bytes"):
        Workspaces(tmp_path / "ws").make("one", Source(folder=tmp_path / "source"), most_bytes=250_000)
    assert list((tmp_path / "ws").iterdir()) == []


@pytest.mark.parametrize("odd", ["commondir", "objects/info/alternates", "a pipe", "a link"])
def test_a_repository_that_leads_to_another_one_or_keeps_git_waiting_is_refused(tmp_path: Path, odd: str) -> None:
    private, source = tmp_path / "private", tmp_path / "source"
    for folder in (private, source):
        folder.mkdir()
        (folder / "a.txt").write_text("PRIVATE")
        for command in (
            ["init", "-q"],
            ["add", "."],
            ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "First"],
        ):
            subprocess.run(["git", "-C", str(folder), *command], check=True)
    if odd == "a pipe":
        os.mkfifo(source / ".git/packed-refs")
    elif odd == "a link":
        (source / ".git/refs/heads/other").symlink_to(private / ".git/HEAD")
    else:
        (source / ".git" / odd).write_text(f"{private}/.git{'/objects' if 'objects' in odd else ''}\n")
    with pytest.raises(InvalidInput, match="leads to another repository|neither a file nor a folder"):
        Workspaces(tmp_path / "ws").make("one", Source(folder=source))
    assert list((tmp_path / "ws").iterdir()) == []


@pytest.mark.parametrize("newest", [True, False], ids=["git that knows of it", "git that does not"])
@pytest.mark.parametrize("url", ["ext::sh -c touch% {}", "ssh://host/x", "/tmp"])
def test_what_a_repository_lacks_is_not_had_by_a_program_of_its_own(tmp_path: Path, url: str, newest: bool) -> None:
    """That it was not depended on git's version alone."""
    git = ["git", "-C", str(tmp_path / "source"), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.txt").write_text("one")
    mark = tmp_path / "ran"
    settings = {
        "extensions.partialClone": "evil",
        "remote.evil.url": url.format(mark),
        "remote.evil.promisor": "true",
        "protocol.allow": "always",
        "core.sshCommand": f"touch {mark};",
        "remote.evil.uploadpack": f"touch {mark};",
        "core.repositoryFormatVersion": "1",
    }
    for arguments in (
        ["init", "-q"],
        ["add", "."],
        ["commit", "-qm", "x"],
        *(["config", *one] for one in settings.items()),
    ):
        subprocess.run([*git, *arguments], check=True)
    found = subprocess.run([*git, "rev-parse", "HEAD:a.txt"], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "source/.git/objects" / found[:2] / found[2:]).unlink()
    ours = GIT_ENVIRONMENT if newest else {name: value for name, value in GIT_ENVIRONMENT.items() if "LAZY" not in name}
    subprocess.run([*git, "cat-file", "-p", found], env=os.environ | ours, check=False)
    with suppress(InvalidInput):
        Workspaces(tmp_path / "own").make("a", Source(folder=tmp_path / "source")).close()
    assert not mark.exists()
    subprocess.run([*git, "cat-file", "-p", found], check=False)
    assert mark.exists(), "it does nothing without that either"


@pytest.mark.parametrize("way", ["alternates", "commondir", "links", "sibling"])
def test_a_folder_that_git_could_take_for_a_repository_itself_is_taken_as_files(tmp_path: Path, way: str) -> None:
    """With a `.git` that is none git looked at the folder, and beside it, and read what lies elsewhere."""
    private, source = tmp_path / "private", tmp_path / "source"
    commands = (
        ["init", "-qb", "main"],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "PRIVATE", "--allow-empty"],
    )
    private.mkdir()
    for command in commands:
        subprocess.run(["git", "-C", str(private), *command], check=True)
    (source / ".git").mkdir(parents=True)
    (source / "a.txt").write_text("mine")
    if way == "sibling":
        (private / ".git").rename(tmp_path / "source.git")
    else:
        (source / "HEAD").write_bytes((private / ".git/HEAD").read_bytes())
        for name in ("objects", "refs"):
            if way == "links":
                (source / name).symlink_to(private / ".git" / name)
            else:
                shutil.copytree(
                    private / ".git/refs" if name == "refs" else private / ".git/objects/info", source / name
                )
        if way == "alternates":
            (source / "objects/info").mkdir()
            (source / "objects/info/alternates").write_text(f"{private}/.git/objects\n")
        elif way == "commondir":
            (source / "commondir").write_text(f"{private}/.git\n")
    with Workspaces(tmp_path / "ws").make("one", Source(folder=source)) as one:
        said = subprocess.run(
            ["git", f"--git-dir={one.git_folder}", "log", "--all", "--format=%s"], capture_output=True, text=True
        )
        assert said.stdout.split("\n")[0] == "Start of the workspace"
        assert "PRIVATE" not in said.stdout
        assert (one.tree_folder / "a.txt").read_text() == "mine"


def test_a_source_that_does_not_answer_is_given_up_with_its_run(tmp_path: Path) -> None:
    """Its git went on for ten minutes after the run was gone."""
    root, problems = Workspaces(tmp_path / "ws"), []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/a.git"

        def make() -> None:
            try:
                root.make("one", Source(url=url))
            except InvalidInput as error:
                problems.append(str(error))

        making = threading.Thread(target=make)
        making.start()
        with silent.accept()[0]:
            root.stop()
            making.join()
    assert problems == ["git fetch: was stopped"]
    assert list((tmp_path / "ws").iterdir()) == []


def test_holes_count_as_what_a_copy_would_write(tmp_path: Path) -> None:
    root = Workspaces(tmp_path / "ws")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/small").write_text("x")
    with root.make("base", Source(folder=tmp_path / "source")) as base:
        with (base.tree_folder / "holes").open("wb") as file:
            file.truncate(10**9)
        assert size_of(base.tree_folder) >= 10**9
        with pytest.raises(InvalidInput, match="more than 1,000,000 bytes"):
            root.copy("one", base, 1_000_000)


def test_what_takes_a_folders_place_meanwhile_is_neither_opened_nor_waited_for(tmp_path: Path) -> None:
    """A pipe that took the place of a folder, while a copy was made, was waited for until the end of the world."""
    own = tmp_path / "own"
    (own / "a").mkdir(parents=True)
    (own / "b").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with Tree(own) as tree:
        walk = tree.walk()
        assert {next(walk).name, next(walk).name} == {"a", "b"}
        for name, make in (("a", lambda path: path.symlink_to(tmp_path / "pipe")), ("b", os.mkfifo)):
            (own / name).rmdir()
            make(own / name)
        assert list(walk) == []


def test_folders_links_and_files_without_content_count_in_a_copy(tmp_path: Path) -> None:
    root = Workspaces(tmp_path / "ws")
    with root.make("base") as base:
        for number in range(100):
            (base.tree_folder / f"f{number}").touch()
            (base.tree_folder / f"d{number}").mkdir()
            (base.tree_folder / f"l{number}").symlink_to("f0")
        with pytest.raises(InvalidInput, match="more than 1,000,000 bytes"):
            root.copy("one", base, 1_000_000)
        root.copy("one", base, 1_500_000).close()


def test_git_that_takes_too_long_or_too_much_ends_with_all_its_processes(tmp_path: Path) -> None:
    """A helper that fetches went on for ever after its git was stopped."""
    with Workspaces(tmp_path / "ws").make("one") as one:
        drip = "!head -c 3000000 /dev/zero > zeros; exec sleep 1000"
        fetch = ("-c", f"alias.drip={drip}", "drip")
        with pytest.raises(InvalidInput, match="took longer than 1 s"):
            git(one.place, *fetch, seconds=1)
        with pytest.raises(InvalidInput, match="at most 1,000,000 are taken"):
            git(one.place, *fetch, most_bytes=1_000_000)
        while processes_in(one.place):  # the kernel takes a moment
            time.sleep(0.01)


def test_git_that_talks_without_end_is_stopped(tmp_path: Path) -> None:
    """A server's progress is kept until git ends."""
    with Workspaces(tmp_path / "ws").make("one") as one:
        with pytest.raises(InvalidInput, match="says more than 67,108,864 bytes"):
            git(one.place, "-c", "alias.talk=!exec cat /dev/zero >&2", "talk")
        while processes_in(one.place):
            time.sleep(0.01)


def test_a_server_of_repositories_does_not_lead_to_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_repository(tmp_path / "source")
    (tmp_path / "tls").mkdir()
    monkeypatch.setenv("GIT_SSL_CAINFO", str(tmp_path / "tls/ca.pem"))
    with a_git_server(tmp_path, tmp_path / "tls") as url:
        for path in ("moved/source", "moved/source/"):
            with pytest.raises(InvalidInput, match="git fetch: .*(redirect|302)"):
                Workspaces(tmp_path / "ws").make("one", Source(url=f"{url}/{path}"))


def test_one_workspace_that_cannot_be_removed_keeps_no_other_from_being_swept(tmp_path: Path, monkeypatch, caplog) -> None:  # fmt: skip
    root = tmp_path / "ws"
    for name in ("a", "b", "c"):
        (root / name / "tree").mkdir(parents=True)
        (root / name / LOCK).touch()

    def refuses(path: Path) -> None:
        if "/b/" in str(path):
            raise PermissionError(13, "Permission denied")
        remove_tree(path)

    monkeypatch.setattr("fleet_pipeline.tools.workspace.remove_tree", refuses)
    assert Workspaces(root).swept == ["a", "c"]
    assert "ws/b cannot be removed" in caplog.text


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "-x", "x" * 200, "a\nb"])
def test_a_name_that_is_a_path_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="is no name for a workspace"):
        Workspaces(tmp_path / "ws").make(name)


def test_a_workspace_in_use_is_neither_opened_again_nor_swept(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path / "ws")
    with workspaces.make("one") as one:
        with pytest.raises(Refused, match="in use"):
            workspaces.make("one")
        assert Workspaces(tmp_path / "ws").swept == []
        assert one.tree_folder.is_dir()


def test_a_kept_workspace_stays_and_is_opened_again(tmp_path: Path) -> None:
    place = tmp_path / "mine"
    with open_kept(place, Source(folder=a_repository(tmp_path / "source"))) as one:
        one.tree.write("new", b"x")
        with pytest.raises(Refused, match="in use"):
            open_kept(place)
    with open_kept(place) as one:
        assert one.tree.read("new", 10) == b"x"
    with pytest.raises(InvalidInput, match="a workspace already"):
        open_kept(place, Source())
    with pytest.raises(InvalidInput, match="--from"):
        open_kept(tmp_path / "source")
    with pytest.raises(InvalidInput):
        open_kept(tmp_path / "bad", Source(folder=Path("/nowhere")))
    with open_kept(tmp_path / "bad"):
        pass


_WORKING = """
import sys, time
from pathlib import Path
from fleet_pipeline.tools.audit import Audit
from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.sandbox.sandbox import Sandbox
from fleet_pipeline.tools.toolbox import Toolbox
from fleet_pipeline.tools.sources import Source
from fleet_pipeline.tools.workspace import Workspaces
root = Path(sys.argv[1])
workspaces = Workspaces(root / "ws")
audit = Audit(root / "audit")
print("ready", flush=True)
base = workspaces.make("base", Source(folder=root / "source"))
for number in range(1000):
    with workspaces.copy(f"agent-{number}", base) as own:
        tools = Toolbox(Box(own, Sandbox.find()), audit)
        tools.call("files.write_file", {"path": "test_x.py", "content": "def test_x():\\n    import os, time\\n    os.fork(); os.setsid(); time.sleep(100)\\n" if number % 2 else "x = 1"})
        tools.call("git.add", {})
        tools.call("git.commit", {"message": "m"})
        if number % 2:
            tools.call("tests.pytest", {"timeout": 3})
"""


def test_a_kill_at_any_moment_leaves_nothing_behind_and_the_last_call_begun_in_the_audit(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(50):
        (tmp_path / f"source/{number}.txt").write_text(str(number))
    chance = random.Random(7)
    found = {"kills": 0, "unfinished": 0, "swept": 0}
    # How many of them come in the middle of a call is chance, and the machine's load: of twelve none, once.
    while found["kills"] < 12 or found["swept"] < 10 or not found["unfinished"]:
        found["kills"] += 1
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKING, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.0, 1.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        while processes_in(tmp_path / "ws"):  # the launcher sees it at its next look, and ends
            time.sleep(0.01)
        found["swept"] += len(Workspaces(tmp_path / "ws").swept)
        while list((tmp_path / "ws").iterdir()):  # a child that has not executed its program yet still has the lock
            Workspaces(tmp_path / "ws")
        (log,) = (tmp_path / "audit").glob("*.jsonl")
        calls = list(read_calls(log))
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert sum("call_id" in line for line in lines) == len(calls)
        assert all(call.outcome != "unfinished" for call in calls[:-1])
        found["unfinished"] += sum(call.outcome == "unfinished" for call in calls)
        log.unlink()


def test_what_a_killed_launcher_has_left_is_ended_by_the_sweeper(tmp_path: Path) -> None:
    """The launcher itself is killed, with its program's daemon below it."""
    place = tmp_path / "ws/orphaned"
    for part in ("tree", "git", "home"):
        (place / part).mkdir(parents=True)
    (place / LOCK).touch()
    daemon = subprocess.Popen(["sleep", "1000"], cwd=place / "tree", start_new_session=True)
    elsewhere = subprocess.Popen(["sleep", "1000"], cwd="/", env={"HOME": str(place / "home")}, start_new_session=True)
    bystander = subprocess.Popen(["sleep", "1000"], cwd=tmp_path)
    try:
        assert Workspaces(tmp_path / "ws").swept == ["orphaned"]
        assert daemon.wait() == elsewhere.wait() == -signal.SIGKILL
        assert bystander.poll() is None
    finally:
        for process in (daemon, elsewhere, bystander):
            process.kill()
            process.wait()


def test_a_folder_that_is_no_workspace_is_not_swept_and_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "root/project/src").mkdir(parents=True)
    (tmp_path / "root/project/src/a.py").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/empty").mkdir()
    assert Workspaces(tmp_path / "root").swept == []
    assert (tmp_path / "root/project/src/a.py").read_text() == "mine"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (tmp_path / "root/empty").exists()


def test_two_processes_that_sweep_and_make_workspaces_at_a_time_do_not_take_each_others(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom fleet_pipeline.tools.workspace import Workspaces\n"
        "for n in range(40):\n w = Workspaces(Path(sys.argv[1]))\n"
        " with w.make(f'{sys.argv[2]}-{n}') as own:\n  own.tree.write('x', b'1'); w.sweep(); assert own.tree.read('x', 9) == b'1'\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "ws"), name]) for name in ("a", "b")]
    assert [process.wait() for process in both] == [0, 0]
    assert list((tmp_path / "ws").iterdir()) == []


def test_a_hundred_workspaces_with_ten_operations_each_are_made_used_and_removed(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path / "ws")
    with workspaces.make("base", Source(folder=a_repository(tmp_path / "source"))) as base:
        for number in range(100):
            with workspaces.copy(f"agent-{number}", base) as one:
                own = tools(one, tmp_path)
                for step in range(5):
                    assert own.call("files.write_file", {"path": f"{step}.txt", "content": str(number)}).ok
                    assert own.call("files.read_file", {"path": f"{step}.txt"}).output == str(number)
    assert list((tmp_path / "ws").iterdir()) == []
