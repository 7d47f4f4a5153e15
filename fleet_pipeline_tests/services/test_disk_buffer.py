"""Parts that pass between ops come as they were put in, whether or not they fit into memory."""

import pandas as pd
import pytest

from fleet_pipeline.services.disk_buffer import DiskBuffer

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("in_memory", [1, 2**20])
def test_parts_come_in_order_as_often_as_they_are_read_and_by_two_readers_at_once(in_memory: int) -> None:
    frames = [pd.DataFrame({"text": [f"é{n}"] * n, "value": range(n)}) for n in range(5)]
    buffer = DiskBuffer((frame for frame in frames), in_memory)
    assert len(buffer) == 5
    for first, second, frame in zip(buffer, buffer, frames, strict=True):
        pd.testing.assert_frame_equal(first, frame)
        pd.testing.assert_frame_equal(second, frame)
    assert list(DiskBuffer([])) == []
