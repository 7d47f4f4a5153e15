import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.storage.local_copies import LocalCopies
from fleet_pipeline.storage.store import Store

pytestmark = pytest.mark.unit

PATHS = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(st.tuples(PATHS, st.none() | st.binary(max_size=20)), max_size=30)


@given(STEPS, st.integers(0, 200))
def test_a_copy_is_what_was_put_last_or_nothing(steps: list[tuple[str, bytes | None]], most_bytes: int) -> None:
    copies, truth, used = LocalCopies(most_bytes), {}, 0
    for path, content in steps:
        if content is None:
            copies.drop(path)
            truth[path] = None
            continue
        copies.put(path, content)
        fits = used + len(content) <= most_bytes
        truth[path], used = (content, used + len(content)) if fits else (None, used)
    assert {path: copies.get(path) for path in truth} == truth


@given(STEPS)
def test_a_store_with_copies_says_what_one_without_says(steps: list[tuple[str, bytes | None]]) -> None:
    store, plain = Store("memory://copied", copies=LocalCopies()), Store("memory://copied")
    for path, content in steps:
        if content is None:
            store.delete(path)
        else:
            store.write(path, content)
        assert store.read(path) == plain.read(path) == content
        assert store.read_end(path, 3) == plain.read_end(path, 3) == (None if content is None else content[-3:])
    for path in ("a", "b"):
        if store.read(path) is not None:
            store.move(path, "d")
            assert (store.read(path), store.read("d")) == (None, plain.read("d"))
    store.delete("d")


FULL_DISK = """
import resource
from fleet_pipeline.storage.local_copies import LocalCopies
from fleet_pipeline.storage.store import Store
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store, plain = Store("memory://full", copies=LocalCopies()), Store("memory://full")
store.write("a", b"one" * 1000)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
for name, content in (("b", b"two" * 1000), ("c", b"three"), ("a", b"four")):
    store.write(name, content)
    assert store.read(name) == plain.read(name) == content
"""


def test_a_full_disk_costs_copies_and_nothing_else() -> None:
    """After a write that failed, every read of a buffered file tried that write again, and failed."""
    subprocess.run([sys.executable, "-c", FULL_DISK], check=True)
