"""Processes below another one, and the files that they hold, as the kernel tells them."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress


def descendants(of: int | None = None, most: int = sys.maxsize) -> tuple[list[int], int]:
    """All processes below one, or this one, and their threads together; some of them, where they have more than `most` threads. To
    look at each of 30,000 that have ended took longer than a program had.

    One that has just lost its parent is found by the next look.
    """
    found: list[int] = []
    count = 0
    waiting = [of or os.getpid()]
    while waiting:
        pid = waiting.pop()
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        count += len(threads)
        if count > most + 1:
            break
        for thread in threads:
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as children:
                own = [int(child) for child in children.read().split()]
                found += own
                waiting += own
    return found, count - 1  # without this one


def places(pid: int) -> Iterator[str]:
    """Where a process tells of itself: its first thread, or, where that has ended and others go on, one of them."""
    yield f"/proc/{pid}"
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            yield f"/proc/{pid}/task/{thread}"


def nameless(of: int | None = None, most: int = sys.maxsize) -> dict[tuple[int, int], int]:
    """Bytes of the files without a name that are open in a process and those below it, or in those below this one: by device and number.

    A file that is removed while it is open takes its place until it is closed.
    """
    found: dict[tuple[int, int], int] = {}
    for path in descriptors(of, most):
        with suppress(OSError):
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return found


def descriptors(of: int | None = None, most: int = sys.maxsize) -> Iterator[str]:
    """Of up to `most` processes. A launcher ends all where there are more."""
    for pid in [*([of] if of else []), *descendants(of, most)[0]]:
        for place in places(pid):
            with suppress(OSError):
                if found := os.listdir(f"{place}/fd"):
                    for descriptor in found:
                        yield f"{place}/fd/{descriptor}"
                    break
