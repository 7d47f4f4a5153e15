"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# Parquet readers, pandas and DuckDB's globs included, pass over names that begin with a dot.
TEMPORARY_PREFIX = ".writing-"


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write in, which has its name when the block ends: readers see the old file or the new one.

    It is on the disk by then, and so is its name: file and folder are synced. Two writers of one path do not meet,
    since each has a temporary file of its own. Raises `OSError`, and leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are for their owner alone, whatever the umask says.
    temporary = path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def built_whole(folder: Path, complete: str) -> Iterator[Path]:
    """A folder to build in, which has its name when the block ends. `complete` is a file that every whole one has.

    Where another process was faster its build stands, and this one is dropped.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        yield building
        try:
            building.rename(folder)
        except OSError:
            if not (folder / complete).exists():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
