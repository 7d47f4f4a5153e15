"""Workspaces: a folder of its own for each agent, made from a git repository, a folder, or nothing, and removed always.

    <root>/<name>/.fleet-lock held while the workspace is in use: the kernel lets go of it when its process is killed
                  tree/     the files that operations and programs see and change
                  git/      the repository: outside of the tree, so that neither its hooks nor its configuration can be written
                  home/     HOME and TMPDIR of programs
                  pytest.ini without anything in it, so that no settings of folders above are looked for

A task's source is fetched once, and copied for each agent. Objects of git never change, so they are linked. Attributes and
modules of the tree have no effect: no filter is configured, and modules are never fetched.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from fleet_pipeline.common.errors import InvalidInput, Refused
from fleet_pipeline.tools.containers import remove_all
from fleet_pipeline.tools.sources import NOTHING, Source, copy, fill
from fleet_pipeline.tools.tree import Tree, remove_tree

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_SWEEPS = 1_000  # looks after which whoever has a workspace of the name is no sweeper
LOCK = ".fleet-lock"  # what has it is a workspace, and may be swept
_PARTS = ("tree", "git", "home")


class Workspace:
    """A folder in use until it is closed. `keep`: a person has named it, and it stays."""

    def __init__(self, place: Path, lock: int, *, keep: bool = False) -> None:
        self.place = place
        self.tree_folder, self.git_folder, self.home = place / "tree", place / "git", place / "home"
        # Where the tree has none pytest looks for them in all folders above, may read none of those, and breaks.
        self.no_settings = place / "pytest.ini"
        self.no_settings.touch()
        self.tree = Tree(self.tree_folder)
        self._keep = keep
        self._lock = lock
        self._size: int | None = None  # of the tree when it was looked at last
        self._added = 0  # what file operations have written since

    @property
    def name(self) -> str:
        return self.place.name

    def must_have_room(self, size: int, most: int) -> None:
        """Before a file of `size` bytes is written. Raises `Refused` where the tree would have more than `most`.

        Going through the tree takes time, so it is done once in a quarter of the bound, and before it refuses.
        """
        if self._size is None or self._added + size > most // 4 or self._size + self._added + size > most:
            self._size, self._added = self.tree.size(), 0
        if self._size + size > most:
            raise Refused(f"the workspace would have more than {most:,} bytes (tools.limits.disk_mib)")
        self._added += size

    def make_room(self, most: int, *, with_repository: bool = False) -> None:
        """Before a program starts that may write. What programs have left in their HOME is removed where it is too much.

        Each program is ended a little above the bound, and the next one would go on from there. Raises `Refused` where the tree, and the
        repository, have more than `most`.
        """
        size = self.tree.size() + (_size_of(self.git_folder) if with_repository else 0)
        if size > most:
            raise Refused(
                f"the workspace has more than {most:,} bytes (tools.limits.disk_mib), or folders that cannot be looked into; remove them"
            )
        if size + _size_of(self.home) > most:
            self.empty_home()

    def empty_home(self) -> None:
        remove_tree(self.home)
        self.home.mkdir(mode=0o700)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.tree.close()
        if not self._keep:
            remove_all(self.place)
            _remove(self.place)
        os.close(self._lock)


def open_kept(place: Path, source: Source | None = None, most_bytes: int = 10**9) -> Workspace:
    """The workspace at `place`, which stays there, made from `source` if nothing is there.

    It is no folder of a person's own: what programs write there must not be found by the person's git and shell.
    Raises `InvalidInput` for a folder that is something else, and `Refused` for a workspace in use.
    """
    place = place.absolute()
    is_new = not place.exists() or not any(place.iterdir())
    if not is_new and not all((place / part).is_dir() for part in _PARTS):
        raise InvalidInput(f"{place} is no workspace, and not empty; make one from it: --workspace NEW --from {place}")
    if not is_new and source is not None:
        raise InvalidInput(f"{place} is a workspace already; leave --from out, or name a new folder")
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = place.resolve()
    lock = _try_lock(place)
    if lock is None:
        raise Refused(f"the workspace {place} is in use")
    try:
        if is_new:
            for part in _PARTS:
                (place / part).mkdir(mode=0o700)
            try:
                fill(source or NOTHING, place, most_bytes)
            except BaseException:
                for part in _PARTS:
                    remove_tree(place / part)
                (place / LOCK).unlink()
                raise
        return Workspace(place, lock, keep=True)
    except BaseException:
        os.close(lock)
        raise


class Workspaces:
    """All workspaces below `root`. Whoever opens it removes first what processes that are gone have left."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root = root.resolve()
        self._stopped = threading.Event()
        self.swept = self.sweep()

    def make(self, name: str, source: Source = NOTHING, most_bytes: int = 10**9) -> Workspace:
        """One from `source`: the base of a task's workspaces, or the only one.

        Raises `InvalidInput` for a source that cannot be had, or is larger than `most_bytes`; `Refused` if the name is in use.
        """
        place, lock = self._claim(name)
        return self._opened(place, lock, lambda: fill(source, place, most_bytes, self._stopped.is_set))

    def stop(self) -> None:
        """Whoever waits for a source need not wait any more: it cannot be had."""
        self._stopped.set()

    def copy(self, name: str, base: Workspace, most_bytes: int = 0) -> Workspace:
        """One like `base`. Raises `Refused` if the name is in use, and `InvalidInput` for one that cannot be copied, or has more
        than `most_bytes`, holes of files included.
        """
        place, lock = self._claim(name)

        def fill() -> None:
            try:
                copy(base.tree_folder, place / "tree", most_bytes=most_bytes)
                copy(base.git_folder, place / "git", link=True)
            except OSError as error:
                raise InvalidInput(f"workspace: cannot be copied: {error.strerror or error}") from None

        return self._opened(place, lock, fill)

    def sweep(self) -> list[str]:
        """Remove workspaces whose process is gone, and end what is still running in them. Their names."""
        removed = []
        for place in sorted(self.root.iterdir()):
            if place.is_symlink() or not place.is_dir():
                continue
            if not (
                place / LOCK
            ).is_file():  # of a claim that was killed at once, or somebody's own folder: removed if empty
                with suppress(OSError):
                    place.rmdir()
                continue
            lock = _try_lock(place)
            if lock is None:
                continue
            try:
                _end_processes_in(place)
                remove_all(place)
                _remove(place)
                removed.append(place.name)
            except OSError as error:  # one that cannot be removed must not keep others from being made
                _log.warning("the workspace %s cannot be removed: %s; remove it by hand", place, error)
            finally:
                os.close(lock)
        return removed

    def _claim(self, name: str) -> tuple[Path, int]:
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"{name!r} is no name for a workspace: letters, digits, dots and dashes")
        place = self.root / name
        swept = 0
        while True:
            try:
                place.mkdir(mode=0o700)
            except FileExistsError:
                if not 0 < swept < _SWEEPS:
                    raise Refused(f"the workspace {name} is in use") from None
                time.sleep(0.01)  # until the sweeper has removed it
                swept += 1
                continue
            lock = _try_lock(place)
            if lock is not None and _is_at(lock, place / LOCK):
                return place, lock
            if lock is not None:
                os.close(lock)
            swept += 1  # a sweeper was between: it removes what nobody holds the lock of

    def _opened(self, place: Path, lock: int, fill: Callable[[], None]) -> Workspace:
        try:
            for part in _PARTS:
                (place / part).mkdir(mode=0o700)
            fill()
            return Workspace(place, lock)
        except BaseException:
            _remove(place)
            os.close(lock)
            raise


def _size_of(folder: Path) -> int:
    with Tree(folder) as found:
        return found.size()


def _try_lock(place: Path) -> int | None:
    """The lock of a workspace, or None where a process holds it, or it is no workspace."""
    try:
        lock = os.open(place / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return lock


def _remove(place: Path) -> None:
    """The lock last: by it the sweeper knows a workspace, also one whose removal was cut off."""
    for part in _PARTS:
        remove_tree(place / part)
    remove_tree(place)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`: it may have been removed, and made again by another."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _end_processes_in(place: Path) -> None:
    """What a launcher that was killed itself has left. Processes are known by their folder and their HOME.

    One that has changed both is still confined, and has nothing left to write to.
    """
    home = f"HOME={place}/".encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):
            inside = os.readlink(process / "cwd").startswith(f"{place}/")
            if inside or any(entry.startswith(home) for entry in (process / "environ").read_bytes().split(b"\0")):
                os.kill(int(process.name), signal.SIGKILL)
