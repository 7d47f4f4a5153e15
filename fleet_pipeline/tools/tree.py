"""Files below one folder, by descriptor: no path leads out of it, whatever it says and whoever changes it meanwhile.

The kernel resolves each path (`openat2` with RESOLVE_BENEATH): `..`, absolute paths and links that lead out are refused, and
there is no moment between a check and its use. Where a kernel or a container's filter has no `openat2`, paths are walked part
by part, and links are refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple, Self

from fleet_pipeline.common.errors import Refused

_OPENAT2 = 437  # the same number on every architecture
_BENEATH, _NO_MAGIC_LINKS = 0x08, 0x02
_FLAGS = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a pipe with a name blocks nobody
_TEMPORARY = ".fleet-writing-"
_COUNT = count()
UNKNOWN = 2**62  # bytes
BLOCK_BYTES = 4_096
# Of a path that is made: 40 chains of 2,000 folders took a look 28 s, because each is found from the root.
MOST_PARTS = 100
_REFUSALS = {
    errno.EXDEV: "leads out of the workspace",
    errno.ELOOP: "is a link that leads out of the workspace, or around in a circle",
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "has a file where a folder is needed",
    errno.EISDIR: "is a folder",
    errno.EACCES: "may not be opened",
    errno.ENAMETOOLONG: "is too long a name",
    errno.EEXIST: "exists already",
    errno.ENOTEMPTY: "is a folder that is not empty",
    errno.ENXIO: "is no ordinary file",
    errno.EPERM: "may not be changed",
    errno.ENOSPC: "does not fit: the disk is full",
}


class Entry(NamedTuple):
    """`path` is relative to the tree, with `/` at the end of a folder's."""

    path: str
    status: os.stat_result


class Found(NamedTuple):
    """What `walk` comes by: `descriptor` is of its folder, and open until the next one is asked for."""

    folder: str
    descriptor: int
    name: str
    status: os.stat_result


_Node = tuple["_Node | None", str]  # the folder above, and a name in it


def _path_of(node: _Node | None) -> str:
    names = []
    while node is not None:
        node, name = node
        names.append(name)
    return "/".join(reversed(names))


