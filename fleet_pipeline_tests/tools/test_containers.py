"""The docker family: what a Dockerfile may hold, and rootless podman itself where there is one."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.tools.containers import image_of, remove_all
from fleet_pipeline.tools.families.docker import _check_dockerfile, _check_image, _context
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline.tools.toolbox import Result
from fleet_pipeline_tests.support.tool_world import PATIENCE, World, a_world, python_for_others

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
OPTIONS = ToolOptions(images=("docker.io/library/python:3.12",))


@pytest.mark.parametrize(
    "text",
    [
        "FROM scratch\nADD http://10.0.0.1/x /x",
        "FROM scratch\nadd x /x",
        "FROM scratch\n  ONBUILD ADD x /x",
        "FROM scratch\nHEALTHCHECK CMD sleep 1",
        "FROM scratch\nA\\\n# a comment\nDD http://10.0.0.1/x /x",
        "FROM scratch\nA\\ \t\nDD http://10.0.0.1/x /x",
        "# escape=`\nFROM scratch\nA`\nDD http://10.0.0.1/x /x",
        "# syntax=docker.io/evil/frontend\nFROM scratch",
        "FROM other:latest",
        "FROM --platform=linux/amd64 other:latest AS x",
        "ARG I=other:latest\nFROM $I",
        "FROM docker.io/library/python:3.12 AS a\nFROM b",
        "FROM scratch\nCOPY --from=other:latest /etc/passwd /x",
        "FROM scratch\nRUN --mount=type=bind,from=other:latest,target=/x cat /x/etc/passwd",
        "FROM scratch\nCOPY <<E /x\nADD\nE",
        "FROM oci-archive:/etc/x.tar",
        "FROM private AS private",
        "FROM docker-archive:/etc/x.tar AS docker-archive:/etc/x.tar",
        "FROM scratch AS a/b",
        "FROM scratch\nLABEL a=b\\\r \nADD http://10.0.0.1/x /x",
        "FROM scratch\nRUN --network=host x",
        "FROM scratch\nRUN --security=insecure x",
        "FROM scratch\nCOPY --f\\rom=other:latest /secret /s",
        'FROM scratch\nCOPY --"from"=other:latest /secret /s',
        "FROM scratch\nCOPY '--from=oci-archive:/etc/x.tar' /secret /s",
        "FROM scratch\nCOPY --chmod=755 --f\\rom=docker-archive:/etc/x.tar /secret /s",
        "FROM scratch\nCOPY --parents x /s",
        "\ufeffFROM oci-archive:/etc/x.tar",
        "\ufeff# escape=`\nFROM scratch\nLABEL a=b\\\nADD http://10.0.0.1/x /x",
        "FROM scratch\u00a0\nADD http://10.0.0.1/x /x",
        "FROM scratch AS private\nONBUILD COPY --from=private /secret /s",
        "FROM scratch\nVOLUME /data",
        "FROM 6",
        "FROM scratch\nCOPY --from=1 /secret /s",
    ],
)
def test_a_dockerfile_that_fetches_or_takes_other_images_is_refused(tmp_path: Path, text: str) -> None:
    with a_world(tmp_path / "world", options=OPTIONS) as world, pytest.raises(Refused):
        _check_dockerfile(world.box, "Dockerfile", text)


def test_an_image_of_the_workspace_is_its_name_and_nothing_after_it(tmp_path: Path) -> None:
    with a_world(tmp_path / "world", options=OPTIONS) as world:
        own = f"localhost/{image_of(world.box.workspace.place)}"
        _check_image(world.box, f"{own}:v1")
        for other in (f"{own}:v1@sha256:{'a' * 64}", f"{own}:", f"{own}x:v1", f"{own}/x:v1"):
            with pytest.raises(Refused):
                _check_image(world.box, other)


def test_a_list_of_what_podman_leaves_out_is_no_link(world: World, tmp_path: Path) -> None:
    (world.box.workspace.tree_folder / ".dockerignore").symlink_to("/etc/passwd")
    (tmp_path / "context").mkdir()
    with pytest.raises(Refused, match="is a link"):
        _context(world.box, ".", tmp_path / "context")


def test_a_dockerfile_with_named_images_and_its_own_stages_is_taken(world: World, tmp_path: Path) -> None:
    text = """
# a comment
FROM docker.io/library/python:3.12 AS build
RUN useradd add && \\
    # more
    echo ADD
