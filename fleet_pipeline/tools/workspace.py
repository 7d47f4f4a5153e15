"""Workspaces: a folder of its own for each agent, made from a git repository, a folder, or nothing, and removed always.

    <root>/<name>/.fleet-lock held while the workspace is in use: the kernel lets go of it when its process is killed
                  tree/     the files that operations and programs see and change
                  git/      the repository: outside of the tree, so that neither its hooks nor its configuration can be written
                  home/     HOME and TMPDIR of programs

A task's source is fetched once, and copied for each agent. Objects of git never change, so they are linked. Attributes and
modules of the tree have no effect: no filter is configured, and modules are never fetched.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from fleet_pipeline.common.errors import InvalidInput, Refused
from fleet_pipeline.tools.tree import Tree, remove_tree

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_CLONE_SECONDS = 600
SCHEMES = ("https", "ssh")
ORIGIN = "refs/remotes/origin/"
BASE = "refs/fleet/base"  # the commit that a workspace started from
_SWEEPS = 1_000  # looks after which whoever has a workspace of the name is no sweeper
LOCK = ".fleet-lock"  # what has it is a workspace, and may be swept
_PARTS = ("tree", "git", "home")
# Nothing of the user's or the repository's own may run: no hook, filter, helper, editor, pager or program of a protocol.
_SETTINGS = (
    *(
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "core.attributesFile=/dev/null",
        "core.excludesFile=/dev/null",
    ),
    *(
        "core.pager=cat",
        "core.editor=false",
        "diff.ignoreSubmodules=all",
        "submodule.recurse=false",
        "protocol.ext.allow=never",
    ),
    *(
        "gc.auto=0",
        "maintenance.auto=false",
        "commit.gpgSign=false",
        "tag.gpgSign=false",
        "credential.helper=",
        "safe.directory=*",
    ),
)
GIT_OPTIONS = tuple(part for setting in _SETTINGS for part in ("-c", setting))
GIT_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
}

# What a fetch needs of the user's environment: programs, keys and names of servers, and the way through a proxy.
_OF_THE_USER = (
    *("PATH", "HOME", "SSH_AUTH_SOCK", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"),
    *("GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)


@dataclass(frozen=True)
class Source:
    """What a workspace starts from: a git URL with a reference, or a folder, or nothing."""

    url: str | None = None
    reference: str | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme not in SCHEMES or not parts.hostname or parts.hostname.startswith("-"):
                raise InvalidInput(
                    f"workspace {self.url!r}: expected a URL with {' or '.join(SCHEMES)}, such as https://host/a.git"
                )
            if parts.password or (parts.scheme == "https" and parts.username):
                raise InvalidInput("workspace: the URL holds credentials; put them into ~/.netrc, or use ssh")
        if self.reference is not None and (
            not re.fullmatch(r"[\w./+-]{1,200}", self.reference) or self.reference[0] == "-"
        ):
            raise InvalidInput(f"workspace reference {self.reference!r}: expected a branch, a tag or a commit")


class Workspace:
    """A folder in use until it is closed. `keep`: a person has named it, and it stays."""

    def __init__(self, place: Path, lock: int, *, keep: bool = False) -> None:
        self.place = place
        self.tree_folder, self.git_folder, self.home = place / "tree", place / "git", place / "home"
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.tree.close()
        if not self._keep:
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
                _fill(source or Source(), place, most_bytes)
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
        self.swept = self.sweep()

    def make(self, name: str, source: Source = Source(), most_bytes: int = 10**9) -> Workspace:
        """One from `source`: the base of a task's workspaces, or the only one.

        Raises `InvalidInput` for a source that cannot be had, or is larger than `most_bytes`; `Refused` if the name is in use.
        """
        place, lock = self._claim(name)
        return self._opened(place, lock, lambda: _fill(source, place, most_bytes))

    def copy(self, name: str, base: Workspace, most_bytes: int = 0) -> Workspace:
        """One like `base`. Raises `Refused` if the name is in use, and `InvalidInput` for one that cannot be copied, or has more
        than `most_bytes`, holes of files included.
        """
        place, lock = self._claim(name)

        def fill() -> None:
            try:
                _copy(base.tree_folder, place / "tree", most_bytes=most_bytes)
                _copy(base.git_folder, place / "git", link=True)
            except OSError as error:  # such as folders that are too deep
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
                _remove(place)
                removed.append(place.name)
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


_WHO = ("-c", "user.name=fleet", "-c", "user.email=fleet@localhost")
# Over whatever attributes the tree has: a filter would run a program, and an encoding that a file lacks keeps `git add` from all others, and ends of lines
# that are taken for the same hide a change.
_ATTRIBUTES = "* -text !eol !filter !working-tree-encoding !ident !diff !merge !export-subst\n"


def _fill(source: Source, place: Path, most_bytes: int) -> None:
    """Raises `InvalidInput` for a source that cannot be had, or is larger than `most_bytes`."""
    if source.url is not None:
        _clone(source, place)
    elif source.folder is not None:
        _take_folder(source.folder, place, most_bytes)
    else:
        _begin(place)
    with Tree(place / "tree") as tree:
        if (size := tree.size()) > most_bytes:
            raise InvalidInput(f"workspace: has {size:,} bytes; at most {most_bytes:,} are taken")
    for reference in (BASE, ORIGIN + "main"):
        git(place, "update-ref", reference, "HEAD")


def settle(workspace: Workspace) -> str:
    """Commit what a folder had not committed yet, so that only what is done from now on is a change. The commit's id."""
    place = workspace.place
    git(place, "add", "--all")
    git(place, *_WHO, "commit", "--quiet", "--allow-empty", "--message", "What was not committed")
    for reference in (BASE, ORIGIN + "main"):
        git(place, "update-ref", reference, "HEAD")
    return git(place, "rev-parse", "HEAD").strip()


