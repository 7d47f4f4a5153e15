import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fleet_pipeline.common.errors import StorageError
from fleet_pipeline.storage.store import Store

pytestmark = pytest.mark.unit


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "s") if request.param == "local" else f"memory://{tmp_path.name}")


def test_what_is_written_is_read_back_and_replaced_whole(store: Store) -> None:
    assert store.read("a/b.bin") is None
    store.write("a/b.bin", b"one")
    store.write("a/b.bin", b"two, longer")
    assert store.read("a/b.bin") == b"two, longer"
    assert store.names("a", ".bin") == ["b"]
    assert store.names("nowhere", ".bin") == []


def test_a_failed_write_leaves_the_old_file_and_no_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.write("t/a.parquet", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device") as caught:
        store.write("t/a.parquet", b"new")
    assert str(tmp_path / "t/a.parquet") in str(caught.value)
    assert store.read("t/a.parquet") == b"old"
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["a.parquet"]


def test_a_reader_sees_one_whole_version_while_writers_replace_it_and_one_is_killed(tmp_path: Path) -> None:
    """kill -9 in the middle of writing: the file is one writer's, whole, and readers' globs see no other."""
    program = (
        "import sys; from fleet_pipeline.storage.store import Store\n"
        "store = Store(sys.argv[1]); content = sys.argv[2].encode() * 2_000_000\n"
        "while True: store.write('t/a.parquet', content)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), letter]) for letter in "xy"]
    try:
        target = tmp_path / "t/a.parquet"
        while not target.exists():
            time.sleep(0.02)
        for turn in range(40):
            content = target.read_bytes()
            assert len(content) == 2_000_000
            assert len(set(content)) == 1
            if turn == 20:
                writers[0].kill()
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert Store(str(tmp_path)).names("t", ".parquet") == ["a"]


def test_files_have_the_permissions_that_the_umask_asks_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        Store(str(tmp_path)).write("a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write .*file/t/a"):
        Store(str(tmp_path)).write("file/t/a", b"")
    with pytest.raises(StorageError, match="file' is a file; name a folder"):
        Store(str(tmp_path / "file"))


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(StorageError, match="nosuch"):
        Store("nosuch://bucket")
