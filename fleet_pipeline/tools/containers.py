"""Containers and images of a workspace: their names, and their end.

They outlive the call that made them, and so they are removed with their workspace. One that went on writing into it kept it from being
removed, and its run from ending.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
from pathlib import Path

_log = logging.getLogger(__name__)
_MARK = "containers"  # beside the tree: no program of the workspace can remove it
_SECONDS = 60
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


def expect(place: Path) -> None:
    """From now on there may be some."""
    (place / _MARK).touch()


def remove_all(place: Path) -> None:
    """Of a workspace that ends. What cannot be removed is logged."""
    if not (place / _MARK).exists():
        return
    for listed, removed in (
        (("ps", "--all", "--quiet", f"--filter=name=^{prefix_of(place)}"), ("rm", "--force", "--time=0")),
        (("images", "--quiet", f"--filter=reference=localhost/{image_of(place)}"), ("rmi", "--force")),
    ):
        try:
            if ids := list(dict.fromkeys(_podman(*listed).split())):
                _podman(*removed, *ids)
        except (OSError, subprocess.SubprocessError) as error:
            _log.warning("containers of %s may be left: %s", place, error)


def environment() -> dict[str, str]:
    """Of podman: what it needs of the user's."""
    return {name: os.environ[name] for name in OF_THE_USER if name in os.environ}


def _podman(*arguments: str) -> str:
    command = ["podman", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=_SECONDS, check=True, cwd="/")
    return done.stdout.decode(errors="replace")
