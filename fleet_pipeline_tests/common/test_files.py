"""Files appear whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from fleet_pipeline.common.files import written_whole

pytestmark = pytest.mark.unit


def test_a_file_that_is_not_written_to_its_end_leaves_the_old_one_and_no_remains(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with written_whole(file) as out:
        out.write(b"old")
    with pytest.raises(ZeroDivisionError), written_whole(file) as out:
        out.write(bytes(1 // 0))
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_is_not_there_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "nowhere/a.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Reports had one temporary name: two commands that wrote one file collided."""
    file = tmp_path / "report.html"
    with written_whole(file) as first, written_whole(file) as second:
        first.write(b"first")
        second.write(b"second")
    assert file.read_bytes() == b"first"  # whose block ended last
    assert list(tmp_path.iterdir()) == [file]


def test_others_can_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with written_whole(tmp_path / "a.txt") as out:
            out.write(b"a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644
