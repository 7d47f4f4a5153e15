"""What workspaces start from: a git repository, a folder, or nothing, taken in by git outside of the sandbox.

A source comes from a task, and so from anybody. What its repository can do is bounded: no hook, filter, helper or setting of its own has
an effect, its git has bounds on time, memory and disk, and all its processes end together.
"""

from __future__ import annotations

import fcntl
import os
import re
import resource
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from urllib.parse import urlsplit

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.tools.tree import BLOCK_BYTES, UNKNOWN, Tree

_CLONE_SECONDS, _GIT_SECONDS = 600, 120
_GIT_MEMORY = (
    2 * 2**30
)  # of one process, with what it maps of the repository; a tree of 25 KB can be made that takes any
_LEAST_BYTES = 64 * 2**20  # git's own, beside what is taken
_LOOK_SECONDS = 0.25
_AT_A_TIME = 500  # names that are given as arguments
_MOST_SAID = 64 * 2**20  # bytes on standard output and error
SCHEMES = ("https", "ssh")
ORIGIN = "refs/remotes/origin/"
BASE = "refs/fleet/base"  # the commit that a workspace started from
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
        "http.followRedirects=false",  # a server that may be asked must not send this host to one that may not
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
    # A folder's repository can lack objects and name where to get them: by a program of its own configuration. The first is known to
    # git from 2.39.4 and 2.44 on, the second to all; a fetch names what it needs.
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "",
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


NOTHING = Source()
_WHO = ("-c", "user.name=fleet", "-c", "user.email=fleet@localhost")
# Over whatever attributes the tree has: a filter would run a program, and an encoding that a file lacks keeps `git add` from all others, and ends of lines
# that are taken for the same hide a change.
_ATTRIBUTES = "* -text !eol !filter !working-tree-encoding !ident !diff !merge !export-subst\n"


def _never() -> bool:
    return False


def fill(source: Source, place: Path, most_bytes: int, stopped: Callable[[], bool] = _never) -> None:
    """Raises `InvalidInput` for a source that cannot be had, or is larger than `most_bytes`; also where it was `stopped` meanwhile."""
    if source.url is not None:
        _clone(source, place, most_bytes, stopped)
    elif source.folder is not None:
        _take_folder(source.folder, place, most_bytes, stopped)
    else:
        _begin(place)
    if (size := size_of(place / "tree")) > most_bytes:
        raise InvalidInput(f"workspace: has {size:,} bytes; at most {most_bytes:,} are taken")
    for reference in (BASE, ORIGIN + "main"):
        git(place, "update-ref", reference, "HEAD")


def settle(place: Path) -> str:
    """Commit what the folder of a workspace had not committed yet, so that only what is done from now on is a change. The commit's id.

    Folders of submodules become folders like others: git looks at nothing in them, and a change there would be in no diff.
    """
    staged = git(place, "ls-files", "--stage", "-z").split("\0")
    modules = [one.partition("\t")[2] for one in staged if one.startswith("160000 ")]
    for at in range(0, len(modules), _AT_A_TIME):
        git(place, "update-index", "--force-remove", "--", *modules[at : at + _AT_A_TIME])
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


def git(
    place: Path,
    *arguments: str,
    seconds: float = _GIT_SECONDS,
    most_bytes: int = 0,
    stopped: Callable[[], bool] = _never,
    protocols: Sequence[str] = (),
) -> str:
    """Run git outside the sandbox, in a workspace that nobody has written to yet. Raises `InvalidInput`, also where it takes longer or
    leaves more than `most_bytes` in the workspace, or is `stopped`. All its processes have ended then.
    """
    command = ["git", f"--git-dir={place / 'git'}", f"--work-tree={place / 'tree'}", *GIT_OPTIONS, *arguments]
    environment = GIT_ENVIRONMENT | {name: os.environ[name] for name in _OF_THE_USER if name in os.environ}
    environment["GIT_ALLOW_PROTOCOL"] = ":".join(protocols)
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                cwd=place / "tree",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=errors,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise InvalidInput("git is not installed here, and workspaces are kept with it") from None
        try:
            with suppress(ProcessLookupError, PermissionError):
                memory = _GIT_MEMORY + most_bytes
                resource.prlimit(process.pid, resource.RLIMIT_AS, (memory, memory))

            def too_much() -> bool:  # a server may send progress without end
                return sum(os.fstat(one.fileno()).st_size for one in (said, errors)) > _MOST_SAID

            _watch(process, place, arguments[0], seconds, most_bytes, stopped, too_much)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # helpers that fetch go on without it
            process.wait()
        for stream in (said, errors):
            stream.seek(0)
        if process.returncode != 0:
            why = errors.read(1_000_000).decode(errors="replace").strip()[-500:]
            raise InvalidInput(f"git {arguments[0]}: {why or f'ended with {process.returncode}'}")
        return said.read(10_000_000).decode(errors="replace")


def _watch(
    process: subprocess.Popen[bytes],
    place: Path,
    what: str,
    seconds: float,
    most_bytes: int,
    stopped: Callable[[], bool],
    too_much: Callable[[], bool],
) -> None:
    """Until it ends."""
    ends_at, pause = time.monotonic() + seconds, _LOOK_SECONDS
    while True:
        try:
            process.wait(pause)
            return
        except subprocess.TimeoutExpired:
            began = time.monotonic()
        if stopped():
            raise InvalidInput(f"git {what}: was stopped")
        if too_much():
            raise InvalidInput(f"git {what}: says more than {_MOST_SAID:,} bytes")
        if began > ends_at:
            raise InvalidInput(f"git {what} took longer than {seconds:.0f} s")
        if most_bytes and (size := size_of(place)) > most_bytes:
            raise InvalidInput(f"git {what}: has {size:,} bytes so far; at most {most_bytes:,} are taken")
        pause = max(_LOOK_SECONDS, 4 * (time.monotonic() - began))


