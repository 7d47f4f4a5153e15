"""Loading and freeing models: what the engine and reward models share."""

from __future__ import annotations

import gc
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from fleet_pipeline.common.errors import EngineError, ModelUnavailable
from fleet_pipeline.inference.options import CPU_CACHE_GIB, VllmConfig
from fleet_pipeline.inference.threads import Threads, are_chosen, shared_cores

Runner = Literal["generate", "pooling"]
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Grace period before the engine process is killed. It holds no state, and someone is waiting for the cancel.
SHUTDOWN_SECONDS = 2.0


def load(config: VllmConfig, runner: Runner = "generate") -> tuple[Any, Threads | None]:
    """vLLM's `LLM`, and the threads of an engine in this process where they follow the load while it generates.

    Raises `ModelUnavailable` or `EngineError`.
    """
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if config.cpu_kv_cache_gib:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(config.cpu_kv_cache_gib)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_CACHE_GIB))
    from vllm import LLM
    from vllm.platforms import current_platform

    arguments: dict[str, Any] = {}
    follow_load = False
    if current_platform.is_cpu():
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        follow_load = os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0" and not are_chosen()
        # Blocks of 32 tokens instead of 128, because a prefix is cached in whole blocks only.
        arguments = {"enforce_eager": True, "enable_chunked_prefill": False, "block_size": 32}
    if config.lora and runner == "generate":
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": lora_rank(config.lora)}
    arguments |= {
        "revision": config.revision,
        "dtype": config.dtype,
        "max_model_len": config.max_model_len or -1,
        "max_num_seqs": config.max_num_seqs,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "tensor_parallel_size": config.tensor_parallel_size,
        "quantization": config.quantization,
        "trust_remote_code": config.trust_remote_code,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        # Without this, a small model under a schema fills its answer with white space.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    try:
        llm = LLM(model=config.model, runner=runner, **(arguments | config.engine_args))
        return llm, shared_cores() if follow_load and runner == "generate" else None
    except BaseException as error:
        free()
        if isinstance(error, Exception):
            raise explain(error, config.model) from error
        raise


def lora_rank(folder: str) -> int:
    """The smallest rank that vLLM takes which holds the adapter's. Raises `ModelUnavailable`."""
    try:
        rank = int(json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))["r"])
        return next(size for size in _LORA_RANKS if size >= rank)
    except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
        raise ModelUnavailable(f"lora {folder}: its adapter_config.json names no rank up to 512 ({error!r})") from error


def shut_down(core: Any) -> None:
    """Stop an engine's processes, whatever state a crash has left it in. `free` its memory when nothing holds it."""
    with suppress(Exception):
        core.engine_core.shutdown(timeout=SHUTDOWN_SECONDS)


def free() -> None:
    from vllm.distributed import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()
    gc.collect()


def explain(error: Exception, model: str) -> EngineError:
    """An error that a person can act on. vLLM raises several types for a missing model: `_MODEL_ERRORS`."""
    detail = _reason(error)
    missing = any(base.__name__ in _MODEL_ERRORS for base in type(error).__mro__)
    if not missing:
        hint = "; its kernels do not load: `fleet doctor` says why" if "_OpNamespace" in detail else ""
        return EngineError(f"vLLM could not start with model {model!r}: {type(error).__name__}: {detail}{hint}")
    return ModelUnavailable(
        f"model {model!r} cannot be loaded: {detail}\n"
        "Name a model that is here: a local folder (--model PATH, or FLEET_ENGINE__MODEL=PATH), or a hub name "
        "reachable from this machine. To try the pipeline without a model of your own, name the demonstrator that "
        "comes with it: --model fleet-tiny (trained on synthetic text; not for real decisions)."
    )


def _reason(error: Exception) -> str:
    """What an error of vLLM says, on one line. Of pydantic's errors the first line only counts: the reason follows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and "validation error" in lines[0]:
        lines = [_NOISE.sub("", line) for line in lines[1:] if not line.startswith("For further information")]
    elif lines:
        lines = lines[:1]
    return " ".join(lines)[:2_000] or type(error).__name__


_NOISE = re.compile(r"^Value error, |\s*\[type=.*$")
_MODEL_ERRORS = {"OSError", "HFValidationError", "HfHubHTTPError", "RepositoryNotFoundError", "ConnectionError"}
