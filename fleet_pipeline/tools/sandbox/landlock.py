"""Landlock, by its three system calls: which files a process may read, write and execute from here on.

Everything that this kernel's Landlock covers is denied, and given back for the paths named. Signals and abstract sockets stay
inside where it can do that (ABI 6, Linux 6.12), and TCP is denied (ABI 4).
"""

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from contextlib import suppress

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
# Below this one, `open` with O_TRUNC empties a file that may only be read.
LEAST_ABI = 3
SIGNALS_ABI = 6
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2


def abi() -> int:
    """The version of this kernel's Landlock; 0 where there is none, or where it is not allowed."""
    found = _syscall(_CREATE, None, 0, 1)
    return max(found, 0)


def restrict(readable: Sequence[str], writable: Sequence[str], executable: Sequence[str] = ()) -> None:
    """Confine this process and its children. A path that does not exist is passed over. Raises `OSError`.

    Files under `readable` can be read and executed, those under `writable` changed as well. Where some are `executable`, no
    other can be executed.
    """
    version = abi()
    if version < LEAST_ABI:
        raise OSError(errno.ENOSYS, f"Landlock has version {version} here, and {LEAST_ABI} is needed")
    every = (1 << 15) - 1 | (_IOCTL_DEV if version >= 5 else 0)
    network = 3 if version >= 4 else 0  # bind and connect of TCP
    scoped = _ABSTRACT_SOCKETS | _SIGNALS if version >= SIGNALS_ABI else 0  # abstract sockets and signals
    attributes = struct.pack("=QQQ", every, network, scoped)
    ruleset = _checked(_CREATE, attributes, len(attributes) if version >= SIGNALS_ABI else 16 if version >= 4 else 8, 0)
    try:
        without = _EXECUTE if executable else 0
        given = ((readable, _READ & ~without), (writable, every & ~_IOCTL_DEV & ~without), (executable, _READ))
        for paths, rights in given:
            for path in paths:
                with suppress(FileNotFoundError):
                    _allow(ruleset, path, rights)
        _checked(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def keep_signals_inside() -> None:
    """Confine nothing but this process's signals, to itself and its children. Raises `OSError` where Landlock cannot do that.

    Each domain denies renames and links between folders unless a rule of its own allows them, so that here they are allowed
    everywhere: without it no program of an ordinary user could move a file to another folder.
    """
    if abi() < SIGNALS_ABI:
        raise OSError(errno.ENOSYS, f"Landlock below version {SIGNALS_ABI} cannot confine signals")
    attributes = struct.pack("=QQQ", _REFER, 0, _SIGNALS)
    ruleset = _checked(_CREATE, attributes, len(attributes), 0)
    try:
        _allow(ruleset, "/", _REFER)
        _checked(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            rights &= _OF_FILES
        _checked(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, beneath), 0)
    finally:
        os.close(beneath)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return int(libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))


def _checked(number: int, *arguments: int | bytes | None) -> int:
    result = _syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "Landlock")
    return result
