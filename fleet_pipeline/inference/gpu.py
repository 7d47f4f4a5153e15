"""Memory of the machine's GPUs, and its use by all processes, because vLLM may run in a process of its own."""

from typing import NamedTuple

GIB = 2**30


class GpuMemory(NamedTuple):
    """In bytes."""

    used: int
    total: int


def gpu_memories() -> list[GpuMemory]:
    """By GPU; empty without a GPU or its driver."""
    try:
        import pynvml  # comes with stock vLLM
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
            memories = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return []
    return [GpuMemory(int(memory.used), int(memory.total)) for memory in memories]


def gpu_memory() -> str:
    """Used and total memory per GPU, such as `0: 71.2 of 79.6 GiB, 1: ...`; empty without a GPU or its driver."""
    return ", ".join(
        f"{index}: {memory.used / GIB:.1f} of {memory.total / GIB:.1f} GiB"
        for index, memory in enumerate(gpu_memories())
    )
