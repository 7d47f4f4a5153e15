"""Atomic writes: files and folders appear whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# Parquet readers, including pandas and DuckDB's globs, skip names that begin with a dot.
TEMPORARY_PREFIX = ".writing-"


@contextmanager
def written_whole(path: Path, *, synced: bool = True) -> Iterator[IO[bytes]]:
    """A file to write to. It gets the name `path` when the block ends, so readers see the old file or the new one.

    If `synced`, file and folder are then synced to disk. Two writers of one path do not conflict, because each has its own
    temporary file. Raises `OSError`, and leaves no temporary file behind.
    """
    # Not tempfile: it ignores the umask, and only the owner can read its files.
    temporary = path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            yield file
            if synced:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if synced:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Sync a folder's list of names to disk, so that a new file is still there after a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
