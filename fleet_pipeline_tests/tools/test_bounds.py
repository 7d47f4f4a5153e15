"""The sandbox's bounds: time, memory, processes, the disk, descriptors and output, whatever a program does to evade them."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from fleet_pipeline.tools.sandbox import launcher as launcher_module
from fleet_pipeline.tools.sandbox.policy import Limits
from fleet_pipeline.tools.sandbox.processes import descendants
from fleet_pipeline.tools.sandbox.sandbox import Sandbox, launch
from fleet_pipeline_tests.support.tool_world import processes_in, python, python_for_others

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]


def test_one_call_does_not_take_a_whole_disk_and_libraries_write_instead(folder: Path) -> None:
    code = (
        "import ctypes, os\nfile = os.open('x', os.O_RDWR | os.O_CREAT)\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.fallocate(file, 0, 0, ctypes.c_long(2**30)), ctypes.get_errno())\nos.posix_fallocate(file, 0, 10_000)\nprint(os.fstat(file).st_size)"
    )
    done = python(folder, code)
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
    folder: Path, code: str, limits: dict, stopped: str
) -> None:
    done = python(folder, code, **limits)
    assert done.stopped == stopped
    assert not done.ok or stopped is None
    assert not processes_in(folder)


def of_memory(name: str) -> int:
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    return int(facts[name].split()[0])


@pytest.mark.skipif(of_memory("SwapFree") < 450_000, reason="no 450 MB of swap here")
def test_what_a_program_has_swapped_out_counts_as_its_memory(folder: Path) -> None:
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
    assert python(folder, code, memory_mib=150).stopped == "memory"


@pytest.mark.skipif(of_memory("HugePages_Free") < 40, reason="no 40 huge pages here")
def test_huge_pages_count_as_memory(folder: Path) -> None:
    """The kernel does not count them among those of a process."""
    code = """
import mmap, time
held = []
for _ in range(40):
    held.append(mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000))
    held[-1][0:1] = b"x"
    time.sleep(0.02)
"""
    assert python(folder, code, memory_mib=50).stopped == "memory"


def test_a_program_that_may_not_be_read_cannot_hide_what_it_holds(folder: Path) -> None:
    code = (
        "import os, shutil\nos.umask(0)\nown = os.open('own', os.O_CREAT | os.O_WRONLY, 0o111)\n"
        "os.write(own, open(shutil.which('sleep'), 'rb').read()); os.close(own)\n"
        "file = os.open('x', os.O_CREAT | os.O_RDWR); os.unlink('x'); os.set_inheritable(file, True)\n"
        "os.write(file, bytes(10**8)); os.execv('./own', ['sleep', '1000'])"
    )
    assert python(folder, code, disk_mib=50).stopped in ("disk", "descriptors")  # root sees it all the same


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


def test_descriptors_and_rules_cannot_be_put_where_nobody_counts_them(folder: Path) -> None:
    done = python(folder, HIDES)
    assert done.output == b"nothing hidden\n", done.errors


def test_output_without_end_is_dropped_after_its_bound_and_does_not_stop_the_program(folder: Path) -> None:
    done = python(folder, "import sys\nfor _ in range(300): sys.stdout.write('x' * 10**6)", output_bytes=1_000)
    assert (len(done.output), done.cut, done.ok) == (1_000, True, True)


def test_a_file_larger_than_its_bound_cannot_be_written(folder: Path) -> None:
    done = python(folder, "open('x', 'wb').write(bytes(10**7))", file_mib=5)
    assert not done.ok
    assert (folder / "x").stat().st_size <= 5 * 2**20


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


def test_a_program_has_one_session_which_gives_way(folder: Path) -> None:
    """Where the kernel shares the processor among sessions, nice values count within one alone: thirty left the engine 4 % of a core."""
    code = "import os, time\nbefore = os.getsid(0)\nif os.fork() == 0: os.setsid()\nassert os.getsid(0) == before\nopen('begun', 'w')\ntime.sleep(1000)"
    own = Sandbox.find()
    policy = own.policy([sys.executable, "-c", code], folder, [folder], Limits(seconds=100))
    with subprocess.Popen(launch(policy), stderr=subprocess.DEVNULL) as launcher:
        while not (folder / "begun").exists():
            time.sleep(0.01)
        groups = [Path(f"/proc/{pid}/autogroup") for pid in descendants(launcher.pid)[0] if pid in processes_in(folder)]
        assert groups
        if groups[0].exists():
            assert all("nice 19" in group.read_text() for group in groups)
        launcher.terminate()


def test_a_program_leaves_signals_to_the_other_programs_of_its_user(folder: Path) -> None:
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
    done = python(folder, code)
    assert int(done.output) <= 1_024, done.errors


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try it as another user")
def test_bounds_hold_for_an_ordinary_user_as_well() -> None:
    """Who gets no namespace of processes: a chain of forks and exits outlived its bound without end."""
    with tempfile.TemporaryDirectory(prefix="fleet-nobody-") as name:  # pytest's own folders are root's alone
        os.chown(name, 65534, 65534)
        tried = subprocess.run(
            [*python_for_others(), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={name}/tests",
             __file__, str(Path(__file__).with_name("test_sandbox.py")),
             "-k", "passes_a_bound or may_not_be_read or ordinary_work or its_owner or told_to_end or launcher_that_is_killed"],
            capture_output=True, text=True, user=65534, group=65534, extra_groups=[], cwd=ROOT, check=False,
            env={"HOME": name, "PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    assert tried.returncode == 0, tried.stdout[-3_000:] + tried.stderr[-1_000:]
    assert " skipped" not in tried.stdout


def test_a_bomb_of_forks_on_a_busy_machine_is_ended_before_it_fills_the_machine(folder: Path) -> None:
    """It outran a launcher that only looked: 30,000 processes on two busy cores, and no other program could start."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    most = 0

    def watch() -> None:
        nonlocal most
        while not ended.is_set():
            most = max(most, len(processes_in(folder)))

    ended = threading.Event()
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        done = python(folder, "import os\nwhile True:\n try: os.fork()\n except OSError: pass", processes=60)
    finally:
        ended.set()
        watching.join()
        for process in busy:
            process.kill()
            process.wait()
    assert done.stopped == "processes"
    assert most < 5_000
    assert not processes_in(folder)
