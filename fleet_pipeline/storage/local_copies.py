"""Copies, on the local disk, of what a run has read or written on an object store.

A run reads what it has just written: a transcript to score it, a row to show it. Every request takes 20 to 100 ms,
one after another. Without copies a deliberation took 17 requests besides its writes; with them it takes 3.
"""

import logging
import tempfile
from threading import Lock

# Bytes. A deliberation of three agents has about 60 kB in all its files. What comes later is fetched again.
MOST_BYTES = 2**30


class LocalCopies:
    """The contents of files by path, in one temporary file that disappears with this process."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the object)
        self._places: dict[str, tuple[int, int]] = {}  # path -> (offset, length)
        self._end = 0
        self._most_bytes = most_bytes
        self._lock = Lock()

    def get(self, path: str) -> bytes | None:
        """The content of a file, or None if there is no copy."""
        with self._lock:
            if path not in self._places:
                return None
            offset, length = self._places[path]
            self._file.seek(offset)
            return self._file.read(length)

    def put(self, path: str, content: bytes) -> None:
        """Keep a copy, if there is room. A copy is a convenience: a full disk costs requests and no run."""
        with self._lock:
            self._places.pop(path, None)
            if self._end + len(content) > self._most_bytes:
                return
            try:
                self._file.seek(self._end)
                self._file.write(content)
                self._file.flush()
            except OSError as error:
                logging.getLogger(__name__).warning("no more local copies are kept: %s", error)
                self._most_bytes = 0
                return
            self._places[path] = (self._end, len(content))
            self._end += len(content)

    def drop(self, path: str) -> None:
        with self._lock:
            self._places.pop(path, None)
