"""Processes below another one, as the kernel tells them."""

import os
import sys
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
