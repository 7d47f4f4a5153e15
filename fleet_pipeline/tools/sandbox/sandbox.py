"""Runs programs confined, or not at all.

`Sandbox.find` tries each layer once, by running a program in it: a kernel's version does not say what a container's own
filter allows. A program is never run with fewer layers than were found.
"""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO

from fleet_pipeline.common.errors import Refused, SandboxUnavailable
from fleet_pipeline.tools.sandbox import landlock
from fleet_pipeline.tools.sandbox.policy import End, Limits, Policy, Stop

_LAUNCHER = str(Path(__file__).with_name("launcher.py"))
# What every program needs to start. Whole /etc is not among it: certificates' keys and passwords are.
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d"),
    *(
        "/etc/passwd",
        "/etc/group",
        "/etc/nsswitch.conf",
        "/etc/localtime",
        "/etc/alternatives",
        "/etc/ssl/certs",
        "/etc/ssl/openssl.cnf",
    ),
    *("/dev/urandom", "/dev/random", "/dev/full", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat"),
    "/sys/devices/system/cpu",
)
# The kernel executes a program by its loader.
_LOADERS = (
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
)
_DEVICES = ("/dev/null", "/dev/zero")
_LATE_SECONDS = 5.0
# For the launcher after its program's time: to end all, on a busy machine. Its programs end with it.
_LAUNCHER_SECONDS = 120.0
# A launcher that is to end is told so again and again: a program that was given up was once seen to go on to the end of its time.
_ASKED_AGAIN_MS = 500
_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Outcome:
    """What a confined program did. `code` is its exit code, or minus the number of the signal that ended it."""

    code: int
    output: bytes
    errors: bytes
    cut: bool  # whether some of either was dropped
    stopped: Stop | None
    seconds: float

    @property
    def ok(self) -> bool:
        return self.code == 0 and self.stopped is None

    @property
    def end(self) -> str:
        """Why it was stopped, or its exit code, in words; nothing where it ended well."""
        if self.stopped == "owner":
            return "stopped, because its call was given up"
        if self.stopped:
            return f"stopped by the bound on {self.stopped}"
        return f"exit code {self.code}" if self.code else ""


@dataclass(frozen=True)
class Sandbox:
    """The layers that work on this machine. `level` names them, such as `landlock-7+seccomp`; `reason` says why there is none."""

    landlock: bool
    bubblewrap: str | None
    level: str
    reason: str = ""
    toolchains: tuple[str, ...] = ()  # further folders that programs may read, such as a compiler's

    @classmethod
    def find(cls, toolchains: Sequence[str] = ()) -> Sandbox:
        return replace(_found(), toolchains=tuple(toolchains))

    @property
    def works(self) -> bool:
        return not self.reason

    def policy(
        self,
        command: Sequence[str],
        folder: Path,
        writable: Sequence[Path],
        limits: Limits,
        readable: Sequence[Path] = (),
        home: Path | None = None,
        environment: dict[str, str] | None = None,
        alone: bool = False,
    ) -> Policy:
        """For a program found on a fixed search path, with a clean environment. Raises `FileNotFoundError`.

        `alone`: it starts no other program, and no process.
        """
        search = os.pathsep.join([_PATH, *(f"{chain}/bin" for chain in self.toolchains)])
        program = shutil.which(command[0], path=search)
        if program is None:
            raise FileNotFoundError(f"{command[0]} is not installed here")
        place = str(home or folder)
        return Policy(
            command=(program, *command[1:]),
            folder=str(folder),
            environment={"PATH": search, "HOME": place, "TMPDIR": place, "LANG": "C.UTF-8"} | (environment or {}),
            readable=(*_SYSTEM, sys.prefix, sys.base_prefix, *self.toolchains, *map(str, readable)),
            writable=(*map(str, writable), *_DEVICES),
            limits=limits,
            executable=(os.path.realpath(program), *_LOADERS) if alone else (),
            alone=alone,
            landlock=self.landlock,
            bubblewrap=self.bubblewrap,
        )

    def run(self, policy: Policy, stdin: bytes = b"") -> Outcome:
        """Raises `SandboxUnavailable` where no layer works, or a program could not be confined."""
        if not self.works:
            raise SandboxUnavailable(self.reason)
        return _run(policy, stdin)


# The launcher that each thread waits for, and the threads that are to run no program.
_running: dict[int, subprocess.Popen[bytes]] = {}
_stopped: set[int] = set()


def end_programs_of(thread: int) -> None:
    """End the program that another thread of this process waits for, as one that its owner has ended, and start no other until
    `may_run_programs`: one that was about to start went on to the end of its time.
    """
    _stopped.add(thread)
    if (process := _running.get(thread)) is not None:
        process.terminate()


def may_run_programs(thread: int) -> None:
    _stopped.discard(thread)


def launch(policy: Policy, *status: int) -> list[str]:
    """The command that runs `policy` and writes its end to the descriptor `status`, or to standard error."""
    return [sys.executable, "-I", "-S", _LAUNCHER, policy.to_json(), str(os.getpid()), *map(str, status)]


