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

_log = logging.getLogger(__name__)
_MARK = "containers"  # beside the tree: no program of the workspace can remove it
_SECONDS = 60
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


def filter_of(place: Path) -> Path:
    """podman's own filter of system calls, without `fallocate`: a container took 8 GiB by it before anybody looked. Raises `Refused`."""
    for profile in _PROFILES:
        with suppress(OSError, ValueError, KeyError):
            rules = json.loads(profile.read_text())
            for rule in rules["syscalls"]:
                rule["names"] = [name for name in rule["names"] if name != "fallocate"]
            refused = {"names": ["fallocate"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EOPNOTSUPP}
            rules["syscalls"] = [*(rule for rule in rules["syscalls"] if rule["names"]), refused]
            own = place / "seccomp.json"
            own.write_text(json.dumps(rules))
            return own
    raise Refused(f"podman's filter of system calls is not installed here: {' or '.join(map(str, _PROFILES))}")


def pid_file_of(place: Path, name: str) -> Path:
    """Where podman tells the first process of a container that it runs. One of an earlier container is removed."""
    own = place / f"{_MARK}-of-{name}.pid"
    own.unlink(missing_ok=True)
    return own


def nameless_bytes(pid_file: Path | None, most: int) -> int:
    """Of files that a container's processes hold open and have removed: they stand in no folder that could be counted."""
    try:
        pid = int(pid_file.read_text()) if pid_file else 0
    except (OSError, ValueError):  # not begun, or ended
        return 0
    return sum(nameless(pid, most).values()) if pid else 0


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
        for left in place.glob(f"{_MARK}-[0-9]*"):
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
