"""The process between the pipeline and a confined program: it starts it, watches it, and leaves no process behind.

    python -I -S launcher.py POLICY OWNER [STATUS_FD]        watch, for the process OWNER
    python -I -S launcher.py --become POLICY                 become the program (inside bubblewrap)

A program's children that lose their parent become the launcher's (PR_SET_CHILD_SUBREAPER), also those with a session of
their own, so all of them can be ended. It ends them when the program has ended, when a bound is passed, and when the
pipeline is gone. The way it ended goes to STATUS_FD, or to standard error, as one line of JSON.
"""

import ctypes
import errno
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.dirname(_PACKAGE))

from fleet_pipeline.tools.sandbox import landlock  # noqa: E402 - found by the line above
from fleet_pipeline.tools.sandbox.confine import become  # noqa: E402
from fleet_pipeline.tools.sandbox.policy import End, Limits, Policy, Stop  # noqa: E402
from fleet_pipeline.tools.sandbox.processes import descendants, descriptors, nameless, places  # noqa: E402

_PDEATHSIG, _SUBREAPER, _NO_NEW_PRIVS = 1, 36, 38
# How often the bounds are looked at: processes and memory, and what has been written. A bomb of forks makes some 400
# processes in the first.
_LOOK_SECONDS, _DISK_SECONDS, _DESCRIPTORS_SECONDS = 0.02, 0.5, 0.1
_GUARD_SECONDS = 5.0
# Programs give way to the engine of the same machine: beside eight of them its loop was at work for 0.6 of the time in which it had
# work, on two cores.
_NICE = 19
_MOST_REAPED = 1_000  # processes in a look
_SLICE = 200  # files between two looks at the clock
_DEEPEST = 150  # folders within folders: each is open while those in it are looked at
# Some 400 MiB of buffers; 64 Ki of the millions of watches that a user has.
_MOST_SOCKETS, _MOST_WATCHERS = 1_024, 128
_MIB = 2**20
_TMPFS_BYTES = 16 * _MIB
_COUNTED = (b"VmRSS:", b"VmPTE:", b"VmSwap:", b"HugetlbPages:")  # of /proc/PID/status
_NEW_PIDS = 0x20000000
_SIGNALLED = 128  # as shells tell that a signal ended a program: 128 and its number
# An end of a child, and what the owner's library sends to a server that does not end: its children must not outlive it.
_AWAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_END_ALL = signal.SIGUSR1  # to the guard
_HELD_BACK = {*_AWAITED, _END_ALL}
NOT_STARTED = 125  # what `become` could not do is said on the pipe of errors


def watch(policy: Policy, owner: int, status: int | None) -> None:
    """`owner` started this process. It may be gone by now: asked for here, the parent would be whoever took its children."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != owner:
        return
    if status is not None:
        os.set_inheritable(status, False)
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    reading, errors = os.pipe()
    with suppress(OSError):  # root's alone: processes that multiply must not keep this one from looking at them
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    # Where it may: then the end of the first process in it is the end of all, at once, and none can be forked meanwhile. Root's
    # bomb of forks outran a launcher that killed one after another: 30,000 processes on two busy cores.
    apart = policy.bubblewrap is None and libc.unshare(_NEW_PIDS) == 0
    guarded = not apart and policy.landlock and policy.bubblewrap is None and landlock.abi() >= landlock.SIGNALS_ABI
    program = os.fork()
    if program == 0:
        if apart:
            _be_first(errors)
        elif guarded:
            _guard(errors)
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        _start(policy, errors)
    os.close(errors)
    end = _until_it_ends(policy, program, owner)
    if guarded:
        _let_the_guard_end_all(program)
    _end_all(program)
    with open(reading, "rb") as said:
        error = said.read(2_000).decode(errors="replace")
    if error:
        end = End(NOT_STARTED, None, error)
    elif end.stopped is None and max(_written(policy)) > policy.limits.disk_mib * _MIB:
        end = end._replace(stopped="disk")
    if status is None:
        sys.stderr.write(f"{json.dumps(end._asdict())}\n")
        return
    with suppress(BrokenPipeError):
        os.write(status, json.dumps(end._asdict()).encode())


def _be_first(errors: int) -> None:
    """Return in a child, and end as it does.

    The first process of a namespace gets no signal that it does not handle, and every orphan. A program is not written for either.
    """
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
    program = os.fork()
    if program == 0:
        return
    os.close(errors)
    while True:
        pid, status = os.wait()
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else _SIGNALLED - code)


def _guard(errors: int) -> None:
    """Return in a child, and end as it does; with it, or when told to, or when the launcher is gone, end all there are.

    For users who get no namespace. Who forks and exits again and again is never there when one process after another is
    killed: such a chain outlived its bound by hours. The kernel signals all processes that the sender may signal in one step,
    and forks none of them meanwhile. What may be signalled from here is what was started here: Landlock sees to that. It
    keeps the program, in a domain further in, from signalling this one.
    """
    launcher = os.getppid()
    try:
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
        landlock.keep_signals_inside()
        fault = "" if _cannot_signal(launcher) else "signals are not kept inside"
    except BaseException as error:  # noqa: BLE001 - whatever it is: the signal to all would reach all of the user's processes
        fault = f"{type(error).__name__}: {error}"
    if fault:
        os.write(errors, fault.encode())
        os._exit(NOT_STARTED)
    ctypes.CDLL(None).prctl(_PDEATHSIG, _END_ALL, 0, 0, 0)
    program = os.fork()
    if program == 0:
        return
    os.close(errors)
    code = _SIGNALLED + signal.SIGKILL
    while os.getppid() == launcher:
        came = signal.sigtimedwait({signal.SIGCHLD, _END_ALL}, _GUARD_SECONDS)
        ended = _reap(program)
        if ended is not None:
            ended = os.waitstatus_to_exitcode(ended)
            code = ended if ended >= 0 else _SIGNALLED - ended
        if ended is not None or (came is not None and came.si_signo == _END_ALL):
            break
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)  # none of them can fork any more
    os._exit(code)


def _cannot_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    return False


def _let_the_guard_end_all(guard: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(guard, _END_ALL)
    ends_at = time.monotonic() + _GUARD_SECONDS
    while time.monotonic() < ends_at:
        try:
            if os.waitpid(guard, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        signal.sigtimedwait(_AWAITED, 0.005)


def _start(policy: Policy, errors: int) -> None:
    """In the child: never returns."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
        if policy.bubblewrap is None:
            become(policy)
        arguments = _bubblewrap(policy)
        os.execve(arguments[0], arguments, policy.environment)  # noqa: S606 - an argument list, and no shell
    except BaseException as error:  # noqa: BLE001 - whatever it is, the program must not run unconfined
        with suppress(OSError):
            os.write(errors, f"{type(error).__name__}: {error}".encode())
    os._exit(NOT_STARTED)


