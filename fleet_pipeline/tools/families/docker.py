"""Containers of rootless podman. The host's socket is never used, so without podman, or as root, the family is absent.

A container gets images that the settings name, the workspace's tree, no network, no capabilities, and bounds on memory, processes and
time. Its name carries the workspace's, so that a call reaches only the containers of its own workspace.

podman itself runs outside of the sandbox, and a Dockerfile is its program. So `ADD` is refused, which fetches over podman's own
network, and so is every image that the settings do not name.
"""

import math
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.tools.containers import (
    LABEL,
    at_work,
    containers,
    end,
    environment,
    filter_of,
    id_of,
    image_of,
    nameless_bytes,
    prefix_of,
    remove_containers,
)
from fleet_pipeline.tools.families.files import PathArgument
from fleet_pipeline.tools.operation import Box, Changes, Family, Output
from fleet_pipeline.tools.sandbox.policy import Limits
from fleet_pipeline.tools.sandbox.sandbox import Kept


def _missing(box: Box) -> str:
    if os.geteuid() == 0:
        return "needs rootless podman, and this process is root's"
    return "" if shutil.which("podman") else "podman is not installed here"


FAMILY = Family("docker", "Build images and run containers, without privileges.", _missing, Changes.ELSEWHERE)
Container = Annotated[str, Field(min_length=1, max_length=60, description="A container of this workspace.")]
Command = Annotated[tuple[str, ...], Field(max_length=200, description="Program and arguments; no shell.")]
Seconds = Annotated[float | None, Field(gt=0, le=7_200)]
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9./:@_-]{0,200}", re.IGNORECASE)
_FLAG = re.compile(r"--(from|chmod|chown|platform)=[A-Za-z0-9./:@_-]+")
_DIRECTIVE = re.compile(r"\s*#\s*\w+\s*=")
_DOCKERFILE_BYTES, _LATE_SECONDS, _LOOK_SECONDS = 1_000_000, 5.0, 0.5
_IGNORES = (".dockerignore", ".containerignore")
MOST_CONTAINERS = 8  # of a workspace
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,100}")


@FAMILY.operation(writes=True)
def build(
    box: Box,
    context_path: PathArgument = ".",
    dockerfile: Annotated[str, Field(max_length=200, description="In the context.")] = "Dockerfile",
    tag: Annotated[str, Field(max_length=60)] = "image",
    no_cache: bool = False,
    timeout: Seconds = None,
) -> Output:
    """Build an image from the workspace, without network. The output ends with its name."""
    if dockerfile.startswith("/") or ".." in dockerfile.split("/"):
        raise Refused(f"dockerfile {dockerfile!r}: name one within the context")
    content = box.workspace.tree.read(f"{context_path.rstrip('/')}/{dockerfile}", _DOCKERFILE_BYTES)
    _check_dockerfile(box, dockerfile, content.decode(errors="replace"))
    if not _NAME.fullmatch(tag):
        raise Refused(f"tag {tag!r}: small letters, digits and dashes")
    limits = box.limits(timeout)
    # Within the workspace's folder: it goes with that, also where this process is killed.
    with tempfile.TemporaryDirectory(prefix="fleet-build-", dir=box.workspace.place) as name:
        context, checked = Path(name) / "context", Path(name) / "Dockerfile"
        context.mkdir()
        _context(box, context_path, context)
        checked.write_bytes(content)  # what was looked at, whatever is in the tree by now
        built = _podman(
            *(box, "build", "--network=none", "--pull=never", "--format=docker", f"--file={checked}"),
            *(f"--memory={limits.memory_mib}m", *_ulimits(limits), "--no-hosts"),
            # Without images of its steps, which nobody removes; the label is for those that lose their name.
            *("--layers=false", "--force-rm", f"--label={LABEL}={id_of(box.workspace.place)}"),
            *(["--no-cache"] if no_cache else []),
            *(f"--tag={_own_image(box)}:{tag}", str(context)),
            seconds=timeout,
        )
    image = f"localhost/{_own_image(box)}:{tag}"
    return replace(built, text=f"{built.text}\n{image}", facts={"image": image}) if built.ok else built


