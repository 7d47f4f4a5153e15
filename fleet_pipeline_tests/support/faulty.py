"""`faulty://`: a real fsspec driver, in memory, that fails on demand as the driver of an object store does."""

from collections.abc import Callable
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

# Called with (operation, path); raises the error that the driver shall raise.
Trouble = Callable[[str, str], None]


def none(operation: str, path: str) -> None:
    pass


class FaultyFileSystem(MemoryFileSystem):
    protocol = "faulty"
    store: dict[str, Any] = {}  # noqa: RUF012 - as its parent has it
    pseudo_dirs = [""]  # noqa: RUF012
    trouble: Trouble = staticmethod(none)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("faulty://"))

    def pipe_file(self, path: str, value: bytes, *arguments: Any, **named: Any) -> None:
        type(self).trouble("write", path)
        super().pipe_file(path, value, *arguments, **named)

    def cat_file(self, path: str, *arguments: Any, **named: Any) -> bytes:
        type(self).trouble("read", path)
        return super().cat_file(path, *arguments, **named)


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
