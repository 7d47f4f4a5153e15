"""Copies, in a temporary file, of what a run has read or written on an object store.

A run reads what it has just written: a transcript to score it, a row to show it. Every request takes 20 to 100 ms,
one after another. Without copies a deliberation took 17 requests besides its writes; with them it takes 3.

The file is where `TMPDIR` says, and disappears with this process. Where that is memory, a run takes up to
`MOST_BYTES` of it.
"""

import logging
import os
import tempfile
from threading import Lock

# A deliberation of three agents has about 60 kB in all its files. What comes later is fetched again.
MOST_BYTES = 2**30


class LocalCopies:
    """The contents of files by path."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        # Unbuffered: after a write that failed, a buffered file tries it again at every read.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (closed with the object)
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
            try:
                content = os.pread(self._file.fileno(), length, offset)
            except OSError as error:
                self._stop(error)
                return None
            return content if len(content) == length else None

    def put(self, path: str, content: bytes) -> None:
        """Keep a copy, if there is room. A copy is a convenience: a full disk costs requests and no run."""
        with self._lock:
            self._places.pop(path, None)
            if self._end + len(content) > self._most_bytes:
                return
            try:
                written = os.pwrite(self._file.fileno(), content, self._end)
            except OSError as error:
                self._stop(error)
                return
            if written == len(content):
                self._places[path] = (self._end, len(content))
            self._end += written

    def drop(self, path: str) -> None:
        with self._lock:
            self._places.pop(path, None)

    def _stop(self, error: OSError) -> None:
        logging.getLogger(__name__).warning("no more local copies are kept: %s", error)
        self._places.clear()
        self._most_bytes = 0