@FAMILY.operation(writes=True, changes=Changes.TREE | Changes.ELSEWHERE)
def run(
    box: Box,
    image: Annotated[str, Field(max_length=200, description="One of the settings', or one that was built here.")],
    command: Command = (),
    env: Annotated[Mapping[str, str], Field(max_length=100)] = MappingProxyType({}),
    detach: Annotated[bool, Field(description="Leave it running. It may only read the tree.")] = False,
    name: Annotated[str, Field(max_length=60)] = "main",
    timeout: Seconds = None,
) -> Output:
    """Run a container on the workspace's tree, which it finds in /workspace."""
    _check_image(box, image)
    if bad := [one for one in env if not _VARIABLE.fullmatch(one)]:
        raise Refused(f"env {bad[0]!r}: is no name of a variable")
    limits = box.limits(timeout)
    if len(containers(box.workspace.place)) >= MOST_CONTAINERS:
        raise Refused(f"this workspace has {MOST_CONTAINERS} containers already; remove one")
    # Nobody counts what one writes that goes on after its call.
    access = "ro" if detach else "rw"
    with tempfile.TemporaryDirectory(prefix="fleet-run-", dir=box.workspace.place) as folder:
        own = Path(folder)
        return _podman(
            *(
                box,
                "run",
                "--network=none",
                "--no-hosts",
                "--no-healthcheck",  # which a timer of the user's would run, outside of all bounds
                "--cap-drop=all",
                "--security-opt=no-new-privileges",
                "--read-only",
                "--pull=never",
                f"--security-opt=seccomp={filter_of(own)}",
                "--image-volume=ignore",  # a folder on the disk that nobody counts
                f"--pidfile={own / 'pid'}",
            ),
            *(f"--memory={limits.memory_mib}m", f"--pids-limit={limits.processes}"),
            # podman's own, of /run and /var/tmp, have no size: 1,500 MiB in each were no matter to a bound of 256.
            *(
                "--read-only-tmpfs=false",
                "--tmpfs=/tmp:size=256m",
                "--tmpfs=/run:size=16m",
                "--tmpfs=/var/tmp:size=64m",
            ),
            *(f"--volume={box.workspace.tree_folder}:/workspace:{access}", "--workdir=/workspace", "--userns=keep-id"),
            *(f"--user={_user()}", *_ulimits(limits)),
            # What it says is kept outside of the tree, where nobody counts it.
            *("--log-driver=k8s-file", "--log-opt=max-size=10mb"),
            *(f"--env={key}={value}" for key, value in env.items()),
            *(
                f"--name={_own(box, name)}",
                f"--timeout={math.ceil(limits.seconds)}",
                "--detach" if detach else "--rm",
                "--",
                image,
                *command,
            ),
            seconds=timeout,
            pid_file=own / "pid",
        )


@FAMILY.operation(writes=True)
def exec(box: Box, container: Container, command: Command, timeout: Seconds = None) -> Output:
    """Run a program in a container that is running."""
    return _podman(box, "exec", f"--user={_user()}", "--", _own(box, container), *command, seconds=timeout)


@FAMILY.operation()
def ps(
    box: Box, all_containers: Annotated[bool, Field(description="Those that have ended as well.")] = False
) -> Output:
    """List this workspace's containers."""
    return _podman(
        *(
            box,
            "ps",
            f"--filter=name=^{prefix_of(box.workspace.place)}",
            "--format={{.Names}}\t{{.Image}}\t{{.Status}}",
        ),
        *(["--all"] if all_containers else []),
    )


@FAMILY.operation()
def logs(box: Box, container: Container, tail: Annotated[int, Field(ge=1, le=10_000)] = 200) -> Output:
    """What a container has said."""
    return _podman(box, "logs", f"--tail={tail}", "--", _own(box, container))


@FAMILY.operation(writes=True)
def stop(box: Box, container: Container) -> Output:
    """Stop a container."""
    return _podman(box, "stop", "--time=5", "--", _own(box, container))


@FAMILY.operation(writes=True)
def rm(box: Box, container: Container, force: bool = False) -> Output:
    """Remove a container."""
    return _podman(box, "rm", "--volumes", *(["--force"] if force else []), "--", _own(box, container))


def _user() -> str:
    """Always this process's: files of an image's own user could not be removed with the workspace."""
    return f"{os.geteuid()}:{os.getegid()}"


def _ulimits(limits: Limits) -> list[str]:
    """Of each process: where podman has no control groups of version 2, `--memory` and `--pids-limit` have no effect."""
    return [
        f"--ulimit=nproc={limits.processes}:{limits.processes}",
        f"--ulimit=data={limits.memory_mib * 2**20}:{limits.memory_mib * 2**20}",
        f"--ulimit=fsize={limits.file_mib * 2**20}:{limits.file_mib * 2**20}",
        "--ulimit=core=0:0",
    ]


def _check_image(box: Box, image: str) -> None:
    own, _, tag = image.rpartition(":")
    is_own = own == f"localhost/{_own_image(box)}" and _NAME.fullmatch(tag)
    if not _IMAGE.fullmatch(image) or not (is_own or image in box.options.images):
        raise Refused(f"image {image!r}: is none of tools.images, and was not built here")


