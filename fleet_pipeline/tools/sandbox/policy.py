"""What a confined program may do: the message from the sandbox to its launcher, as JSON.

Named tuples, because importing `dataclasses` takes 11 ms, of 45 that a start took.
"""

import json
from typing import Literal, NamedTuple

# What ended a program before it did itself.
Stop = Literal["time", "memory", "processes", "disk", "descriptors", "owner"]


class Limits(NamedTuple):
    """Bounds of one call. Memory and processes are of all its processes together, watched and not reserved."""

    seconds: float = 60.0
    memory_mib: int = 2_048
    processes: int = 512  # and threads
    open_files: int = 512
    file_mib: int = 256  # the largest file it can write
    disk_mib: int = 1_024  # what it may have written when it ends, in all writable folders
    output_bytes: int = 1_000_000  # of each stream; the rest is dropped


class Policy(NamedTuple):
    """A program, its surroundings and its bounds."""

    command: tuple[str, ...]
    folder: str
    environment: dict[str, str]
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    limits: Limits = Limits()
    executable: tuple[str, ...] = ()  # where some are named, nothing else can be executed
    alone: bool = False  # it starts no process
    landlock: bool = True
    bubblewrap: str | None = None  # its path, where it is the second layer

    def to_json(self) -> str:
        return json.dumps(self._replace(limits=self.limits._asdict())._asdict())  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, text: str) -> "Policy":
        values = json.loads(text)
        values["limits"] = Limits(**values["limits"])
        for name in ("command", "readable", "writable", "executable"):
            values[name] = tuple(values[name])
        return cls(**values)


class End(NamedTuple):
    """How a program ended. `code` is its exit code, or minus the number of the signal that ended it.

    Codes over 128 count as signals, as shells tell them."""

    code: int
    stopped: Stop | None = None
    error: str = ""  # it could not be confined or started, and has not run
