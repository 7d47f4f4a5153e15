"""Files: what its operations do, and what they refuse."""

import json
import os
import random
import tracemalloc

import pytest

from fleet_pipeline.tools.families import files
from fleet_pipeline.tools.families.git import artifacts
from fleet_pipeline_tests.support.tool_world import World

pytestmark = pytest.mark.unit


def text_of(world: World, path: str) -> str:
    return (world.workspace.tree_folder / path).read_text()


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


def test_lines_are_numbered_as_grep_and_git_number_them(world: World) -> None:
    world.workspace.tree.write("forms.txt", "one\ftwo\x85three\u2028\r\nfour\rfive\nsix".encode())
    assert world.call("files.search_in_files", pattern="four", path="forms.txt").output.startswith("forms.txt:2:")
    assert world.call("files.read_file", path="forms.txt", first_line=2, lines=1).output.startswith("four")
    assert world.call("files.read_file", path="forms.txt", first_line=10**30, lines=10**30).output == ""
