"""A folder at any fsspec URL. Every write but `append` replaces a whole file, atomically.

A reader sees the old file or the new one, never a part. On a local disk, a write takes four steps: temporary file
in the same folder, fsync, rename, fsync of the folder. On an object store, a single PUT is atomic.
"""

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from fleet_pipeline.common.errors import StorageError, StorageUnavailable
from fleet_pipeline.common.files import TEMPORARY_PREFIX, sync_folder, written_whole
from fleet_pipeline.storage.local_copies import LocalCopies

# Transient errnos. Anything else (disk full, permission) needs a person.
_TRANSIENT = frozenset(
    {
        errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNREFUSED,
        errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOTCONN, errno.EPIPE,
    }
)  # fmt: skip


@dataclass(frozen=True)
class Retries:
    """Retries of storage that does not answer. Default pauses are 2, 4, 8 ... 60 s, about five minutes in all.

    Each pause is extended at random, by up to `first_pause_seconds`, so that many clients do not return at once.
    """

    tries: int = 9
    first_pause_seconds: float = 2.0
    longest_pause_seconds: float = 60.0


NO_RETRIES = Retries(tries=1)


_TRANSIENT_NAMES = re.compile("Timeout|Connect|Disconnect|Unavailable|Throttl|IncompleteRead|Transport")


