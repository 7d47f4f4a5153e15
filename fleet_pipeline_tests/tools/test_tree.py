"""Files by descriptor: no path leads out of the tree."""

import os
import socket
import stat
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.tools import tree as tree_module
from fleet_pipeline.tools.tree import Tree, remove_tree

pytestmark = pytest.mark.unit


@pytest.fixture(params=["openat2", "part by part"])
def tree(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    """With the kernel's way, and with the other one for containers that do not allow it."""
    if request.param != "openat2":
        monkeypatch.setattr(tree_module, "_has_openat2", lambda: False)
    (tmp_path / "outside.txt").write_text("outside")
    (tmp_path / "own").mkdir()
    with Tree(tmp_path / "own") as one:
        yield one


def test_what_is_written_is_read_and_replaced_at_once(tree: Tree) -> None:
    tree.write("a/b/c.txt", b"one", make_folders=True)
    tree.write("a/b/c.txt", b"two")
    assert tree.read("a/b/c.txt", 100) == b"two"
    assert [entry.path for entry in tree.entries(recursive=True)] == ["a/", "a/b/", "a/b/c.txt"]


@pytest.mark.parametrize(
    "path", ["../outside.txt", "/etc/passwd", "a/../../outside.txt", "", "a\0b", "..", "/", "./..", "a/..", "x" * 300]
)
def test_a_path_that_leads_out_is_refused_by_every_method_with_the_reason(tree: Tree, path: str) -> None:
    tree.make_folder("a")
    for method in (
        lambda: tree.read(path, 100),
        lambda: tree.write(path, b"x"),
        lambda: tree.write(path, b"x", make_folders=True),
        lambda: tree.remove(path, recursive=True),
        lambda: tree.move("a", path),
        lambda: tree.status(path if path not in ("a/..", "/") else ".."),
    ):
        with pytest.raises(Refused):
            method()
    assert (tree.root.parent / "outside.txt").read_text() == "outside"


def test_links_that_lead_out_are_refused_and_links_are_removed_themselves(tree: Tree) -> None:
    (tree.root / "file").symlink_to("../outside.txt")
    (tree.root / "folder").symlink_to("..")
    for path in ("file", "folder/outside.txt", "folder/own/../outside.txt"):
        with pytest.raises(Refused):
            tree.read(path, 100)
    for path in ("file", "folder/outside.txt", "folder/new/file"):
        with pytest.raises(Refused):
            tree.write(path, b"x", make_folders=True)
    with pytest.raises(Refused):
        list(tree.entries("folder"))
    tree.remove("file")
    tree.remove("folder", recursive=True)
    assert (tree.root.parent / "outside.txt").read_text() == "outside"
    assert list(tree.entries()) == []


def test_pipes_sockets_and_folders_are_no_files_and_block_nobody(tree: Tree) -> None:
    os.mkfifo(tree.root / "pipe")
    tree.make_folder("folder")
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(tree.root / "socket"))
        for path in ("pipe", "socket", "folder"):
            with pytest.raises(Refused, match="no ordinary file|is a folder"):
                tree.read(path, 100)
            with pytest.raises(Refused, match="no ordinary file"):
                tree.write(path, b"x")


def test_a_hard_link_is_replaced_and_its_other_name_keeps_its_content(tree: Tree) -> None:
    os.link(tree.root.parent / "outside.txt", tree.root / "linked")
    tree.write("linked", b"changed")
    assert (tree.root.parent / "outside.txt").read_text() == "outside"


def test_a_folder_that_is_swapped_for_a_link_meanwhile_is_never_followed(tree: Tree) -> None:
    """The race between a check and its use: reads find what is inside, or are refused."""
    (tree.root / "real").mkdir()
    (tree.root / "real/outside.txt").write_text("inside")
    (tree.root / "swapped").symlink_to("real")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for target in ("..", "real"):
                (tree.root / "next").symlink_to(target)
                (tree.root / "next").replace(tree.root / "swapped")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        found = set()
        for _ in range(3_000):
            try:
                found.add(tree.read("swapped/outside.txt", 100))
            except Refused:
                found.add(b"refused")
    finally:
        stop.set()
        swapping.join()
    assert b"outside" not in found
    assert b"refused" in found