class Tree:
    """An open folder. All paths of its methods are relative to it. Their `Refused` names the path and the reason."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def read(self, path: str, most: int) -> bytes:
        """An ordinary file of at most `most` bytes."""
        with self._opened(path, os.O_RDONLY) as descriptor:
            status = _ordinary(descriptor, path)
            if status.st_size > most:
                raise Refused(f"{path}: has {status.st_size:,} bytes; at most {most:,} are read")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(most + 1)
        if len(content) > most:
            raise Refused(f"{path}: grew over {most:,} bytes while it was read")
        return content

    def write(self, path: str, content: bytes, *, make_folders: bool = False) -> None:
        """Replace or make a file at once: who reads it meanwhile sees the old one or the new one, and no link is followed."""
        folder, name = _split(path)
        if make_folders and folder != ".":
            self.make_folder(folder)
        with self._folder(folder, path) as parent:
            temporary = f"{_TEMPORARY}{os.getpid()}-{threading.get_ident()}-{next(_COUNT)}"
            try:
                mode = _mode_of_old(parent, name, path)
                descriptor = os.open(
                    temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=parent
                )
                with open(descriptor, "wb") as file:
                    file.write(content)
                os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except OSError as error:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
                raise _refusal(path, error) from None

    def make_folder(self, path: str) -> None:
        """With those above it. One that exists is left as it is."""
        done: list[str] = []
        if len(parts := _parts(path)) > MOST_PARTS:
            raise Refused(f"{path[:100]}...: has {len(parts):,} folders; at most {MOST_PARTS} are made, one in another")
        for part in parts:
            with self._folder("/".join(done) or ".", path) as parent:
                try:
                    os.mkdir(part, 0o700, dir_fd=parent)
                except FileExistsError:
                    pass
                except OSError as error:
                    raise _refusal(path, error) from None
            done.append(part)
        with self._folder(path, path):
            pass

    def remove(self, path: str, *, recursive: bool = False) -> None:
        """A file, a link, or a folder: an empty one, unless `recursive`."""
        folder, name = _split(path)
        with self._folder(folder, path) as parent:
            try:
                if stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                    if recursive:
                        _remove_below(parent, name)
                    os.rmdir(name, dir_fd=parent)
                else:
                    os.unlink(name, dir_fd=parent)
            except OSError as error:
                raise _refusal(path, error) from None

    def move(self, path: str, to: str) -> None:
        """A file or folder, to where nothing is yet."""
        (folder, name), (to_folder, to_name) = _split(path), _split(to)
        if len(_parts(to)) > MOST_PARTS:
            raise Refused(f"{to[:100]}...: has more than {MOST_PARTS} folders, one in another")
        with self._folder(folder, path) as parent, self._folder(to_folder, to) as to_parent:
            try:
                with suppress(FileNotFoundError):
                    os.lstat(to_name, dir_fd=to_parent)
                    raise Refused(f"{to}: exists already")
                os.rename(name, to_name, src_dir_fd=parent, dst_dir_fd=to_parent)
            except OSError as error:
                raise _refusal(path, error) from None

    def status(self, path: str) -> os.stat_result:
        """Of the entry itself: a link is not followed."""
        if path in (".", "./"):
            return os.fstat(self._fd)
        folder, name = _split(path)
        with self._folder(folder, path) as parent:
            try:
                return os.lstat(name, dir_fd=parent)
            except OSError as error:
                raise _refusal(path, error) from None

    def has(self, path: str) -> bool:
        """Whether something can be reached there."""
        try:
            self.status(path)
        except Refused:
            return False
        return True

    def link(self, path: str) -> str:
        """Where a link leads, as it says."""
        folder, name = _split(path)
        with self._folder(folder, path) as parent:
            try:
                return os.readlink(name, dir_fd=parent)
            except OSError as error:
                raise _refusal(path, error) from None

    def entries(self, path: str = ".", *, recursive: bool = False, most: int = 10_000) -> Iterator[Entry]:
        """In the order of their names, a folder before what is in it. Folders behind links are not entered."""
        seen = 0
        root = path.rstrip("/") or path
        waiting: list[_Node] = [(None, root)]
        while waiting:
            node = waiting.pop()
            folder = _path_of(node)
            if root == ".":
                folder = folder.removeprefix("./")
            try:
                with self._opened(folder, os.O_RDONLY | os.O_DIRECTORY) as descriptor, os.scandir(descriptor) as found:
                    own = sorted(
                        ((one.name, one.stat(follow_symlinks=False)) for one in islice(found, most + 1)),
                        key=lambda pair: pair[0],
                    )
            except (Refused, OSError):
                if node[0] is None:
                    raise
                continue  # removed meanwhile
            below: list[_Node] = []
            for name, status in own:
                seen += 1
                if seen > most:
                    return
                full = name if folder == "." else f"{folder}/{name}"
                is_folder = stat.S_ISDIR(status.st_mode)
                yield Entry(full + "/" * is_folder, status)
                if is_folder and recursive:
                    below.append((node, name))
            waiting += reversed(below)

    def folder_of(self, path: str) -> Path:
        """Where a folder of the tree is, for a program that starts there. Links on the way must stay within."""
        with self._folder(path, path) as descriptor:
            return Path(os.readlink(f"/proc/self/fd/{descriptor}"))

    def size(self) -> int:
        """Bytes of all files, at least a block each: one without content takes room as well, and a disk has a number of files.

        A folder that cannot be looked into may hold any number, and counts as more than any bound.
        """
        try:
            return sum(max(one.status.st_blocks * 512, BLOCK_BYTES) for one in self.walk())
        except OSError:
            return UNKNOWN

    def walk(self, without: Sequence[str] = ()) -> Iterator[Found]:
        """All that is in the tree, but for names in `without` and what is below them; a folder before what is in it.

        Whatever is exchanged meanwhile, nothing but folders of the tree is opened: a pipe would be waited for, and a device do
        something. What is gone by now is passed over. Raises `OSError` for a folder that cannot be looked into.
        """
        waiting: list[_Node] = [(None, ".")]  # not their paths: those of 200,000 folders took 900 MB
        while waiting:
            node = waiting.pop()
            folder = _path_of(node)
            try:
                descriptor = _open_beneath(self._fd, folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | _FLAGS)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                    continue
                raise
            try:
                with os.scandir(descriptor) as entries:
                    for one in entries:
                        if one.name in without:
                            continue
                        try:
                            status = one.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        if stat.S_ISDIR(status.st_mode):
                            waiting.append((node, one.name))
                        yield Found(folder, descriptor, one.name, status)
            finally:
                os.close(descriptor)

    @contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        try:
            descriptor = _open_beneath(self._fd, _clean(path), flags | _FLAGS)
        except OSError as error:
            raise _refusal(path, error) from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _folder(self, path: str, asked: str) -> Iterator[int]:
        try:
            descriptor = _open_beneath(self._fd, _clean(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _refusal(asked, error) from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _clean(path: str) -> str:
    if not path or "\0" in path:
        raise Refused(f"{path!r} is no path; give one relative to the workspace, such as src/app.py")
    if path.startswith("/"):
        raise Refused(f"{path}: is absolute; give one relative to the workspace, such as src/app.py")
    return path


def _parts(path: str) -> list[str]:
    return [part for part in _clean(path).split("/") if part not in ("", ".")]


def _split(path: str) -> tuple[str, str]:
    """The folder, and the name in it."""
    parts = _parts(path)
    if not parts or parts[-1] == "..":
        raise Refused(f"{path}: names no entry of the workspace")
    return "/".join(parts[:-1]) or ".", parts[-1]


def _ordinary(descriptor: int, path: str) -> os.stat_result:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise Refused(f"{path}: is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"{path}: is no ordinary file")
    return status


def _mode_of_old(parent: int, name: str, path: str) -> int:
    """The mode that a file keeps when it is replaced; a new one is its owner's alone."""
    try:
        old = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return 0o600
    if not stat.S_ISREG(old.st_mode):
        raise Refused(f"{path}: is no ordinary file")
    return stat.S_IMODE(old.st_mode) & 0o777