class Store:
    """Files under `url`, addressed by relative paths such as `proposals/t1.dev.parquet`.

    With `copies`, a file that this store has read or written is not fetched again. They are for one run, which may
    see its files as they were when it first read them. On a local disk they are not used.
    """

    def __init__(self, url: str, retries: Retries = NO_RETRIES, copies: LocalCopies | None = None) -> None:
        self.url = url
        self._tries = Retrying(
            retry=retry_if_exception_type(StorageUnavailable),
            stop=stop_after_attempt(retries.tries),
            wait=wait_exponential_jitter(
                max=retries.longest_pause_seconds,
                jitter=retries.first_pause_seconds,
                multiplier=retries.first_pause_seconds,
            ),
            before_sleep=before_sleep_log(logging.getLogger(__name__), logging.WARNING),
            reraise=True,
        )
        try:
            self.fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StorageError(f"storage {url!r}: {error}") from error
        self.root: str = root.rstrip("/")
        self.is_local = "file" in _protocols(self.fs)
        self._copies = None if self.is_local else copies
        if self.is_local and Path(self.root).is_file():
            raise StorageError(f"storage {url!r} is a file; name a folder")

    def full_path(self, path: str) -> str:
        """The path that a person or another tool can open: local paths as they are, others as URLs."""
        full = f"{self.root}/{path}"
        return full if self.is_local else str(self.fs.unstrip_protocol(full))

    def write(self, path: str, content: bytes, *, synced: bool = True) -> None:
        """Replace a file. Without `synced` a power cut may leave it empty or as it was: for what can be made again."""
        self._forget(path)
        self._tries(self._write, path, content, synced)
        if self._copies:
            self._copies.put(path, content)

    def append(self, path: str, content: bytes) -> None:
        """Add to the end of a file, and sync it to disk. Only on a local disk: object stores cannot."""
        with self._storage_errors("write", path):
            target = Path(self.root, path)
            new = not target.exists()
            if new:
                target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync_folder(target.parent)

    def read(self, path: str, *, fresh: bool = False) -> bytes | None:
        """The file's content, or None when there is no such file. `fresh` takes no local copy for it."""
        if self._copies and not fresh and (copy := self._copies.get(path)) is not None:
            return copy
        content = self._tries(self._read, path)
        if self._copies and content is not None:
            self._copies.put(path, content)
        return content

    def read_end(self, path: str, count: int) -> bytes | None:
        """The last `count` bytes of a file, all of a shorter one, or None when there is no such file.

        Takes no local copy for it, so that it tells what other runs have written meanwhile.
        """
        return self._tries(self._read_end, path, count)

    def upload(self, path: str, file: Path) -> None:
        """Store a copy of a local file of any size. The file is never in memory as a whole."""
        self._forget(path)
        self._tries(self._upload, path, file)

    def delete(self, path: str) -> None:
        """Remove a file. A missing file is no error."""
        self._forget(path)
        self._tries(self._delete, path)

    def move(self, path: str, to: str) -> None:
        """Move a file to `to`, and replace any file there."""
        self._forget(path)
        self._forget(to)
        with self._storage_errors("move", path):
            if self.is_local:
                Path(self.root, to).parent.mkdir(parents=True, exist_ok=True)
                Path(self.root, path).replace(Path(self.root, to))
            else:
                self.fs.mv(f"{self.root}/{path}", f"{self.root}/{to}")

    def modified(self, path: str) -> datetime:
        """When a file was last written, in UTC."""
        with self._storage_errors("read", path):
            self.fs.invalidate_cache(self._parent(path))
            moment: datetime = self.fs.modified(f"{self.root}/{path}")
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def names(self, folder: str, suffix: str) -> list[str]:
        """Sorted names of the files in a folder that end in `suffix`, without it. Unfinished files are left out."""
        return sorted(self.mtimes(folder, suffix))

    def mtimes(self, folder: str, suffix: str) -> dict[str, datetime]:
        """When each of `names` was last written, in UTC. Takes one listing, however many files there are."""
        listed = self._tries(self._listed, folder)
        return {
            name.removesuffix(suffix): moment
            for name, moment in listed.items()
            if name.endswith(suffix) and not name.startswith(".")
        }

    def orphaned_temporaries(self, folder: str) -> dict[str, datetime]:
        """Paths of temporary files, and when each was last written. Its writer was killed, or is still writing."""
        listed = self._tries(self._listed, folder)
        return {f"{folder}/{name}": moment for name, moment in listed.items() if name.startswith(TEMPORARY_PREFIX)}

    def _forget(self, path: str) -> None:
        if self._copies:
            self._copies.drop(path)

    def _write(self, path: str, content: bytes, synced: bool) -> None:
        with self._storage_errors("write", path):
            if self.is_local:
                _write_local(Path(self.root, path), content, synced)
            else:
                self.fs.pipe_file(f"{self.root}/{path}", content)

    def _upload(self, path: str, file: Path) -> None:
        with self._storage_errors("write", path):
            if not self.is_local:
                self.fs.put_file(str(file), f"{self.root}/{path}")
                return
            target_path = Path(self.root, path)
            target_path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(target_path) as target, file.open("rb") as source:
                shutil.copyfileobj(source, target)

    def _read(self, path: str) -> bytes | None:
        with self._storage_errors("read", path):
            try:
                return bytes(self.fs.cat_file(f"{self.root}/{path}"))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _read_end(self, path: str, count: int) -> bytes | None:
        with self._storage_errors("read", path):
            try:
                if not self.is_local:
                    return self._remote_end(f"{self.root}/{path}", count)
                with Path(self.root, path).open("rb") as file:
                    file.seek(max(file.seek(0, os.SEEK_END) - count, 0))
                    return file.read()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _remote_end(self, path: str, count: int) -> bytes:
        """By one request for a range where the driver can ask for it. Azure's asks in a form that is none."""
        try:
            return bytes(self.fs.cat_file(path, start=-count))[-count:]
        except FileNotFoundError:
            raise
        except Exception:  # noqa: BLE001 - whatever the driver makes of it, the whole file is no more than 60 kB
            return bytes(self.fs.cat_file(path))[-count:]

    def _delete(self, path: str) -> None:
        with self._storage_errors("remove", path), suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.root}/{path}")

    def _listed(self, folder: str) -> dict[str, datetime]:
        with self._storage_errors("list", folder):
            if self.is_local:
                return _listed_local(Path(self.root, folder))
            # Drivers of object stores cache listings, by default for ever.
            self.fs.invalidate_cache(f"{self.root}/{folder}".rstrip("/"))
            try:
                entries = self.fs.ls(f"{self.root}/{folder}", detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
            return {entry["name"].rstrip("/").rsplit("/", 1)[-1]: _last_written(entry) for entry in entries}

    def _parent(self, path: str) -> str:
        return f"{self.root}/{path}".rsplit("/", 1)[0]

    @contextmanager
    def _storage_errors(self, action: str, path: str) -> Iterator[None]:
        """Turn a driver's exception into a storage error that names the path."""
        try:
            yield
        except Exception as error:
            # Drivers of object stores let any exception of their client library through.
            if self.is_local and not isinstance(error, OSError):
                raise
            kind = StorageUnavailable if _is_transient(error) else StorageError
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            raise kind(f"cannot {action} {self.full_path(path)}: {reason}") from error


def _is_transient(error: Exception) -> bool:
    if isinstance(error, (TimeoutError, ConnectionError)):
        return True
    if isinstance(error, OSError):
        return error.errno in _TRANSIENT
    # A connection error of a client library. Matched by name: each driver has its own classes.
    return bool(_TRANSIENT_NAMES.search(type(error).__name__))


def _last_written(entry: Mapping[str, Any]) -> datetime:
    """When a listed entry was last written. Drivers name the field differently; object stores' folders have none."""
    moment = next((entry[name] for name in ("mtime", "LastModified", "last_modified", "created") if name in entry), 0.0)
    if isinstance(moment, datetime):
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return datetime.fromtimestamp(float(moment), UTC)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _listed_local(folder: Path) -> dict[str, datetime]:
    """Replaces fsspec's listing, which fails when a file disappears meanwhile: writers rename files all the time."""
    mtimes = {}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                mtimes[entry.name] = datetime.fromtimestamp(entry.stat().st_mtime, UTC)
    return mtimes


def _write_local(path: Path, content: bytes, synced: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path, synced=synced) as file:
        file.write(content)
