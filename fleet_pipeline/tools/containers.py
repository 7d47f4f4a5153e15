"""Containers and images of a workspace: their names, and their end.

They outlive the call that made them, and so they are removed with their workspace. One that went on writing into it kept it from being
removed, and its run from ending.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.tools.sandbox.processes import descendants, nameless
from fleet_pipeline.tools.sandbox.seccomp import OF_SOCKETS, OF_TERMINALS

_log = logging.getLogger(__name__)
_MARK = "containers"  # beside the tree: no program of the workspace can remove it
_SECONDS = 60
_TAKE_ROOM = ("fallocate", "ioctl", "io_uring_setup", "io_uring_enter", "io_uring_register")
_PROFILES = (Path("/etc/containers/seccomp.json"), Path("/usr/share/containers/seccomp.json"))
LABEL = "fleet-workspace"  # of images
OF_THE_USER = ("PATH", "HOME", "XDG_RUNTIME_DIR", "CONTAINERS_CONF")


def id_of(place: Path) -> str:
    """Of the workspace at `place`, as long for all: a name could be the beginning of another's."""
    return hashlib.sha256(str(place).encode()).hexdigest()[:16]


def prefix_of(place: Path) -> str:
    """Of the names of its containers."""
    return f"fleet-{id_of(place)}-"


def image_of(place: Path) -> str:
    """The name of its images, without tags."""
    return f"fleet/{id_of(place)}"


def filter_of(folder: Path) -> Path:
    """podman's own filter of system calls, kept in `folder`, without those that take room before anybody looks: a container took 8 GiB
    by one `fallocate`. File systems have ioctls that do the same. So of those the ones of terminals and sockets are left, which is what
    the sandbox leaves. Raises `Refused`.
    """
    for profile in _PROFILES:
        try:
            whole = json.loads(profile.read_text())
            for rule in whole["syscalls"]:
                rule["names"] = [name for name in rule["names"] if name not in _TAKE_ROOM]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        allowed = [
            {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [_of_kind(kind)]}
            for kind in (OF_TERMINALS, OF_SOCKETS)
        ]
        refused = {"names": ["fallocate"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EOPNOTSUPP}
        whole["syscalls"] = [*(rule for rule in whole["syscalls"] if rule["names"]), *allowed, refused]
        own = folder / "seccomp.json"
        own.write_text(json.dumps(whole))
        return own
    raise Refused(f"podman's filter of system calls is not installed here: {' or '.join(map(str, _PROFILES))}")


def _of_kind(kind: int) -> dict[str, int | str]:
    """An ioctl's number, of which the second byte tells its kind."""
    return {"index": 1, "value": 0xFF00, "valueTwo": kind, "op": "SCMP_CMP_MASKED_EQ"}


def nameless_bytes(pid_file: Path, most: int) -> int:
    """Of files that a container's processes hold open and have removed: they stand in no folder that could be counted."""
    try:
        return sum(nameless(int(pid_file.read_text()), most).values())
    except (OSError, ValueError):  # not begun, or ended
        return 0


@contextmanager
def at_work(place: Path, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """While a podman works for a workspace. Where its owner is killed it goes on, and is ended with the workspace."""
    (place / _MARK).touch()
    own = place / f"{_MARK}-{process.pid}"
    own.write_text(_began(process.pid))
    try:
        yield
    finally:
        own.unlink(missing_ok=True)


def remove_all(place: Path) -> None:
    """Containers and images of a workspace that ends. What cannot be removed is logged."""
    if (place / _MARK).exists():
        for left in place.glob(f"{_MARK}-*"):
            pid = int(left.name.rpartition("-")[2])
            if left.read_text() and _began(pid) == left.read_text():
                end(pid)
        remove_containers(place)
        for of_it in (f"reference=localhost/{image_of(place)}", f"label={LABEL}={id_of(place)}"):
            _remove(place, ("images", "--all", "--quiet", f"--filter={of_it}"), ("rmi", "--force"))


def remove_containers(place: Path) -> None:
    """Those of a workspace, with what runs in them."""
    if (place / _MARK).exists():
        _remove(place, _listed(place), ("rm", "--force", "--time=0", "--volumes"))


def containers(place: Path) -> list[str]:
    """The ids of a workspace's containers. Raises `Refused`."""
    try:
        return _podman(*_listed(place)).split()
    except (OSError, subprocess.SubprocessError) as error:
        raise Refused(f"podman ps: {error}") from None


def _listed(place: Path) -> tuple[str, ...]:
    return ("ps", "--all", "--quiet", f"--filter=name=^{prefix_of(place)}")


def _remove(place: Path, listed: Sequence[str], removed: Sequence[str]) -> None:
    try:
        if ids := list(dict.fromkeys(_podman(*listed).split())):
            _podman(*removed, *ids)
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("containers of %s may be left: %s", place, error)


def end(pid: int) -> None:
    """A podman with all that is below it: what a Dockerfile runs goes on without its client."""
    for one in [pid, *descendants(pid)[0]]:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def _began(pid: int) -> str:
    """When a process began, as the kernel tells it: another may have its number by now. Empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def environment() -> dict[str, str]:
    """Of podman: what it needs of the user's."""
    return {name: os.environ[name] for name in OF_THE_USER if name in os.environ}


def _podman(*arguments: str) -> str:
    command = ["podman", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=_SECONDS, check=True, cwd="/")
    return done.stdout.decode(errors="replace")