def size_of(place: Path) -> int:
    """Bytes of all files and folders below, holes included: copies of them have none. Each takes a block: a repository of some hundred
    bytes can have millions of files without content."""
    try:
        with Tree(place) as tree:
            return sum(
                max(
                    one.status.st_size if stat.S_ISREG(one.status.st_mode) else 0,
                    one.status.st_blocks * 512,
                    BLOCK_BYTES,
                )
                for one in tree.walk()
            )
    except OSError:
        return UNKNOWN


def _clone(source: Source, place: Path, most_bytes: int, stopped: Callable[[], bool]) -> None:
    assert source.url is not None
    _init(place)
    reference = source.reference or "HEAD"
    most = 2 * most_bytes + _LEAST_BYTES  # the history, and the tree
    fetch = ("fetch", "--quiet", "--depth=50", "--no-tags", "--", source.url, reference)
    git(place, *fetch, seconds=_CLONE_SECONDS, most_bytes=most, stopped=stopped, protocols=SCHEMES)
    # No attribute names a filter that is configured, and no hook is found: a checkout writes files, and runs nothing.
    git(place, "checkout", "--quiet", "-B", "main", "FETCH_HEAD", most_bytes=most)


def _take_folder(folder: Path, place: Path, most_bytes: int, stopped: Callable[[], bool]) -> None:
    """The files of a folder, without its `.git`. If it is a repository, its history comes along."""
    if not folder.is_dir():
        raise InvalidInput(f"workspace: {folder} is no folder")
    if (folder / ".git").is_symlink():
        raise InvalidInput(f"workspace: {folder / '.git'} is a link, and may lead to what is not meant")
    try:
        copy(folder, place / "tree", most_bytes=most_bytes, without=(".git",))
    except OSError as error:
        raise InvalidInput(f"workspace: {folder} cannot be copied: {error.strerror or error}") from None
    if _is_repository(folder / ".git"):
        _check_repository(folder / ".git")
        _init(place)
        # Strict, because git else looks around for what it was not given: the folder itself as a repository, or `FOLDER.git` beside it.
        # No protocol, because an old git would have what the repository lacks from another folder, by a program that it names.
        strict = "--upload-pack=GIT_ALLOW_PROTOCOL= git-upload-pack --strict"
        from_here = ("fetch", "--quiet", "--no-tags", strict)
        most = 3 * most_bytes + _LEAST_BYTES  # the history is not bounded but by this
        repository = str(folder.absolute() / ".git")
        git(place, *from_here, "--", repository, "HEAD", most_bytes=most, stopped=stopped, protocols=("file",))
        git(place, "update-ref", "refs/heads/main", "FETCH_HEAD")
        git(place, "reset", "--quiet", "--mixed", most_bytes=most)
    else:
        _begin(place)


def _is_repository(folder: Path) -> bool:
    """As git sees it: anything else is a folder like others, and left out."""
    return (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir()


def _check_repository(folder: Path) -> None:
    """Raises `InvalidInput` for one that leads git to objects and references elsewhere, or keeps it waiting."""
    for path in ("commondir", "objects/info/alternates", "objects/info/http-alternates"):
        if (folder / path).exists():
            raise InvalidInput(f"workspace: {folder / path} leads to another repository; clone it whole")
    with Tree(folder) as tree:
        for one in tree.walk():
            if not (stat.S_ISREG(one.status.st_mode) or stat.S_ISDIR(one.status.st_mode)):
                raise InvalidInput(f"workspace: {folder / one.folder / one.name} is neither a file nor a folder")


def copy(source: Path, target: Path, *, link: bool = False, most_bytes: int = 0, without: Sequence[str] = ()) -> None:
    """Files, folders and links as they are; sockets and pipes are left out. `link`: files that never change.

    By descriptor, because the source may be written to meanwhile: what is read is what was seen there, and never behind a link.
    Raises `InvalidInput` for one with more than `most_bytes`, holes included: a copy has none.
    """
    total = 0

    def take(size: int) -> None:
        nonlocal total
        total += max(size, BLOCK_BYTES)
        if most_bytes and total > most_bytes:
            raise InvalidInput(f"workspace: {source} has more than {most_bytes:,} bytes")

    with Tree(source) as tree:
        for folder, descriptor, name, status in tree.walk(without):
            own = target / folder / name
            kind = stat.S_IFMT(status.st_mode)
            if kind not in (stat.S_IFDIR, stat.S_IFLNK, stat.S_IFREG):
                continue
            take(status.st_size if kind == stat.S_IFREG else 0)
            with suppress(FileNotFoundError):  # removed meanwhile
                if kind == stat.S_IFDIR:
                    own.mkdir(mode=0o700)
                elif kind == stat.S_IFLNK:
                    os.symlink(os.readlink(name, dir_fd=descriptor), own)
                else:
                    if link and PurePath(folder).parts[:1] == ("objects",):
                        with suppress(OSError):
                            os.link(name, own, src_dir_fd=descriptor, follow_symlinks=False)
                            continue
                    _copy_file(name, descriptor, own, status.st_size)


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
