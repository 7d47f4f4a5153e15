"""Threads beside the engine's."""

import os
import threading

import pytest

from fleet_pipeline.common.threads import give_way

pytestmark = pytest.mark.unit


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has such threads")
def test_a_thread_that_gives_way_does_so_alone() -> None:
    found: list[int] = []

    def work() -> None:
        give_way()
        found.append(os.sched_getscheduler(0))

    before = os.sched_getscheduler(0)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [os.SCHED_BATCH]
    assert os.sched_getscheduler(0) == before
