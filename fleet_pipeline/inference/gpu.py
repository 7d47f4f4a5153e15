"""How much memory of the machine's GPUs is taken, by whatever process: vLLM's may be another one than ours."""

from __future__ import annotations

GIB = 2**30


def gpu_memory() -> str:
    """Such as `0: 71.2 of 79.6 GiB`, GPUs with commas between; empty without a GPU or its driver."""
    try:
        import pynvml  # comes with stock vLLM
    except ImportError:
        return ""
    try:
        pynvml.nvmlInit()
        found = []
        for number in range(pynvml.nvmlDeviceGetCount()):
            memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(number))
            found.append(f"{number}: {memory.used / GIB:.1f} of {memory.total / GIB:.1f} GiB")
        pynvml.nvmlShutdown()
        return ", ".join(found)
    except pynvml.NVMLError:
        return ""
