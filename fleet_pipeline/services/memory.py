"""How much memory this machine has for models, and how much of it one takes."""

import os
from pathlib import Path
from typing import NamedTuple, Self

import psutil

from fleet_pipeline.inference.gpu import GIB, gpu_memories
from fleet_pipeline.inference.options import CPU_CACHE_GIB, VllmConfig
from fleet_pipeline.models.facts import read_facts

# What an engine needs besides the weights: activations, CUDA graphs and libraries on a GPU (vLLM 0.32: 1 to 3 GiB), this
# process and its libraries on a CPU.
BESIDES_GIB = 2.0


class Memory(NamedTuple):
    """`for_weights` in bytes, and the kind of memory in words."""

    for_weights: float
    words: str

    @classmethod
    def of(cls, engine: VllmConfig) -> Self:
        if gpus := gpu_memories():
            count = min(engine.tensor_parallel_size, len(gpus))
            total = sum(memory.total for memory in gpus[:count]) * engine.gpu_memory_utilization
            return cls(total - BESIDES_GIB * GIB * count, f"{count} GPU{'s' if count > 1 else ''}")
        return cls(_of_cpu() - _cpu_cache(engine), "memory")

    def __str__(self) -> str:
        return f"{max(self.for_weights, 0) / GIB:.1f} GiB of {self.words} for weights"


def share_of_memory(config: VllmConfig, folder: Path | None) -> float:
    """The part of the machine's memory for models that the engine of `config` takes, weights and cache; 1 where it is not known.

    On GPUs it is the share that vLLM is given. `folder` holds the weights.
    """
    if gpu_memories():
        return config.gpu_memory_utilization
    if folder is None or not folder.is_dir():
        return 1.0
    return (read_facts(folder).weight_bytes + _cpu_cache(config)) / max(_of_cpu(), 1.0)


def _of_cpu() -> float:
    return float(psutil.virtual_memory().total - BESIDES_GIB * GIB)


def _cpu_cache(engine: VllmConfig) -> float:
    return (engine.cpu_kv_cache_gib or float(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or CPU_CACHE_GIB)) * GIB
