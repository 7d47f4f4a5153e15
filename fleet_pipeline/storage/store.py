"""A folder at any fsspec URL, with whole-file writes that are atomic.

A reader sees the old file or the new one, never a part. On a local disk that is a temporary file
in the same folder, fsync, rename, fsync of the folder; on object stores a single PUT is atomic.
"""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec

# Parquet readers, pandas and DuckDB's globs included, pass over names that begin with a dot.
_TEMPORARY_PREFIX = ".writing-"


class StorageError(RuntimeError):
    """Storage could not be read or written. The message names the place."""


class Damaged(StorageError):
    """A file is there and is not what it should be."""


class Store:
    """Files under `url`, addressed by relative paths such as `proposals/t1.dev.parquet`."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self.fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StorageError(f"storage {url!r}: {error}") from error
        self.root: str = root.rstrip("/")
        self.is_local = "file" in _protocols(self.fs)

    def full_path(self, path: str) -> str:
        """The path a person or another tool can open: local ones as they are, others as URLs."""
        full = f"{self.root}/{path}"
        return full if self.is_local else str(self.fs.unstrip_protocol(full))

    def write(self, path: str, content: bytes) -> None:
        try:
            if self.is_local:
                _write_local(Path(self.root, path), content)
            else:
                self.fs.pipe_file(f"{self.root}/{path}", content)
        except OSError as error:
            raise StorageError(f"cannot write {self.full_path(path)}: {error.strerror or error}") from error

    def read(self, path: str) -> bytes | None:
        """The file's content, or None when there is no such file."""
        try:
            return bytes(self.fs.cat_file(f"{self.root}/{path}"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self.full_path(path)}: {error.strerror or error}") from error

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is removed already."""
        try:
            self.fs.rm_file(f"{self.root}/{path}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"cannot remove {self.full_path(path)}: {error.strerror or error}") from error

    def move(self, path: str, to: str) -> None:
        """Move a file, in place of one that may be there."""
        try:
            if self.is_local:
                Path(self.root, to).parent.mkdir(parents=True, exist_ok=True)
                Path(self.root, path).replace(Path(self.root, to))
            else:
                self.fs.mv(f"{self.root}/{path}", f"{self.root}/{to}")
        except OSError as error:
            raise StorageError(f"cannot move {self.full_path(path)}: {error.strerror or error}") from error

    def modified(self, path: str) -> datetime:
        """When a file was last written, in UTC."""
        try:
            moment: datetime = self.fs.modified(f"{self.root}/{path}")
        except OSError as error:
            raise StorageError(f"cannot read {self.full_path(path)}: {error.strerror or error}") from error
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def names(self, folder: str, suffix: str) -> list[str]:
        """Sorted names in a folder that end in `suffix`, without it. Unfinished files are left out."""
        try:
            # Object stores' drivers remember listings, for ever where nobody says otherwise.
            self.fs.invalidate_cache(f"{self.root}/{folder}".rstrip("/"))
            paths = self.fs.ls(f"{self.root}/{folder}", detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StorageError(f"cannot list {self.full_path(folder)}: {error.strerror or error}") from error
        names = (path.rstrip("/").rsplit("/", 1)[-1] for path in paths)
        return sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix) and not name.startswith("."))


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _write_local(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are for their owner alone, whatever the umask says.
    temporary = path.parent / f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            file.write(content)
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
