"""The sandbox: what it gives, what it bounds, and what it says where it cannot work."""

import ctypes
import errno
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet_pipeline.common.errors import Refused, SandboxUnavailable
from fleet_pipeline.tools.sandbox import landlock, launcher as launcher_module, sandbox as sandbox_module, seccomp
from fleet_pipeline.tools.sandbox.policy import Limits
from fleet_pipeline.tools.sandbox.processes import descendants
from fleet_pipeline.tools.sandbox.sandbox import Outcome, Sandbox, end_programs_of, launch, may_run_programs
from fleet_pipeline.tools.tree import remove_tree
from fleet_pipeline_tests.support.tool_world import PATIENCE, World, processes_in, python_for_others

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    own = (tmp_path / "own").resolve()
    own.mkdir()
    yield own
    remove_tree(own)  # pytest's own way of removing it fails on a deep one


def run(place: Path, *command: str, stdin: bytes = b"", **limits: float) -> Outcome:
    own = Sandbox.find()
    return own.run(own.policy(command, place, [place], Limits(**{"seconds": PATIENCE, **limits})), stdin)


def python(place: Path, code: str, **limits: float) -> Outcome:
    return run(place, sys.executable, "-c", code, **limits)


def test_a_program_gets_its_input_and_gives_its_output_errors_and_exit_code(place: Path) -> None:
    done = run(place, "sh", "-c", "cat; echo wrong >&2; exit 7", stdin=b"hello")
    assert (done.output, done.errors, done.code, done.ok, done.stopped) == (b"hello", b"wrong\n", 7, False, None)
    assert python(place, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").code == -signal.SIGSEGV


def test_its_environment_is_clean_and_its_folder_its_own(place: Path) -> None:
    done = run(place, "env")
    assert sorted(line.split(b"=")[0] for line in done.output.split()) == [b"HOME", b"LANG", b"PATH", b"TMPDIR"]
    assert run(place, "pwd").output.decode().strip() == str(place)


def test_ordinary_work_is_not_in_its_way(place: Path) -> None:
    """What test runners and compilers do: copies with modes, threads, processes, pipes, temporary files, links."""
    code = """
import os, shutil, subprocess, tempfile, threading, concurrent.futures, socket, asyncio, sqlite3, json
open("a", "w").write("x"); shutil.copy2("a", "b"); shutil.copytree(".", "../own/c", ignore=lambda *_: ["c"]) if 0 else None
os.mkdir("d"); os.symlink("a", "l"); os.link("a", "h"); os.rename("b", "d/b"); os.replace("h", "d/h")
with tempfile.TemporaryDirectory() as t: open(t + "/x", "w").write("y")
assert subprocess.run(["sh", "-c", "echo hi | tr a-z A-Z"], capture_output=True).stdout == b"HI\\n"
with concurrent.futures.ThreadPoolExecutor(4) as pool: assert sum(pool.map(lambda n: n, range(10))) == 45
asyncio.run(asyncio.sleep(0.01))
a, b = socket.socketpair(); a.send(b"x"); assert b.recv(1) == b"x"
db = sqlite3.connect("x.db"); db.execute("create table t(a)"); db.commit()
print("all")
"""
    done = python(place, code)
    assert done.output == b"all\n", done.errors


def test_one_call_does_not_take_a_whole_disk_and_libraries_write_instead(place: Path) -> None:
    code = (
        "import ctypes, os\nfile = os.open('x', os.O_RDWR | os.O_CREAT)\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.fallocate(file, 0, 0, ctypes.c_long(2**30)), ctypes.get_errno())\nos.posix_fallocate(file, 0, 10_000)\nprint(os.fstat(file).st_size)"
    )
    done = python(place, code)
    assert done.output.split() == [b"-1", str(errno.EOPNOTSUPP).encode(), b"10000"], done.errors


@pytest.mark.parametrize(
    ("code", "limits", "stopped"),
    [
        ("import time; time.sleep(100)", {"seconds": 1}, "time"),
        ("while True: pass", {"seconds": 1}, "time"),
        ("a = []\nwhile True: a.append(bytearray(10**7))", {"memory_mib": 200}, "memory"),
        ("import os, time\nfor n in range(30):\n  if os.fork() == 0: time.sleep(100)\ntime.sleep(100)", {"processes": 10}, "processes"),
        ("import threading, time\nfor n in range(90): threading.Thread(target=time.sleep, args=(100,)).start()", {"processes": 30}, "processes"),
        ("import time\nfor n in range(30): open(str(n), 'wb').write(bytes(10**7))\ntime.sleep(100)", {"disk_mib": 50}, "disk"),
        ("for n in range(30): open(str(n), 'wb').write(bytes(10**7))", {"disk_mib": 50}, "disk"),
        ("import os, time\nf = []\nfor n in range(30):\n  f.append(open('x', 'wb')); os.unlink('x'); f[-1].write(bytes(10**7)); f[-1].flush()\ntime.sleep(100)", {"disk_mib": 50}, "disk"),
        ("import os, time\nfd = os.memfd_create('x'); os.write(fd, bytes(10**8)); time.sleep(100)", {"disk_mib": 50}, "disk"),
        ("import ctypes, threading, time\ndef go():\n  a = []\n  while True: a.append(bytearray(b'x' * 10**7))\nthreading.Thread(target=go).start()\nctypes.CDLL(None).syscall(60, 0)", {"memory_mib": 200}, "memory"),
        ("import ctypes\nctypes.CDLL(None).prctl(15, b'\\xff\\xfe', 0, 0, 0)\na = []\nwhile True: a.append(bytearray(b'x' * 10**7))", {"memory_mib": 200}, "memory"),
        ("import select, time\nf = [select.epoll() for _ in range(200)]\ntime.sleep(100)", {}, "descriptors"),
        ("import os, socket, time\nfor _ in range(3):\n  if os.fork() == 0: break\nf = [socket.socketpair() for _ in range(240)]\ntime.sleep(100)", {}, "descriptors"),
        ("import os, time\nif os.fork(): time.sleep(100)\nwhile True:\n  if os.fork(): os._exit(0)", {"seconds": 1}, "time"),
        ("import os\nwhile True:\n  os.setsid() if os.fork() == 0 else os._exit(0)", {"seconds": 5}, None),
        ("import os\nwhile True:\n  os.mkdir('x' * 200); os.chdir('x' * 200)", {"disk_mib": 50}, "disk"),
    ],
)  # fmt: skip
def test_a_program_that_passes_a_bound_is_stopped_with_all_its_processes(
    place: Path, code: str, limits: dict, stopped: str
) -> None:
    done = python(place, code, **limits)
    assert done.stopped == stopped
    assert not done.ok or stopped is None
    assert not processes_in(place)


def of_memory(name: str) -> int:
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    return int(facts[name].split()[0])


@pytest.mark.skipif(of_memory("SwapFree") < 450_000, reason="no 450 MB of swap here")
def test_what_a_program_has_swapped_out_counts_as_its_memory(place: Path) -> None:
    """With MADV_PAGEOUT it can do so itself: one that was bounded to 150 MiB held 400."""
    code = """
import mmap, time
held = []
for number in range(40):
    held.append(mmap.mmap(-1, 10 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    for at in range(0, 10 << 20, 4096): held[-1][at : at + 8] = (at + number).to_bytes(8, "big")
    held[-1].madvise(21)
    time.sleep(0.05)
"""
    assert python(place, code, memory_mib=150).stopped == "memory"


@pytest.mark.skipif(of_memory("HugePages_Free") < 40, reason="no 40 huge pages here")
def test_huge_pages_count_as_memory(place: Path) -> None:
    """The kernel does not count them among those of a process."""
    code = """
import mmap, time
held = []
for _ in range(40):
    held.append(mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000))
    held[-1][0:1] = b"x"
    time.sleep(0.02)
"""
    assert python(place, code, memory_mib=50).stopped == "memory"


def test_a_program_that_may_not_be_read_cannot_hide_what_it_holds(place: Path) -> None:
    code = (
        "import os, shutil\nos.umask(0)\nown = os.open('own', os.O_CREAT | os.O_WRONLY, 0o111)\n"
        "os.write(own, open(shutil.which('sleep'), 'rb').read()); os.close(own)\n"
        "file = os.open('x', os.O_CREAT | os.O_RDWR); os.unlink('x'); os.set_inheritable(file, True)\n"
        "os.write(file, bytes(10**8)); os.execv('./own', ['sleep', '1000'])"
    )
    assert python(place, code, disk_mib=50).stopped in ("disk", "descriptors")  # root sees it all the same


HIDES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def refused(*call): return libc.syscall(*map(ctypes.c_long, call)) == -1 and ctypes.get_errno() == 1
clone = 56 if os.uname().machine == "x86_64" else 220
assert refused(clone, 0x10000 | 0x800 | 0x100, 0, 0, 0, 0), "a thread with descriptors of its own"
assert refused(436, 100, 200, 2), "a table of descriptors of its own"
assert not refused(436, 100, 200, 0)
assert libc.prctl(4, 0, 0, 0, 0) == 0 and libc.prctl(3, 0, 0, 0, 0) == 1, "it can still be seen"
assert all(refused(call, 0, 0, 1) for call in (444, 445, 446)), "rules of its own"
print("nothing hidden")
"""


def test_descriptors_and_rules_cannot_be_put_where_nobody_counts_them(place: Path) -> None:
    done = python(place, HIDES)
    assert done.output == b"nothing hidden\n", done.errors


def test_output_without_end_is_dropped_after_its_bound_and_does_not_stop_the_program(place: Path) -> None:
    done = python(place, "import sys\nfor _ in range(300): sys.stdout.write('x' * 10**6)", output_bytes=1_000)
    assert (len(done.output), done.cut, done.ok) == (1_000, True, True)


def test_a_file_larger_than_its_bound_cannot_be_written(place: Path) -> None:
    done = python(place, "open('x', 'wb').write(bytes(10**7))", file_mib=5)
    assert not done.ok
    assert (place / "x").stat().st_size <= 5 * 2**20


def test_a_program_that_is_not_there_is_named(place: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program is not installed here"):
        run(place, "no-such-program")


def test_calls_from_many_threads_do_not_see_each_other(place: Path) -> None:
    said: dict[int, bytes] = {}

    def call(number: int) -> None:
        said[number] = run(place, "sh", "-c", f"sleep 0.1; echo {number}").output

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {number: f"{number}\n".encode() for number in range(16)}


def test_a_program_ends_with_its_owner_also_when_that_is_killed(place: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom fleet_pipeline.tools.sandbox.policy import Limits\n"
        "from fleet_pipeline.tools.sandbox.sandbox import Sandbox\nown = Sandbox.find(); p = Path(sys.argv[1])\n"
        "own.run(own.policy(['sh', '-c', 'touch begun; (sleep 1000; touch ended) & sleep 1000'], p, [p], Limits(seconds=900)))\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(place)])
    while not (place / "begun").exists():
        time.sleep(0.01)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    while processes_in(place):
        time.sleep(0.01)
    assert not (place / "ended").exists()


def test_a_launcher_that_is_told_to_end_ends_its_program_first(place: Path) -> None:
    own = Sandbox.find()
    policy = own.policy(
        ["sh", "-c", "touch begun; (trap '' TERM; setsid sleep 1000) & sleep 1000"], place, [place], Limits(seconds=900)
    )
    launcher = subprocess.Popen(launch(policy), stderr=subprocess.PIPE)
    while not (place / "begun").exists():
        time.sleep(0.01)
    launcher.terminate()
    _, said = launcher.communicate()
    assert b'"stopped": "owner"' in said
    assert not processes_in(place)


def test_a_launcher_that_is_killed_takes_all_with_it(place: Path) -> None:
    """By the kernel, where memory is short."""
    own = Sandbox.find()
    policy = own.policy(
        ["sh", "-c", "touch begun; setsid sleep 1000 & sleep 1000"], place, [place], Limits(seconds=900)
    )
    launcher = subprocess.Popen(launch(policy))
    while not (place / "begun").exists():
        time.sleep(0.01)
    launcher.kill()
    launcher.wait()
    while processes_in(place):
        time.sleep(0.01)


def test_a_launcher_whose_owner_has_gone_before_it_began_starts_nothing(place: Path) -> None:
    """It asked for its parent after its start, and found whoever had taken it: its program went on without an end."""
    own = Sandbox.find()
    command = launch(own.policy(["touch", "begun"], place, [place], Limits(seconds=20)))
    assert command[-1] == str(os.getpid())
    assert subprocess.run([*command[:-1], "1"], capture_output=True, check=True).stderr == b""
    assert not (place / "begun").exists()
    subprocess.run(command, capture_output=True, check=True)
    assert (place / "begun").exists()


@pytest.mark.parametrize("error", [PermissionError, OSError, KeyError])
def test_a_guard_whose_signals_are_not_kept_inside_never_sends_them(error: type[Exception]) -> None:
    """As where a container's filter refuses Landlock's call: `kill -1` would reach every process of the user."""
    reading, errors = os.pipe()
    child = os.fork()
    if child == 0:
        try:

            def refuse() -> None:
                raise error("no")

            def kill(pid: int, number: int) -> None:
                os._exit(99)  # whomever it would have reached

            launcher_module.landlock.keep_signals_inside, launcher_module.os.kill = refuse, kill  # type: ignore[assignment]
            launcher_module._guard(errors)
        finally:
            os._exit(98)
    os.close(errors)
    with os.fdopen(reading, "rb") as said:
        told = said.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == launcher_module.NOT_STARTED
    assert error.__name__.encode() in told


def test_without_landlock_and_bubblewrap_nothing_is_run_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 1)
    monkeypatch.setattr(sandbox_module.shutil, "which", lambda *_, **__: None)
    sandbox_module._found.cache_clear()
    try:
        own = Sandbox.find()
    finally:
        sandbox_module._found.cache_clear()
    assert (own.works, own.level) == (False, "none")
    assert own.reason == "Landlock has version 1 here (3 needed: Linux 6.2); bubblewrap is not installed"
    monkeypatch.undo()
    with pytest.raises(SandboxUnavailable, match="Landlock has version 1"):
        own.run(Sandbox.find().policy(["true"], place, [place], Limits()))


def test_a_layer_that_does_not_hold_is_found_out_by_trying_it(place: Path) -> None:
    """As where a container's filter lets Landlock's calls fail: the program must not run."""
    bare = Sandbox(False, None, "nothing")
    assert "could read what is not its own" in sandbox_module._fault(bare)
    wrong = Sandbox(True, "/bin/false", "landlock+bubblewrap")
    assert sandbox_module._fault(wrong)


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


def test_children_that_end_faster_than_they_are_counted_do_not_keep_the_launcher_from_its_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There was always one more that had ended, so no bound was looked at, and all numbers of processes of the machine were used up."""
    monkeypatch.setattr(os, "waitpid", lambda *_: (4_711, 0))
    assert launcher_module._reap(12) is None
    assert launcher_module._reap(4_711) == 0


def test_no_more_processes_are_looked_at_than_there_may_be() -> None:
    """To look at each of 30,000 that had ended took longer than their program had."""
    command = ["sh", "-c", "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 1000 & done; wait"]
    with subprocess.Popen(command, start_new_session=True) as parent:
        try:
            while len(descendants(parent.pid)[0]) < 20:
                time.sleep(0.01)
            assert descendants(parent.pid)[1] == 20
            assert descendants(parent.pid, most=10)[1] == 11
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def test_a_program_has_one_session_which_gives_way(place: Path) -> None:
    """Where the kernel shares the processor among sessions, nice values count within one alone: thirty left the engine 4 % of a core."""
    code = "import os, time\nbefore = os.getsid(0)\nif os.fork() == 0: os.setsid()\nassert os.getsid(0) == before\nopen('begun', 'w')\ntime.sleep(1000)"
    own = Sandbox.find()
    policy = own.policy([sys.executable, "-c", code], place, [place], Limits(seconds=100))
    with subprocess.Popen(launch(policy), stderr=subprocess.DEVNULL) as launcher:
        while not (place / "begun").exists():
            time.sleep(0.01)
        groups = [Path(f"/proc/{pid}/autogroup") for pid in descendants(launcher.pid)[0] if pid in processes_in(place)]
        assert groups
        if groups[0].exists():
            assert all("nice 19" in group.read_text() for group in groups)
        launcher.terminate()


def test_a_program_leaves_signals_to_the_other_programs_of_its_user(place: Path) -> None:
    """Its timers took all that a user may have pending on the machine, and nobody else got one."""
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
event = ctypes.create_string_buffer(bytes(8) + (34).to_bytes(4, "little") + bytes(52))
timer = ctypes.c_int()
count = 0
while libc.syscall(222 if os.uname().machine == "x86_64" else 107, 1, event, ctypes.byref(timer)) == 0: count += 1
print(count)
"""
    done = python(place, code)
    assert int(done.output) <= 1_024, done.errors


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try it as another user")
def test_bounds_hold_for_an_ordinary_user_as_well() -> None:
    """Who gets no namespace of processes: a chain of forks and exits outlived its bound without end."""
    with tempfile.TemporaryDirectory(prefix="fleet-nobody-") as name:  # pytest's own folders are root's alone
        os.chown(name, 65534, 65534)
        tried = subprocess.run(
            [*python_for_others(), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={name}/tests", __file__,
             "-k", "passes_a_bound or may_not_be_read or ordinary_work or its_owner or told_to_end or launcher_that_is_killed"],
            capture_output=True, text=True, user=65534, group=65534, extra_groups=[], cwd=ROOT, check=False,
            env={"HOME": name, "PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    assert tried.returncode == 0, tried.stdout[-3_000:] + tried.stderr[-1_000:]
    assert " skipped" not in tried.stdout


def test_modes_owners_and_times_are_set_without_effect(world: World) -> None:
    done = world.run(
        "import os; os.chmod('app.py', 0o777); os.utime('app.py', (1, 1)); print(oct(os.stat('app.py').st_mode & 0o777))"
    )
    assert done.output.strip() != b"0o777"


def test_a_bomb_of_forks_on_a_busy_machine_is_ended_before_it_fills_the_machine(place: Path) -> None:
    """It outran a launcher that only looked: 30,000 processes on two busy cores, and no other program could start."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    most = 0

    def watch() -> None:
        nonlocal most
        while not ended.is_set():
            most = max(most, len(processes_in(place)))

    ended = threading.Event()
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        done = python(place, "import os\nwhile True:\n try: os.fork()\n except OSError: pass", processes=60)
    finally:
        ended.set()
        watching.join()
        for process in busy:
            process.kill()
            process.wait()
    assert done.stopped == "processes"
    assert most < 5_000
    assert not processes_in(place)


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


def test_calls_of_file_systems_and_devices_are_not_there_in_the_sandbox(place: Path, tmp_path: Path) -> None:
    """On Btrfs one of them puts a snapshot, with any content, into a folder that may only be read."""
    outside = subprocess.run([sys.executable, "-c", _OF_FILE_SYSTEMS], cwd=tmp_path, capture_output=True, text=True)
    assert outside.stdout.split()[:1] == ["ok"], outside.stderr
    done = python(place, _OF_FILE_SYSTEMS)
    assert done.output.decode().split() == ["ENOTTY", "EPERM", "shared" if "shared" in outside.stdout else "not"]


def test_a_program_is_not_begun_in_a_thread_whose_call_has_been_given_up(place: Path) -> None:
    """Between a call's record and its program's start there was nothing to end: the program went on to the end of its time."""
    thread = threading.get_ident()
    end_programs_of(thread)
    try:
        with pytest.raises(Refused, match="given up"):
            python(place, "open('begun', 'w')")
    finally:
        may_run_programs(thread)
    assert not (place / "begun").exists()
    assert python(place, "open('begun', 'w')").ok


def test_a_program_whose_launcher_missed_that_it_is_to_end_is_ended_all_the_same(place: Path) -> None:
    """Whatever became of the first signal: one that was sent before there was a launcher had no effect."""
    done: list[Outcome] = []
    calling = threading.Thread(
        target=lambda: done.append(python(place, "import time; open('begun', 'w'); time.sleep(1000)", seconds=900))
    )
    calling.start()
    while not (place / "begun").exists():
        time.sleep(0.01)
    assert calling.ident
    sandbox_module._stopped.add(calling.ident)  # without a signal
    calling.join()
    may_run_programs(calling.ident)
    assert [one.stopped for one in done] == ["owner"]
