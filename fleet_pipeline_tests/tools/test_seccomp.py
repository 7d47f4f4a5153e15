"""The filter of system calls: which are refused, which succeed without effect, and that the kernel takes it."""

import ctypes
import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from fleet_pipeline.tools.sandbox import seccomp
from fleet_pipeline_tests.support.tool_world import World, python

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_a_valid_program_for_each_architecture(machine: str) -> None:
    code = seccomp.program(machine, deny_signals=True)
    assert len(code) % 8 == 0
    assert len(code) // 8 < 4_096
    instructions = [code[at : at + 8] for at in range(0, len(code), 8)]
    for at, one in enumerate(instructions):  # every jump stays within
        kind, yes, no = int.from_bytes(one[:2], "little"), one[2], one[3]
        if kind & 0x07 == 0x05:
            assert at + 1 + max(yes, no) < len(instructions)


def answer_of(code: bytes, number: int, architecture: int) -> int:
    """What the filter says to a call without arguments: the kernel's own steps, for the instructions that it is made of."""
    memory = struct.pack("=iI", number, architecture) + bytes(56)
    value, at = 0, 0
    while True:
        kind, yes, no, operand = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        if kind == 0x20:
            (value,) = struct.unpack_from("=I", memory, operand)
        elif kind == 0x54:
            value &= operand
        elif kind == 0x06:
            return operand
        else:
            holds = {0x15: value == operand, 0x45: bool(value & operand), 0x35: value >= operand}[kind]
            at += yes if holds else no


@pytest.mark.parametrize(("machine", "architecture", "own_number"), [("x86_64", 0xC000003E, 39), ("aarch64", 0xC00000B7, 172)])  # fmt: skip
def test_calls_that_are_newer_than_the_filter_are_not_there(machine: str, architecture: int, own_number: int) -> None:
    """A kernel brings several each year, and a list of what is refused knows none of them."""
    code = seccomp.program(machine, deny_signals=False)
    assert answer_of(code, own_number, architecture) == 0x7FFF0000
    assert answer_of(code, 101 if machine == "x86_64" else 117, architecture) == 0x50000 | errno.EPERM
    assert answer_of(code, 447, architecture) == 0x50000 | errno.EPERM  # secret memory
    for number in (470, 471, 600, 2**29):
        assert answer_of(code, number, architecture) == 0x50000 | errno.ENOSYS, number


def test_without_signals_nobody_is_made_to_send_them_either() -> None:
    """A descriptor that is ready signals its owner. Such a filter is used where Landlock keeps no signals inside."""
    code = """
import fcntl, os, sys
from fleet_pipeline.tools.sandbox import seccomp
import ctypes; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
seccomp.install(deny_signals=True)
r, w = os.pipe()
fcntl.fcntl(r, fcntl.F_SETFL, os.O_NONBLOCK)
for command in (fcntl.F_SETOWN, 10, 15):
    try: fcntl.fcntl(r, command, 1)
    except PermissionError: continue
    sys.exit(f"{command} was not refused")
import socket
a, b = socket.socketpair()
before = a.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, before // 2)
assert a.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before
a.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
assert a.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_of_calls_are_the_kernel_s(machine: str) -> None:
    header = Path(HEADERS[machine])
    if not header.exists():
        pytest.skip(f"{header} is not installed (linux-libc-dev)")
    words = [
        line.replace("__NR3264_", "__NR_").split()
        for line in header.read_text().splitlines()
        if line.startswith("#define __NR")
    ]
    known = {word[1].removeprefix("__NR_"): int(word[2]) for word in words if word[2].isdigit()}
    column = list(HEADERS).index(machine)
    for table in (seccomp._REFUSED, seccomp._WITHOUT_EFFECT, seccomp._NO_ATTRIBUTES, seccomp._SIGNALS):
        for name, numbers in table.items():
            if numbers[column] is not None and name in known:  # newer ones are not in every header
                assert known[name] == numbers[column], name
    if machine == os.uname().machine:
        libc = ctypes.CDLL(None)
        assert libc.syscall(39 if machine == "x86_64" else 172) == os.getpid()


def test_modes_owners_and_times_are_set_without_effect(world: World) -> None:
    done = world.run(
        "import os; os.chmod('app.py', 0o777); os.utime('app.py', (1, 1)); print(oct(os.stat('app.py').st_mode & 0o777))"
    )
    assert done.output.strip() != b"0o777"


_OF_FILE_SYSTEMS = """
import errno, fcntl, os, tempfile
def ends_with(call, *arguments):
    try: call(*arguments)
    except OSError as error: return errno.errorcode[error.errno]
    return "ok"
chance = os.open("/dev/urandom", os.O_RDONLY)
print(ends_with(fcntl.ioctl, chance, 0x80045200, bytes(4)))  # RNDGETENTCNT: everybody may
one, other = (os.open(name, os.O_RDWR | os.O_CREAT) for name in ("one", "other"))
print(ends_with(fcntl.fcntl, chance, 1036, bytes(8)))  # F_SET_RW_HINT
# Blocks of two files may be shared, where the file system can.
print("shared" if ends_with(fcntl.ioctl, one, 0x40049409, other) in ("ok", "EOPNOTSUPP", "EXDEV", "EINVAL") else "not")
"""


def test_calls_of_file_systems_and_devices_are_not_there_in_the_sandbox(folder: Path, tmp_path: Path) -> None:
    """On Btrfs one of them puts a snapshot, with any content, into a folder that may only be read."""
    outside = subprocess.run([sys.executable, "-c", _OF_FILE_SYSTEMS], cwd=tmp_path, capture_output=True, text=True)
    assert outside.stdout.split()[:1] == ["ok"], outside.stderr
    done = python(folder, _OF_FILE_SYSTEMS)
    assert done.output.decode().split() == ["ENOTTY", "EPERM", "shared" if "shared" in outside.stdout else "not"]