def test_bounds_on_size_hold_for_sparse_files_too(tree: Tree) -> None:
    with (tree.root / "large").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(Refused, match="at most 1,000"):
        tree.read("large", 1_000)
    assert tree.size() < 10**6


def test_a_look_at_many_folders_far_down_takes_little_memory(tree: Tree) -> None:
    """The paths of 200,000 of them took 900 MB."""
    deep = "/".join(["x" * 250] * 15)
    tree.make_folder(deep)
    here = os.open(tree.root / deep, os.O_RDONLY)
    for number in range(1_000):
        os.mkdir(str(number), dir_fd=here)
    os.close(here)
    for look in (tree.size, lambda: sum(1 for _ in tree.entries(recursive=True))):
        tracemalloc.start()
        assert look() >= 1_015
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_500_000  # of 3,800,000


def test_content_that_cannot_be_looked_into_counts_as_more_than_any_bound(tree: Tree) -> None:
    tree.write("a/b", b"x" * 10_000, make_folders=True)
    assert 10_000 <= tree.size() < 10**6
    here = os.open(tree.root, os.O_RDONLY)
    for _ in range(1_000):  # its path is longer than the kernel takes
        os.mkdir("deep", dir_fd=here)
        following = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = following
    Path(f"/proc/self/fd/{here}/file").write_bytes(b"x" * 10**6)
    os.close(here)
    assert tree.size() >= 10**6
    remove_tree(tree.root)  # pytest cannot


def test_a_mode_is_kept_and_a_new_file_is_the_owner_s_alone(tree: Tree) -> None:
    tree.write("script", b"x")
    assert stat.S_IMODE(tree.status("script").st_mode) == 0o600
    (tree.root / "script").chmod(0o755)
    tree.write("script", b"y")
    assert stat.S_IMODE(tree.status("script").st_mode) == 0o755


def test_folders_of_any_depth_and_without_permissions_are_removed(tmp_path: Path) -> None:
    root = tmp_path / "deep"
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(3_000):  # its path has 15,000 characters
        os.mkdir("deep", dir_fd=here)
        Path(f"/proc/self/fd/{here}/file").write_text("x")
        following = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = following
    os.close(here)
    (root / "closed").mkdir()
    (root / "closed/inner").mkdir()
    (root / "closed/inner").chmod(0)
    (root / "closed").chmod(0)
    (root / "link").symlink_to(tmp_path)
    remove_tree(root)
    assert list(tmp_path.iterdir()) == []
    remove_tree(root)  # one that is not there is no error


def test_a_folder_is_removed_whatever_the_names_in_it_are(tree: Tree) -> None:
    """Folders are moved up under names that nobody can take first."""
    for number in range(6):
        tree.write(f"d/.fleet-writing-{number}/x", b"", make_folders=True)
        tree.write(f"d/q{number}/z/y", b"", make_folders=True)
    tree.remove("d", recursive=True)
    assert list(tree.entries()) == []


PARTS = st.sampled_from(["a", "b", "..", ".", "", "link", "out", "c.txt", "/"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.lists(PARTS, min_size=1, max_size=6), st.sampled_from(["read", "write", "remove", "make", "list", "move"]))
def test_no_path_of_any_parts_changes_or_reads_anything_outside(tree: Tree, parts: list[str], what: str) -> None:
    for name, target in {"link": "a", "out": ".."}.items():
        if not (tree.root / name).is_symlink() and not (tree.root / name).exists():
            (tree.root / name).symlink_to(target)
    path = "/".join(parts)
    try:
        if what == "read":
            assert tree.read(path, 100) != b"outside"
        elif what == "write":
            tree.write(path, b"x", make_folders=True)
        elif what == "remove":
            tree.remove(path, recursive=True)
        elif what == "make":
            tree.make_folder(path)
        elif what == "list":
            assert "outside.txt" not in [entry.path for entry in tree.entries(path)]
        else:
            tree.move(path, "a/moved")
    except Refused:
        pass
    assert sorted(entry.name for entry in tree.root.parent.iterdir()) == ["outside.txt", "own"]
    assert (tree.root.parent / "outside.txt").read_text() == "outside"