def _run(policy: Policy, stdin: bytes = b"") -> Outcome:
    began = time.monotonic()
    thread = threading.get_ident()
    if thread in _stopped:
        raise Refused("it was given up before its program began")
    reading, status = os.pipe()
    try:
        process = subprocess.Popen(
            launch(policy, status),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[status],
            env={},
            start_new_session=True,
        )
    except OSError as error:
        os.close(reading)
        if error.errno == errno.E2BIG:
            raise Refused("the call's arguments are too long for a program: give fewer at a time") from None
        raise
    finally:
        os.close(status)
    _running[thread] = process
    assert process.stdin
    assert process.stdout
    assert process.stderr
    latest = threading.Timer(policy.limits.seconds + _LAUNCHER_SECONDS, process.kill)
    latest.daemon = True
    latest.start()
    kept = [Kept(process.stdout, policy.limits.output_bytes), Kept(process.stderr, policy.limits.output_bytes)]
    try:
        feeding = threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True)
        feeding.start()
        with open(reading, "rb") as said:
            waiting = select.poll()
            waiting.register(said, select.POLLIN)
            while not waiting.poll(_ASKED_AGAIN_MS):
                if thread in _stopped:  # also since the question above
                    process.terminate()
            told = said.read()
        process.wait()
        feeding.join()
        for stream in kept:
            stream.join(None if told else _LATE_SECONDS)  # a launcher that was killed leaves the other ends open
    finally:
        latest.cancel()
        _running.pop(thread, None)
        if process.poll() is None:  # interrupted: the launcher ends all when its owner is gone, or now
            process.kill()
            process.wait()
    if not told and thread in _stopped:  # a launcher that had not come so far as to wait for signals
        raise Refused("it was given up before its program began")
    if not told:
        raise SandboxUnavailable(
            "the sandbox's launcher broke: " + bytes(kept[1].content[-500:]).decode(errors="replace")
        )
    end = End(**json.loads(told))
    if end.error:
        raise SandboxUnavailable(f"the program could not be confined: {end.error}")
    return Outcome(
        end.code,
        bytes(kept[0].content),
        bytes(kept[1].content),
        any(stream.cut for stream in kept),
        end.stopped,
        round(time.monotonic() - began, 4),
    )


class Kept(threading.Thread):
    """Reads a stream to its end, and keeps its first bytes."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        super().__init__(daemon=True)
        self.stream, self.most, self.content, self.cut = stream, most, bytearray(), False
        self.start()

    def run(self) -> None:
        with self.stream:
            while chunk := self.stream.read1(65_536):  # type: ignore[attr-defined]
                room = self.most - len(self.content)
                self.content += chunk[:room]
                self.cut = self.cut or len(chunk) > room


def _feed(stream: IO[bytes], content: bytes) -> None:
    try:
        with stream:
            stream.write(content)
    except BrokenPipeError:
        pass


@cache
def _found() -> Sandbox:
    """Each layer, tried by running a program that must fail to read what is not its own."""
    version = landlock.abi()
    with_landlock = version >= landlock.LEAST_ABI
    bubblewrap = shutil.which("bwrap", path=_PATH)
    tries: list[tuple[bool, str | None]] = [(with_landlock, bubblewrap)] if bubblewrap else []
    tries += [(True, None)] if with_landlock else []
    reasons = [] if with_landlock else [f"Landlock has version {version} here ({landlock.LEAST_ABI} needed: Linux 6.2)"]
    if not bubblewrap:
        reasons.append("bubblewrap is not installed")
    for uses_landlock, wrapper in tries:
        layers = [f"landlock-{version}"] * uses_landlock + ["seccomp"] + ["bubblewrap"] * bool(wrapper)
        candidate = Sandbox(uses_landlock, wrapper, "+".join(layers))
        fault = _fault(candidate)
        if not fault:
            return candidate
        reasons.append(f"{candidate.level} does not work: {fault}")
    return Sandbox(False, None, "none", "; ".join(reasons))


def _fault(sandbox: Sandbox) -> str:
    """What is wrong with these layers here; empty when they hold."""
    with tempfile.TemporaryDirectory(prefix="fleet-probe-") as name:
        folder = Path(name).resolve()
        (folder / "own").mkdir()
        (folder / "secret").write_text("outside")
        limits = Limits(seconds=20, processes=8)
        try:
            for path, readable in ((folder / "own/file", True), (folder / "secret", False)):
                if readable:
                    path.write_text("inside")
                policy = sandbox.policy(["cat", str(path)], folder / "own", [folder / "own"], limits)
                outcome = _run(policy)
                if outcome.ok is not readable:
                    said = outcome.errors.decode(errors="replace").strip()
                    return (
                        f"a program could {'not read its own file' if readable else 'read what is not its own'}: {said}"
                    )
        except (OSError, SandboxUnavailable) as error:
            return str(error)
    return ""
