"""Puts the layers around the calling process, for good: it becomes the confined program, or ends.

The order matters. What needs privileges comes first, then they are given up, then files are closed to it, and the filter of
system calls comes last, because it refuses some of what the others use.
"""

import ctypes
import os
import resource
import struct
import time
from contextlib import suppress

from fleet_pipeline.tools.sandbox import landlock, seccomp
from fleet_pipeline.tools.sandbox.policy import Limits, Policy

_PDEATHSIG, _DUMPABLE, _CAPBSET_DROP, _SECUREBITS, _NO_NEW_PRIVS = 1, 4, 24, 28, 38
_LOCKED_WITHOUT_ROOT = 0x2F  # NOROOT, NO_SETUID_FIXUP, each locked, and KEEP_CAPS locked: user 0 is nobody special
_CAPABILITIES = 64
_VERSION_3 = 0x20080522
SIGKILL = 9
# The launcher has five open: its own pipes. All others were closed when it was started.
_MOST_DESCRIPTORS = 256
_MOST_SIGNALS = 1_024
_TRIES, _TRY_SECONDS = 5, 0.05


def become(policy: Policy) -> None:
    """Confine this process by `policy`, and execute its command. Raises `OSError`, and returns never."""
    libc = ctypes.CDLL(None, use_errno=True)
    if policy.bubblewrap is None:  # it has a session of its own
        os.setsid()
    _give_way()
    _prctl(libc, _PDEATHSIG, SIGKILL)
    os.chdir(policy.folder)
    os.umask(0o077)
    _limit(policy.limits)
    _give_up_privileges(libc)
    _prctl(libc, _NO_NEW_PRIVS, 1)
    for descriptor in range(3, _MOST_DESCRIPTORS):  # not closed: on one of them a failure below is told
        with suppress(OSError):
            os.set_inheritable(descriptor, False)
    inside = landlock.abi() >= landlock.SIGNALS_ABI or policy.bubblewrap is not None
    if policy.landlock:
        landlock.restrict(policy.readable, policy.writable, policy.executable)
    seccomp.install(deny_signals=not inside, deny_processes=policy.alone)
    os.execve(policy.command[0], policy.command, policy.environment)  # noqa: S606 - an argument list, and no shell


def _give_way() -> None:
    """As a session as well: where the kernel shares the processor among sessions, the nice value counts within one alone."""
    for _ in range(_TRIES):
        try:
            with open("/proc/self/autogroup", "w") as group:
                group.write("19")
        except BlockingIOError:  # ten times a second, for all users but root
            time.sleep(_TRY_SECONDS)
        except OSError:  # there are no such groups
            return
        else:
            return


def _limit(limits: Limits) -> None:
    mib = 2**20
    bounds = {
        resource.RLIMIT_CPU: int(limits.seconds) + 5,  # a second bound: the launcher looks at the clock
        resource.RLIMIT_AS: _address_space(limits) * mib,
        resource.RLIMIT_FSIZE: limits.file_mib * mib,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CORE: 1,  # with 0 a program of root's is started for a dump, where the machine names one
        resource.RLIMIT_MSGQUEUE: 0,
        # The kernel counts a user's on the whole machine: timers of one program took all 96,000 that root's other programs had.
        resource.RLIMIT_SIGPENDING: _MOST_SIGNALS,
        resource.RLIMIT_MEMLOCK: 64 * 1_024,
    }
    for name, most in bounds.items():
        _, hard = resource.getrlimit(name)
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (wanted, wanted))


def _address_space(limits: Limits) -> int:
    """Programs reserve more than they use (node 1 GiB, Go 600 MiB): this stops one huge allocation, the watch the rest."""
    return max(4 * limits.memory_mib, 4_096)


def _give_up_privileges(libc: ctypes.CDLL) -> None:
    """Capabilities go, and do not come back by executing a program as user 0. Without any, every step is refused."""
    libc.prctl(_SECUREBITS, _LOCKED_WITHOUT_ROOT, 0, 0, 0)
    for capability in range(_CAPABILITIES):
        libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("=Ii", _VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    with suppress(PermissionError):
        os.setgroups([])


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
