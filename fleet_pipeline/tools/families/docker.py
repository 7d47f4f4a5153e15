"""Containers of rootless podman. The host's socket is never used, so without podman, or as root, the family is absent.

A container gets images that the settings name, the workspace's tree, no network, no capabilities, and bounds on memory, processes and
time. Its name carries the workspace's, so that a call reaches only the containers of its own workspace.

podman itself runs outside of the sandbox, and a Dockerfile is its program. So `ADD` is refused, which fetches over podman's own
network, and so is every image that the settings do not name.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.tools.families.files import PathArgument
from fleet_pipeline.tools.operation import Box, Family, Output
from fleet_pipeline.tools.sandbox.sandbox import Kept


def _missing(box: Box) -> str:
    if os.geteuid() == 0:
        return "needs rootless podman, and this process is root's"
    return "" if shutil.which("podman") else "podman is not installed here"


FAMILY = Family("docker", "Build images and run containers, without privileges.", _missing)
Container = Annotated[str, Field(min_length=1, max_length=60, description="A container of this workspace.")]
Command = Annotated[tuple[str, ...], Field(max_length=200, description="Program and arguments; no shell.")]
Seconds = Annotated[float | None, Field(gt=0, le=7_200)]
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9./:@_-]{0,200}", re.IGNORECASE)
_DIRECTIVE = re.compile(r"\s*#\s*\w+\s*=")
_DOCKERFILE_BYTES, _LATE_SECONDS = 1_000_000, 5.0
_OF_THE_USER = ("PATH", "HOME", "XDG_RUNTIME_DIR", "CONTAINERS_CONF")
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
    """Build an image from the workspace, without network. Its name is fleet/<workspace>:<tag>."""
    context = box.workspace.tree.folder_of(context_path)
    if dockerfile.startswith("/") or ".." in dockerfile.split("/"):
        raise Refused(f"dockerfile {dockerfile!r}: name one within the context")
    content = box.workspace.tree.read(f"{context_path.rstrip('/')}/{dockerfile}", _DOCKERFILE_BYTES)
    _check_dockerfile(box, dockerfile, content.decode(errors="replace"))
    if not _NAME.fullmatch(tag):
        raise Refused(f"tag {tag!r}: small letters, digits and dashes")
    limits = box.limits(timeout)
    with tempfile.NamedTemporaryFile(
        prefix="fleet-dockerfile-"
    ) as checked:  # what was looked at, whatever is in the tree by now
        checked.write(content)
        checked.flush()
        return _podman(
            *(box, "build", "--network=none", "--pull=never", "--format=docker", f"--file={checked.name}"),
            *(f"--memory={limits.memory_mib}m", f"--ulimit=nproc={limits.processes}", "--ulimit=core=0"),
            *(["--no-cache"] if no_cache else []),
            *(f"--tag={_own_image(box)}:{tag}", str(context)),
            seconds=timeout,
        )


@FAMILY.operation(writes=True)
def run(
    box: Box,
    image: Annotated[str, Field(max_length=200, description="One of the settings', or one that was built here.")],
    command: Command = (),
    env: Annotated[Mapping[str, str], Field(max_length=100)] = MappingProxyType({}),
    detach: Annotated[bool, Field(description="Leave it running.")] = False,
    name: Annotated[str, Field(max_length=60)] = "main",
    timeout: Seconds = None,
) -> Output:
    """Run a container on the workspace's tree, which it finds in /workspace."""
    _check_image(box, image)
    if bad := [one for one in env if not _VARIABLE.fullmatch(one)]:
        raise Refused(f"env {bad[0]!r}: is no name of a variable")
    limits = box.limits(timeout)
    return _podman(
        *(
            box,
            "run",
            "--network=none",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            "--read-only",
            "--pull=never",
        ),
        *(f"--memory={limits.memory_mib}m", f"--pids-limit={limits.processes}", "--tmpfs=/tmp:size=256m"),
        *(f"--volume={box.workspace.tree_folder}:/workspace:rw", "--workdir=/workspace", "--userns=keep-id"),
        *(f"--env={key}={value}" for key, value in env.items()),
        *(
            f"--name={_own(box, name)}",
            f"--timeout={int(limits.seconds)}",
            "--detach" if detach else "--rm",
            "--",
            image,
            *command,
        ),
        seconds=timeout,
    )


@FAMILY.operation(writes=True)
def exec(box: Box, container: Container, command: Command, timeout: Seconds = None) -> Output:
    """Run a program in a container that is running."""
    return _podman(box, "exec", "--", _own(box, container), *command, seconds=timeout)


@FAMILY.operation()
def ps(
    box: Box, all_containers: Annotated[bool, Field(description="Those that have ended as well.")] = False
) -> Output:
    """List this workspace's containers."""
    return _podman(
        *(box, "ps", f"--filter=name=^{_prefix(box)}", "--format={{.Names}}\t{{.Image}}\t{{.Status}}"),
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
    return _podman(box, "rm", *(["--force"] if force else []), "--", _own(box, container))


def _check_image(box: Box, image: str) -> None:
    if not _IMAGE.fullmatch(image) or (
        image not in box.options.images and not image.startswith(f"localhost/{_own_image(box)}:")
    ):
        raise Refused(f"image {image!r}: is none of tools.images, and was not built here")


def _check_dockerfile(box: Box, name: str, text: str) -> None:
    """Raises `Refused` for what fetches, takes images that are not named, or could be read otherwise than it is here."""
    lines = [line for line in text.replace("\r", "").split("\n") if not line.lstrip().startswith("#")]
    if any(_DIRECTIVE.match(line) for line in text.splitlines()):
        raise Refused(f"{name}: directives of the parser (# escape=, # syntax=) are not taken")
    stages: set[str] = set()
    for line in re.sub(r"\\[ \t]*\n", "", "\n".join(lines)).split("\n"):
        words = [word for word in line.split() if word.upper() != "ONBUILD"]
        if not words:
            continue
        kind = words[0].upper()
        if kind == "ADD":
            raise Refused(f"{name}: ADD can fetch; use COPY")
        if "<<" in line or "--mount" in line:
            raise Refused(f"{name}: {kind} with << or --mount is not taken")
        images = [word.partition("=")[2] for word in words if word.startswith("--from")]
        if kind == "FROM":
            named = [word for word in words[1:] if not word.startswith("--")]
            images += named[:1]
            stages.update(named[2:3])
        for image in images:
            if image != "scratch" and image not in stages and not image.isdigit():
                _check_image(box, image)


def _prefix(box: Box) -> str:
    return f"fleet-{box.workspace.name.lower()}-"


def _own(box: Box, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Refused(f"container {name!r}: small letters, digits and dashes")
    return _prefix(box) + name


def _own_image(box: Box) -> str:
    return f"fleet/{box.workspace.name.lower()}"


def _podman(box: Box, *arguments: str, seconds: float | None = None) -> Output:
    limits = box.limits(seconds)
    environment = {name: os.environ[name] for name in _OF_THE_USER if name in os.environ}
    process = subprocess.Popen(
        ["podman", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    assert process.stdout
    said = Kept(process.stdout, limits.output_bytes)
    try:
        code = process.wait(limits.seconds + 10)
    except subprocess.TimeoutExpired:
        process.kill()
        return Output("", ok=False, error=f"podman {arguments[0]}: took longer than {limits.seconds:g} s")
    said.join(_LATE_SECONDS)  # a container that goes on may hold the other end
    text = bytes(said.content).decode(errors="replace") + ("\n(cut)" if said.cut else "")
    return Output(text, ok=code == 0, error="" if code == 0 else f"exit code {code}")
