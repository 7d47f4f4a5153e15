"""Processes below another one, as the kernel tells them."""

import os
from contextlib import suppress


def descendants(of: int | None = None) -> tuple[list[int], int]:
    """All processes below one, or this one, and their threads together. One that has just lost its parent is found by the next
    look."""
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
        for thread in threads:
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as children:
                own = [int(child) for child in children.read().split()]
                found += own
                waiting += own
    return found, count - 1  # without this one