def _refusal(path: str, error: OSError) -> Refused:
    return Refused(f"{path}: {_REFUSALS.get(error.errno or 0, error.strerror or 'cannot be opened')}")


def _open_beneath(root: int, path: str, flags: int) -> int:
    if not _has_openat2():
        return _walk(root, path, flags)
    how = struct.pack("=QQQ", flags, 0, _BENEATH | _NO_MAGIC_LINKS)
    while True:
        descriptor = _openat2(root, os.fsencode(path), how)
        if descriptor >= 0:
            return descriptor
        error = ctypes.get_errno()
        if error not in (errno.EAGAIN, errno.EINTR):  # EAGAIN: something on the way was renamed meanwhile
            raise OSError(error, os.strerror(error), path)


def _openat2(root: int, path: bytes, how: bytes) -> int:
    libc = _libc()
    return int(libc.syscall(ctypes.c_long(_OPENAT2), ctypes.c_int(root), path, how, ctypes.c_size_t(len(how))))


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


@cache
def _has_openat2() -> bool:
    descriptor = _openat2(-100, b"/", struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, 0))  # AT_FDCWD
    if descriptor >= 0:
        os.close(descriptor)
    return descriptor >= 0


def _walk(root: int, path: str, flags: int) -> int:
    """Part by part, without links and without `..`."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise OSError(errno.EXDEV, "leads out", path)
    at = os.dup(root)
    for index, part in enumerate(parts or ["."]):
        last = index == max(len(parts), 1) - 1
        try:
            own = flags if last else os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            following = os.open(part, own | os.O_NOFOLLOW, dir_fd=at)
        finally:
            os.close(at)
        at = following
        if stat.S_ISLNK(os.fstat(at).st_mode):
            os.close(at)
            raise OSError(errno.ELOOP, "is a link", path)
    return at


def _remove_below(parent: int, name: str) -> None:
    """All that is in a folder, by descriptor. Folders in folders are moved up first: a chain of 100,000 needs no stack."""
    top = _open_up(parent, name)
    try:
        while names := _names_now(top):
            for entry in names:
                if not stat.S_ISDIR(os.lstat(entry, dir_fd=top).st_mode):
                    os.unlink(entry, dir_fd=top)
                    continue
                folder = _open_up(top, entry)
                try:
                    for below in _names_now(folder):
                        if stat.S_ISDIR(os.lstat(below, dir_fd=folder).st_mode):
                            os.close(_open_up(folder, below))
                            os.rename(below, _TEMPORARY + secrets.token_hex(12), src_dir_fd=folder, dst_dir_fd=top)
                        else:
                            os.unlink(below, dir_fd=folder)
                finally:
                    os.close(folder)
                os.rmdir(entry, dir_fd=top)
    finally:
        os.close(top)


def _names_now(folder: int) -> list[str]:
    """Opened anew: on Btrfs an open folder shows nothing that was moved into it later, and no workspace could be removed."""
    again = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.listdir(again)
    finally:
        os.close(again)


def _open_up(parent: int, name: str) -> int:
    """A folder, opened; one that its owner may not enter or change is opened up first."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        folder = os.open(name, flags, dir_fd=parent)
    except PermissionError:
        # By descriptor: `chmod` by name follows a link that has taken the folder's place meanwhile.
        found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{found}", 0o700)
            folder = os.open(f"/proc/self/fd/{found}/.", flags & ~os.O_NOFOLLOW)
        finally:
            os.close(found)
    if stat.S_IMODE(os.fstat(folder).st_mode) & 0o700 != 0o700:
        with suppress(PermissionError):
            os.fchmod(folder, 0o700)
    return folder


def remove_tree(path: Path) -> None:
    """A folder with all that is in it. One that is not there is no error."""
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(FileNotFoundError):
            _remove_below(parent, path.name)
            os.rmdir(path.name, dir_fd=parent)
    finally:
        os.close(parent)
