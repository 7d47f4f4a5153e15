"""What passes between ops of one run, a part at a time, without standing in memory.

Dagster keeps what an op returns until the run ends: the figures of 5,000 deliberations were 40 MiB. A `DiskBuffer`
keeps them in a file of this process, which goes with it.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

IN_MEMORY = 8 * 2**20  # bytes up to which there is no file


class DiskBuffer:
    """Parts in the order in which they came, to be read as often as wanted. (Not generic: Dagster takes no such types.)"""

    def __init__(self, parts: Iterable[Any], in_memory: int = IN_MEMORY) -> None:
        self._file = tempfile.SpooledTemporaryFile(in_memory)  # noqa: SIM115  (closed with the object)
        self._count = 0
        for part in parts:
            pickle.dump(part, self._file, pickle.HIGHEST_PROTOCOL)
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        place = 0
        for _ in range(self._count):
            self._file.seek(place)
            part = pickle.load(self._file)  # noqa: S301  (written above, in this process)
            place = self._file.tell()
            yield part