FROM scratch
COPY --from=build /x /x
COPY --from=0 --chmod=755 /y /y
COPY ["a b", "/c"]
"""
    with a_world(tmp_path / "other", options=OPTIONS) as other:
        _check_dockerfile(other.box, "Dockerfile", text)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


HELLO = """
#include <stdio.h>
#include <unistd.h>
int main(int c, char **v) {
    FILE *f = fopen("/workspace/said", "w");
    if (f) { fputs("from within", f); fclose(f); }
    printf("hello %s\\n", c > 1 ? v[1] : "world"); fflush(stdout);
    if (c > 2) sleep(1000);
    return fopen("/changed", "w") ? 1 : 0;
}
"""


def _is_set_up() -> bool:
    return all(map(shutil.which, ("podman", "gcc")))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0 or not _is_set_up(), reason="needs podman and gcc, as another user than root")
def test_an_image_is_built_and_its_container_runs_without_network_and_privileges(tmp_path: Path) -> None:
    with a_world(tmp_path / "world") as world:
        (tmp_path / "hello.c").write_text(HELLO)
        subprocess.run(
            ["gcc", "-static", "-o", world.workspace.tree_folder / "hello", tmp_path / "hello.c"], check=True
        )
        world.workspace.tree.write("Dockerfile", b'FROM scratch\nCOPY hello /hello\nENTRYPOINT ["/hello"]\n')
        built = world.call("docker.build", tag="hello")
        assert built.ok, built.error + built.output
        image = built.facts["image"]
        assert built.output.endswith(image)
        said = world.call("docker.run", image=image, command=["you"], env={"A": "b"})
        assert said.ok, said.error + said.output
        assert "hello you" in said.output
        assert world.call("files.read_file", path="said").output == "from within"
        assert "was not built here" in world.call("docker.run", image="localhost/fleet/others:hello").error
        started = world.call("docker.run", image=image, command=["still", "here"], detach=True, name="server")
        assert started.ok, started.error + started.output
        try:
            listed = world.call("docker.ps").output
            assert "-server" in listed
            name = listed.split()[0]
            assert "hello still" in world.call("docker.logs", container="server").output
            inspected = subprocess.run(["podman", "inspect", name], capture_output=True, text=True, check=True).stdout  # fmt: skip
            assert '"NetworkMode": "none"' in inspected
            assert world.call("docker.exec", container="server", command=["/hello", "again"]).output.startswith(
                "hello again"
            )
        finally:
            assert world.call("docker.rm", container="server", force=True).ok
        assert name not in world.call("docker.ps", all_containers=True).output
        world.workspace.tree.write("Dockerfile", b'FROM scratch\nCOPY hello /hello\nRUN ["/hello", "still", "here"]\n')
        assert "took longer" in world.call("docker.build", timeout=1).error
        assert not [one for one in Path("/proc").glob("[0-9]*/cmdline") if b"/hello\0still" in _read(one)]
        # One that goes on ends with its workspace, and so does its image.
        started = world.call("docker.run", image=image, command=["still", "here"], detach=True, name="last")
        assert started.ok, started.error + started.output
        remove_all(world.workspace.place)
        assert "-last" not in world.call("docker.ps", all_containers=True).output
        assert image not in subprocess.run(["podman", "images"], capture_output=True, text=True, check=True).stdout
        secret = tmp_path / "world/outside/secret.txt"
        (world.workspace.tree_folder / "leak").symlink_to(secret)
        world.workspace.tree.write("Dockerfile", b"FROM scratch\nCOPY leak /leak\n")
        assert not world.call("docker.build").ok
        world.unharmed()


GREEDY = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>
static char block[1 << 20];
int main(int c, char **v) {
    if (chdir(v[1])) { perror(v[1]); return 3; }
    int file = open("greedy", O_CREAT | O_RDWR, 0600), count = 0;
    if (v[2][0] == 'f') { int failed = fallocate(file, 0, 0, 100 << 20); perror("fallocate"); return failed ? 4 : 0; }
    if (v[2][0] == 'i') {
        struct { short type, whence; long long start, length; int id; unsigned pid; int pad[4]; } room = {0, 0, 0, 100 << 20, 0, 0, {0}};
        int failed = ioctl(file, 0x4030582a, &room); perror("ioctl"); return failed ? 4 : 0;
    }
    if (v[2][0] == 'u') unlink("greedy");
    while (count < 200 && write(file, block, sizeof block) == sizeof block) count++;
    printf("wrote %d MiB\\n", count); fflush(stdout);
    if (count == 200) sleep(1000);
    return 5;
}
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0 or not _is_set_up(), reason="needs podman and gcc, as another user than root")
def test_what_a_container_writes_is_counted_or_bounded_wherever_it_writes(tmp_path: Path) -> None:
    """Files that it removed while they were open, folders of an image, and /run took whatever there was."""
    own = f"localhost/fleet-test/{tmp_path.name.replace('_', '-').lower()}:1"
    (tmp_path / "greedy.c").write_text(GREEDY)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY greedy /greedy\nVOLUME /data\n")
    subprocess.run(["gcc", "-static", "-o", tmp_path / "greedy", tmp_path / "greedy.c"], check=True)
    subprocess.run(["podman", "build", "-q", "-t", own, tmp_path], check=True)
    options = ToolOptions(images=(own,), limits={"disk_mib": 64, "seconds": PATIENCE})
    try:
        with a_world(tmp_path / "world", options=options) as world:

            def greedy(folder: str, how: str, **more: object) -> Result:
                return world.call("docker.run", image=own, command=["/greedy", folder, how], **more)

            assert "more than 64 MiB" in greedy("/workspace", "unlinked").error
            assert "more than 64 MiB" in greedy("/workspace", "named").error
            assert "not supported" in greedy("/workspace", "fallocate").output
            assert "not implemented" in greedy("/workspace", "ioctl").output
            assert "wrote 16 MiB" in greedy("/run", "named").output
            assert "wrote 64 MiB" in greedy("/var/tmp", "named").output
            for folder in ("/data", "/etc"):
                assert greedy(folder, "named").output.strip().endswith(("wrote 0 MiB", f"{folder}: No such file or directory"))  # fmt: skip
            assert greedy("/run", "named", detach=True, name="on").ok
            assert "wrote 0 MiB" in greedy("/workspace", "named", detach=True, name="read").output + _logs(
                world, "read"
            )
    finally:
        subprocess.run(["podman", "rmi", "--force", own], check=False)


def _logs(world: World, container: str) -> str:
    while not (said := world.call("docker.logs", container=container).output):
        time.sleep(0.1)
    return said


# podman inside of a container: crun refuses a hybrid cgroup mount, and no limit may be raised there.
INSIDE = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec setpriv --reuid=$WHO --regid=$WHO --init-groups "$@"'
ENGINE = '[containers]\ndefault_ulimits=[]\n[engine]\nruntime="crun"\ncgroup_manager="cgroupfs"\nevents_logger="file"\n'


def _user_with_ids() -> pwd.struct_passwd | None:
    """One who may have containers: the kernel gives ordinary users other ids only by this file."""
    lines = Path("/etc/subuid").read_text().splitlines() if Path("/etc/subuid").exists() else []
    known = {one.pw_name: one for one in pwd.getpwall() if one.pw_uid}
    return next((known[name] for line in lines if (name := line.partition(":")[0]) in known), None)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not _is_set_up() or not _user_with_ids(), reason="needs root, podman, gcc and a user with ids of its own in /etc/subuid")  # fmt: skip
def test_the_same_by_a_user_where_this_process_is_root_s() -> None:
    user = _user_with_ids()
    assert user
    with tempfile.TemporaryDirectory(prefix="fleet-containers-") as name:
        (Path(name) / "containers.conf").write_text(ENGINE)
        (Path(name) / "run").mkdir()
        for path in (name, f"{name}/run"):
            os.chown(path, user.pw_uid, user.pw_gid)
        tried = subprocess.run(
            ["unshare", "-m", "sh", "-c", INSIDE, "sh", *python_for_others(), "-m", "pytest", "-q", "-p", "no:cacheprovider",
             "-m", "slow", f"--basetemp={name}/tests", __file__],
            capture_output=True, text=True, cwd=ROOT, check=False,
            env={"WHO": user.pw_name, "HOME": name, "XDG_RUNTIME_DIR": f"{name}/run", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1",
                 "CONTAINERS_CONF": f"{name}/containers.conf", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        subprocess.run(["unshare", "-m", "sh", "-c", INSIDE, "sh", "podman", "unshare", "rm", "-rf", f"{name}/.local"], check=False,
                       env={"WHO": user.pw_name, "HOME": name, "XDG_RUNTIME_DIR": f"{name}/run", "PATH": os.environ["PATH"]})  # fmt: skip
    assert tried.returncode == 0, tried.stdout[-4_000:] + tried.stderr[-1_000:]
    assert "2 passed" in tried.stdout