def _check_dockerfile(box: Box, name: str, text: str) -> None:
    """Raises `Refused` for what fetches, takes images that are not named, or could be read otherwise than it is here."""
    if odd_one := re.search(r"[^\x20-\x7e\t\n]", text):
        raise Refused(
            f"{name}: holds {odd_one.group()!a}; programs read it in different ways, so only ASCII and line feeds are taken"
        )
    if any(_DIRECTIVE.match(line) for line in text.splitlines()):
        raise Refused(f"{name}: directives of the parser (# escape=, # syntax=) are not taken")
    stages: set[str] = set()
    begun = 0  # stages
    lines = [line for line in text.split("\n") if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\[ \t]*\n", "", "\n".join(lines)).split("\n"):
        words = line.split()
        if not words:
            continue
        kind, options = words[0].upper(), [word for word in words[1:] if word.startswith("--")]
        flags = list(takewhile(_may_be_a_flag, words[1:]))
        if kind in ("FROM", "COPY") and (odd := [word for word in flags if not _FLAG.fullmatch(word)]):
            raise Refused(f"{name}: {odd[0][:100]!r} is no option that is taken; give --from=image or --chmod=755")
        if kind in ("ONBUILD", "VOLUME", "HEALTHCHECK"):
            raise Refused(f"{name}: {kind} is not taken: it has its effect where nobody looks")
        if kind == "ADD":
            raise Refused(f"{name}: ADD can fetch; use COPY")
        if "<<" in line or (kind == "RUN" and options):
            raise Refused(f"{name}: {kind} with << or options is not taken")
        images = [word.partition("=")[2] for word in options if word.startswith("--from")]
        named = [word for word in words[1:] if not word.startswith("--")]
        if kind == "FROM":
            images += named[:1] or [""]
        for image in images:
            # The number of a stage that has begun; any other may be the beginning of an image's id.
            is_stage = image in stages or (kind != "FROM" and image.isdigit() and int(image) < begun)
            if image != "scratch" and not is_stage:
                _check_image(box, image)
        begun += kind == "FROM"
        if kind == "FROM" and len(named) > 1:
            if len(named) != 3 or named[1].upper() != "AS" or not _NAME.fullmatch(named[2]):
                raise Refused(f"{name}: expected FROM image AS name, with small letters, digits and dashes")
            stages.add(named[2])


def _may_be_a_flag(word: str) -> bool:
    """Also to a reader that takes quotes and backslashes off first, as podman does."""
    return word.startswith("-") or (not word.startswith("[") and any(mark in word for mark in "\\\"'"))


def _context(box: Box, path: str, folder: Path) -> None:
    """Copy a folder of the tree by descriptor: what podman reads may not be exchanged for a link that leads out meanwhile."""
    tree, left = box.workspace.tree, box.options.limits.disk_mib * 2**20
    base = "" if path in (".", "./") else path.rstrip("/") + "/"
    for entry in tree.entries(path, recursive=True, most=1_000_000):
        own = folder / entry.path.removeprefix(base).rstrip("/")
        if entry.path.endswith("/"):
            own.mkdir()
        elif stat.S_ISREG(entry.status.st_mode):
            content = tree.read(entry.path, left)
            left -= len(content)
            own.write_bytes(content)
            own.chmod(entry.status.st_mode & 0o777)
        elif stat.S_ISLNK(entry.status.st_mode):
            if own.parent == folder and own.name in _IGNORES:
                raise Refused(f"{entry.path}: is a link, and podman would read what it leads to")
            own.symlink_to(tree.link(entry.path))


def _own(box: Box, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Refused(f"container {name!r}: small letters, digits and dashes")
    return prefix_of(box.workspace.place) + name


def _own_image(box: Box) -> str:
    return image_of(box.workspace.place)


def _podman(box: Box, *arguments: str, seconds: float | None = None, pid_file: Path | None = None) -> Output:
    limits = box.limits(seconds)
    process = subprocess.Popen(
        ["podman", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
    )
    assert process.stdout
    said = Kept(process.stdout, limits.output_bytes)
    with at_work(box.workspace.place, process):
        try:
            if error := _watch(box, process, limits, pid_file):
                return Output("", ok=False, error=f"podman {arguments[0]}: {error}")
        finally:
            if process.poll() is None:
                end(process.pid)
                process.wait()
    code = process.returncode
    said.join(_LATE_SECONDS)  # a container that goes on may hold the other end
    text = bytes(said.content).decode(errors="replace") + ("\n(cut)" if said.cut else "")
    return Output(text, ok=code == 0, error="" if code == 0 else f"exit code {code}")


def _watch(box: Box, process: subprocess.Popen[bytes], limits: Limits, pid_file: Path | None) -> str:
    """Until it ends. Why it was ended, where it was."""
    ends_at, pause = time.monotonic() + limits.seconds + 10, _LOOK_SECONDS
    while True:
        try:
            process.wait(pause)
            return ""
        except subprocess.TimeoutExpired:
            began = time.monotonic()
        written = box.workspace.tree.size() + (nameless_bytes(pid_file, limits.processes) if pid_file else 0)
        over = written > limits.disk_mib * 2**20
        if over or began > ends_at:
            end(process.pid)
            process.wait()
            if over:
                remove_containers(box.workspace.place)  # they go on without their client
            return f"has written more than {limits.disk_mib} MiB" if over else f"took longer than {limits.seconds:g} s"
        pause = max(_LOOK_SECONDS, 4 * (time.monotonic() - began))
