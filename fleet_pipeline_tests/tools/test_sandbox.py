"""The sandbox: what it gives, how it ends, and what it says where it cannot work."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fleet_pipeline.common.errors import Refused, SandboxUnavailable
from fleet_pipeline.tools.sandbox import landlock, launcher as launcher_module, sandbox as sandbox_module
from fleet_pipeline.tools.sandbox.policy import Limits
from fleet_pipeline.tools.sandbox.sandbox import Outcome, Sandbox, end_programs_of, launch, may_run_programs
from fleet_pipeline_tests.support.tool_world import processes_in, python, run

pytestmark = pytest.mark.unit


def test_a_program_gets_its_input_and_gives_its_output_errors_and_exit_code(folder: Path) -> None:
    done = run(folder, "sh", "-c", "cat; echo wrong >&2; exit 7", stdin=b"hello")
    assert (done.output, done.errors, done.code, done.ok, done.stopped) == (b"hello", b"wrong\n", 7, False, None)
    assert python(folder, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").code == -signal.SIGSEGV


def test_its_environment_is_clean_and_its_folder_its_own(folder: Path) -> None:
    done = run(folder, "env")
    assert sorted(line.split(b"=")[0] for line in done.output.split()) == [b"HOME", b"LANG", b"PATH", b"TMPDIR"]
    assert run(folder, "pwd").output.decode().strip() == str(folder)


def test_ordinary_work_is_not_in_its_way(folder: Path) -> None:
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
    done = python(folder, code)
    assert done.output == b"all\n", done.errors


def test_a_program_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program is not installed here"):
        run(folder, "no-such-program")


def test_calls_from_many_threads_do_not_see_each_other(folder: Path) -> None:
    said: dict[int, bytes] = {}

    def call(number: int) -> None:
        said[number] = run(folder, "sh", "-c", f"sleep 0.1; echo {number}").output

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {number: f"{number}\n".encode() for number in range(16)}


def test_a_program_ends_with_its_owner_also_when_that_is_killed(folder: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom fleet_pipeline.tools.sandbox.policy import Limits\n"
        "from fleet_pipeline.tools.sandbox.sandbox import Sandbox\nown = Sandbox.find(); p = Path(sys.argv[1])\n"
        "own.run(own.policy(['sh', '-c', 'touch begun; (sleep 1000; touch ended) & sleep 1000'], p, [p], Limits(seconds=900)))\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    while not (folder / "begun").exists():
        time.sleep(0.01)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    while processes_in(folder):
        time.sleep(0.01)
    assert not (folder / "ended").exists()


def test_a_launcher_that_is_told_to_end_ends_its_program_first(folder: Path) -> None:
    own = Sandbox.find()
    policy = own.policy(
        ["sh", "-c", "touch begun; (trap '' TERM; setsid sleep 1000) & sleep 1000"],
        folder,
        [folder],
        Limits(seconds=900),
    )
    launcher = subprocess.Popen(launch(policy), stderr=subprocess.PIPE)
    while not (folder / "begun").exists():
        time.sleep(0.01)
    launcher.terminate()
    _, said = launcher.communicate()
    assert b'"stopped": "owner"' in said
    assert not processes_in(folder)


def test_a_launcher_that_is_killed_takes_all_with_it(folder: Path) -> None:
    """By the kernel, where memory is short."""
    own = Sandbox.find()
    policy = own.policy(
        ["sh", "-c", "touch begun; setsid sleep 1000 & sleep 1000"], folder, [folder], Limits(seconds=900)
    )
    launcher = subprocess.Popen(launch(policy))
    while not (folder / "begun").exists():
        time.sleep(0.01)
    launcher.kill()
    launcher.wait()
    while processes_in(folder):
        time.sleep(0.01)


def test_a_launcher_whose_owner_has_gone_before_it_began_starts_nothing(folder: Path) -> None:
    """It asked for its parent after its start, and found whoever had taken it: its program went on without an end."""
    own = Sandbox.find()
    command = launch(own.policy(["touch", "begun"], folder, [folder], Limits(seconds=20)))
    assert command[-1] == str(os.getpid())
    assert subprocess.run([*command[:-1], "1"], capture_output=True, check=True).stderr == b""
    assert not (folder / "begun").exists()
    subprocess.run(command, capture_output=True, check=True)
    assert (folder / "begun").exists()


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
    monkeypatch: pytest.MonkeyPatch, folder: Path
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
        own.run(Sandbox.find().policy(["true"], folder, [folder], Limits()))


def test_a_layer_that_does_not_hold_is_found_out_by_trying_it(folder: Path) -> None:
    """As where a container's filter lets Landlock's calls fail: the program must not run."""
    bare = Sandbox(False, None, "nothing")
    assert "could read what is not its own" in sandbox_module._fault(bare)
    wrong = Sandbox(True, "/bin/false", "landlock+bubblewrap")
    assert sandbox_module._fault(wrong)


def test_a_program_is_not_begun_in_a_thread_whose_call_has_been_given_up(folder: Path) -> None:
    """Between a call's record and its program's start there was nothing to end: the program went on to the end of its time."""
    thread = threading.get_ident()
    end_programs_of(thread)
    try:
        with pytest.raises(Refused, match="given up"):
            python(folder, "open('begun', 'w')")
    finally:
        may_run_programs(thread)
    assert not (folder / "begun").exists()
    assert python(folder, "open('begun', 'w')").ok


def test_a_program_whose_launcher_missed_that_it_is_to_end_is_ended_all_the_same(folder: Path) -> None:
    """Whatever became of the first signal: one that was sent before there was a launcher had no effect."""
    done: list[Outcome] = []
    calling = threading.Thread(
        target=lambda: done.append(python(folder, "import time; open('begun', 'w'); time.sleep(1000)", seconds=900))
    )
    calling.start()
    while not (folder / "begun").exists():
        time.sleep(0.01)
    assert calling.ident
    sandbox_module._stopped.add(calling.ident)  # without a signal
    calling.join()
    may_run_programs(calling.ident)
    assert [one.stopped for one in done] == ["owner"]


def test_a_call_that_is_given_up_while_its_launcher_starts_is_told_as_that(folder: Path) -> None:
    """A launcher that does not wait for signals yet ends by them and tells nothing, which was told as "the launcher broke"."""
    said: list[str] = []

    def call() -> None:
        try:
            said.append(python(folder, "import time; time.sleep(1000)", seconds=900).end)
        except Refused as error:
            said.append(str(error))

    for number in range(8):
        calling = threading.Thread(target=call)
        calling.start()
        while calling.ident not in sandbox_module._running:
            time.sleep(0.001)
        time.sleep(0.005 * number)
        assert calling.ident
        end_programs_of(calling.ident)
        calling.join()
        may_run_programs(calling.ident)
    assert len(said) == 8
    assert all("given up" in one for one in said), said
