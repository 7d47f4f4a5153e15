"""Passes data between the ops of one run, a part at a time, on disk instead of in memory.

Dagster keeps the return value of an op until the run ends: the scores of 5,000 deliberations were 40 MiB. A
`DiskBuffer` keeps them in a temporary file, which disappears with this process.
"""

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

IN_MEMORY = 8 * 2**20  # bytes; a smaller buffer has no file


class DiskBuffer:
    """Parts in insertion order, readable any number of times. (Not generic: Dagster accepts no generic types.)"""

    def __init__(self, parts: Iterable[Any], in_memory: int = IN_MEMORY) -> None:
        self._file = tempfile.SpooledTemporaryFile(in_memory)  # noqa: SIM115  (closed with the object)
        self._count = 0
        for part in parts:
            pickle.dump(part, self._file, pickle.HIGHEST_PROTOCOL)
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        offset = 0
        for _ in range(self._count):
            self._file.seek(offset)
            part = pickle.load(self._file)  # noqa: S301  (written above, in this process)
            offset = self._file.tell()
            yield part
