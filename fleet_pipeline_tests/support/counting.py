"""An object store that counts its requests: fsspec's memory file system, where every request says what it was."""

from collections import Counter
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class CountingFileSystem(MemoryFileSystem):
    """`counted://`. `requests` has (kind, path) of every request since the last `clear`."""

    protocol = "counted"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    requests: ClassVar[list[tuple[str, str]]] = []

    @classmethod
    def clear(cls) -> None:
        cls.requests.clear()

    @classmethod
    def kinds_of(cls, key: str) -> Counter[str]:
        """The number of requests of each kind for the files of one deliberation."""
        return Counter(kind for kind, path in cls.requests if path.rpartition("/")[2].startswith(key))

    def _count(self, kind: str, path: str) -> None:
        self.requests.append((kind, path))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        self._count("read", path)
        content: bytes = super().cat_file(path, start=start, end=end, **kwargs)
        return content

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._count("write", path)
        super().pipe_file(path, value, mode, **kwargs)

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        self._count("write", rpath)
        super().put_file(lpath, rpath, **kwargs)

    def rm_file(self, path: str) -> None:
        self._count("remove", path)
        super().rm_file(path)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self._count("list", path)
        return super().ls(path, detail, **kwargs)

    def modified(self, path: str) -> Any:
        self._count("head", path)
        return super().modified(path)


fsspec.register_implementation("counted", CountingFileSystem, clobber=True)