def _bubblewrap(policy: Policy) -> list[str]:
    """A root of its own, with nothing in it but what may be read; no network, and no process of others in sight."""
    assert policy.bubblewrap is not None
    arguments = [policy.bubblewrap, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    # First, because what may be read can lie below: an interpreter in /tmp was hidden by it.
    arguments += ["--dev", "/dev", "--proc", "/proc", "--size", str(_TMPFS_BYTES), "--tmpfs", "/tmp"]  # noqa: S108 - of its own
    for path in [*policy.readable, sys.prefix, sys.base_prefix, _PACKAGE]:  # the last three for `--become`
        if not path.startswith(("/dev/", "/proc/")):
            arguments += ["--ro-bind-try", path, path]
    for path in policy.writable:
        if not path.startswith("/dev/"):
            arguments += ["--bind", path, path]
    # The root and /dev are in memory that nobody counts.
    arguments += ["--remount-ro", "/dev", "--remount-ro", "/"]
    return [*arguments, "--", sys.executable, "-I", "-S", __file__, "--become", policy.to_json()]


def _until_it_ends(policy: Policy, program: int, owner: int) -> End:
    ends_at = time.monotonic() + policy.limits.seconds
    next_disk = time.monotonic() + _DISK_SECONDS
    next_descriptors = time.monotonic() + _DESCRIPTORS_SECONDS
    walk: Iterator[int] | None = None  # of the disk, under way
    hidden: set[int] = set()
    most = policy.limits.processes
    while True:
        came = signal.sigtimedwait(_AWAITED, _LOOK_SECONDS)
        ended = _reap(program)
        if ended is not None:
            code = os.waitstatus_to_exitcode(ended)
            return End(_SIGNALLED - code if code > _SIGNALLED else code)
        now = time.monotonic()
        is_told_to = came is not None and came.si_signo != signal.SIGCHLD
        stop: Stop | None = (
            "owner" if is_told_to or os.getppid() != owner else "time" if now > ends_at else _passed(policy.limits)
        )
        if stop is None and now > next_descriptors:
            next_descriptors = now + _DESCRIPTORS_SECONDS
            hidden, hidden_before = _hidden(most), hidden
            stop = "descriptors" if hidden & hidden_before or _holds_too_much(most) else None
        if stop is None and now > next_disk:
            if walk is None:
                walk = _written(policy)
            until = now + _LOOK_SECONDS / 2
            for written in walk:
                if written > policy.limits.disk_mib * _MIB:
                    stop = "disk"
                if stop or time.monotonic() > until:
                    break
            else:
                walk, next_disk = None, time.monotonic() + _DISK_SECONDS
        if stop is not None:
            return End(-signal.SIGKILL, stop)


def _passed(limits: Limits) -> Stop | None:
    """The bound that the processes together have passed."""
    processes, threads = descendants(most=limits.processes)
    if threads > limits.processes:
        return "processes"
    return "memory" if sum(map(_resident, processes)) > limits.memory_mib * _MIB else None


def _reap(program: int) -> int | None:
    """The status of the program, if it has ended. Orphans that have ended go as well, but not without end: a program can make them
    faster, and then no bound would be looked at. Those that are left count as processes.
    """
    with suppress(ChildProcessError):
        for _ in range(_MOST_REAPED):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == program:
                return status
    return None


def _end_all(program: int) -> None:
    """Kill until no child is left: those of a killed process become this one's, and are killed in the next round."""
    with suppress(ProcessLookupError):
        os.kill(program, signal.SIGKILL)  # first: with a namespace of their own, all others end with it
    while True:
        for pid in descendants(most=_MOST_REAPED)[0]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            for _ in range(_MOST_REAPED):
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    break
        except ChildProcessError:
            return
        signal.sigtimedwait(_AWAITED, 0.005)


def _resident(pid: int) -> int:
    """Bytes of its pages, of those that are swapped out or huge, and of the tables by which the kernel finds them.

    A program can have its own pages swapped out (MADV_PAGEOUT): one with a bound of 150 MiB held 400.
    """
    for place in places(pid):
        # As bytes: a name that is no UTF-8 made a process one without memory.
        with suppress(OSError), open(f"{place}/status", "rb") as facts:
            kib = [int(line.split()[1]) for line in facts if line.startswith(_COUNTED)]
            if kib:
                return sum(kib) * 1_024
    return 0  # it has ended


def _written(policy: Policy) -> Iterator[int]:
    """Bytes on the disk in all folders that the program can write to, and in open files without a name, on the disk or in memory:
    so far, after some hundred files each time. A program of many small files must not keep this one from its other looks.

    Each folder is opened at once, from the one that it was seen in: one that is renamed again and again would never be found by its
    path.
    """
    total = sum(nameless(most=policy.limits.processes).values())
    seen = 0
    for root in policy.writable:
        if root.startswith("/dev/"):
            continue
        below: list[tuple[int, Iterator[os.DirEntry[str]]]] = []
        try:
            _enter(below, root, None)
            while below:
                folder, entries = below[-1]
                entry = next(entries, None)
                if entry is None:
                    below.pop()
                    os.close(folder)
                    continue
                with suppress(FileNotFoundError, NotADirectoryError):
                    # A file without content takes room as well, and so the walk comes to an end.
                    total += max(entry.stat(follow_symlinks=False).st_blocks * 512, 4_096)
                    if entry.is_dir(follow_symlinks=False):
                        _enter(below, entry.name, folder)
                seen += 1
                if seen % _SLICE == 0:
                    yield total
        except OSError as error:
            if error.errno in (
                errno.ENAMETOOLONG,
                errno.EACCES,
                errno.EMFILE,
            ):  # what is below cannot be seen from here
                yield sys.maxsize
        finally:
            for folder, _ in below:
                os.close(folder)
    yield total


def _enter(below: list[tuple[int, Iterator[os.DirEntry[str]]]], name: str, parent: int | None) -> None:
    """Raises `OSError`; EMFILE where folders are deeper than anybody's are."""
    if len(below) > _DEEPEST:
        raise OSError(errno.EMFILE, name)
    try:
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link by now
            return
        raise
    try:
        below.append((folder, os.scandir(folder)))
    except OSError:
        os.close(folder)
        raise


def _hidden(most: int) -> set[int]:
    """Processes whose descriptors cannot be seen, such as those of a program that may be executed and not read. A process that begins or
    ends is one for a moment."""
    found = set()
    for pid in descendants(most=most)[0]:
        for place in places(pid):
            try:
                os.listdir(f"{place}/fd")
            except PermissionError:
                if _has_ended(place):  # and holds nothing; its other threads may go on
                    continue
                found.add(pid)
            except OSError:
                continue
            break
    return found


def _has_ended(place: str) -> bool:
    try:
        with open(f"{place}/stat", "rb") as facts:
            return facts.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return True


def _holds_too_much(most: int) -> bool:
    """Whether the processes hold more of the kernel's memory than programs need: sockets, each with a buffer of some hundred
    KiB, and watches of epoll, of which a user has a number for all processes on the machine.
    """
    sockets = watchers = 0
    for path in descriptors(most=most):
        with suppress(OSError):
            kind = os.readlink(path)
            sockets += kind.startswith("socket:")
            watchers += kind == "anon_inode:[eventpoll]"
    return sockets > _MOST_SOCKETS or watchers > _MOST_WATCHERS


if __name__ == "__main__":
    if sys.argv[1] == "--become":
        try:
            become(Policy.from_json(sys.argv[2]))
        except OSError as failure:
            sys.stderr.write(f"the program could not be confined: {failure}\n")
            sys.exit(NOT_STARTED)
    else:
        watch(Policy.from_json(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