def _init(place: Path) -> None:
    git(place, "init", "--quiet", "--template=", "--initial-branch=main")
    (place / "git/info").mkdir()
    (place / "git/info/attributes").write_text(_ATTRIBUTES, encoding="utf-8")


def _begin(place: Path) -> None:
    """A repository with one commit of all that is in the tree."""
    _init(place)
    git(place, "add", "--all", "--force")
    git(place, *_WHO, "commit", "--quiet", "--allow-empty", "--message", "Start of the workspace")


def git(place: Path, *arguments: str, seconds: float = 120) -> str:
    """Run git outside the sandbox, in a workspace that nobody has written to yet. Raises `InvalidInput`."""
    command = ["git", f"--git-dir={place / 'git'}", f"--work-tree={place / 'tree'}", *GIT_OPTIONS, *arguments]
    environment = GIT_ENVIRONMENT | {name: os.environ[name] for name in _OF_THE_USER if name in os.environ}
    try:
        done = subprocess.run(
            command,
            cwd=place / "tree",
            env=environment,
            capture_output=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise InvalidInput("git is not installed here, and workspaces are kept with it") from None
    except subprocess.TimeoutExpired:
        raise InvalidInput(f"git {arguments[0]} took longer than {seconds:.0f} s") from None
    if done.returncode != 0:
        raise InvalidInput(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return done.stdout.decode(errors="replace")


def _clone(source: Source, place: Path) -> None:
    assert source.url is not None
    _init(place)
    reference = source.reference or "HEAD"
    git(place, "fetch", "--quiet", "--depth=50", "--no-tags", "--", source.url, reference, seconds=_CLONE_SECONDS)
    # No attribute names a filter that is configured, and no hook is found: a checkout writes files, and runs nothing.
    git(place, "checkout", "--quiet", "-B", "main", "FETCH_HEAD")


def _take_folder(folder: Path, place: Path, most_bytes: int) -> None:
    """The files of a folder, without its `.git`. If it is a repository, its history comes along."""
    if not folder.is_dir():
        raise InvalidInput(f"workspace: {folder} is no folder")
    if (folder / ".git").is_symlink():
        raise InvalidInput(f"workspace: {folder / '.git'} is a link, and may lead to what is not meant")
    _copy(folder, place / "tree", most_bytes=most_bytes, without=(".git",))
    if (folder / ".git").is_dir():
        _init(place)
        from_here = ("-c", "protocol.file.allow=always", "fetch", "--quiet", "--no-tags")
        git(place, *from_here, "--", str(folder.absolute()), "HEAD")
        git(place, "update-ref", "refs/heads/main", "FETCH_HEAD")
        git(place, "reset", "--quiet", "--mixed")
    else:
        _begin(place)


def _copy(source: Path, target: Path, *, link: bool = False, most_bytes: int = 0, without: Sequence[str] = ()) -> None:
    """Files, folders and links as they are; sockets and pipes are left out. `link`: files that never change.

    By descriptor, because the source may be written to meanwhile: what is read is what was seen there, and never behind a link.
    Raises `InvalidInput` for one with more than `most_bytes`, holes included: a copy has none.
    """
    total = 0
    for folder, folders, files, descriptor in os.fwalk(source):
        relative = os.path.relpath(folder, source)
        here = target / relative
        folders[:] = [name for name in folders if name not in without]
        for name in list(folders):
            if stat.S_ISLNK(os.lstat(name, dir_fd=descriptor).st_mode):
                folders.remove(name)
                os.symlink(os.readlink(name, dir_fd=descriptor), here / name)
            else:
                (here / name).mkdir(mode=0o700)
        for name in files:
            if name in without:
                continue
            with suppress(FileNotFoundError):  # removed meanwhile
                status = os.lstat(name, dir_fd=descriptor)
                if stat.S_ISLNK(status.st_mode):
                    os.symlink(os.readlink(name, dir_fd=descriptor), here / name)
                elif stat.S_ISREG(status.st_mode):
                    total += status.st_size
                    if most_bytes and total > most_bytes:
                        raise InvalidInput(f"workspace: {source} has more than {most_bytes:,} bytes")
                    if link and "objects" in Path(relative).parts:
                        with suppress(OSError):
                            os.link(name, here / name, src_dir_fd=descriptor, follow_symlinks=False)
                            continue
                    _copy_file(name, descriptor, here / name, status.st_size)


_FICLONE = 0x40049409


def _copy_file(name: str, folder: int, target: Path, size: int) -> None:
    """By sharing blocks, where the file system can (Btrfs, XFS). Up to the size that it had."""
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with open(opened, "rb") as old:
        mode = os.fstat(opened).st_mode
        if not stat.S_ISREG(mode):
            return
        with open(target, "xb") as new:
            os.fchmod(new.fileno(), mode & 0o777 | 0o600)
            try:
                fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            except OSError:
                while size > 0 and (part := old.read(min(size, 2**20))):
                    size -= len(part)
                    new.write(part)


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
