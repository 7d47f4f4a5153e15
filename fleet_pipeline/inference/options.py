"""What an engine is configured with: the options of a model, and those of the machine that runs it."""

import json
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator

from fleet_pipeline.common.strict_model import StrictModel
from fleet_pipeline.deliberation.sampling import Sampling

# The cache for keys and values on a CPU, where neither `cpu_kv_cache_gib` nor VLLM_CPU_KVCACHE_SPACE says another.
CPU_CACHE_GIB = 2


class ModelOptions(StrictModel):
    """What belongs to one model, and is wrong for another. Names and meanings are vLLM's."""

    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub model.")
    dtype: str = Field(default="auto", description="auto, bfloat16, float16 or float32.")
    max_model_len: int | None = Field(
        default=None, ge=256, description="Longest prompt plus answer, in tokens; as much as fits when absent."
    )
    quantization: str | None = Field(default=None, description="For example awq, gptq or fp8.")
    trust_remote_code: bool = Field(
        default=False, description="Run code that comes with the model. Only for models you have read."
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description='Arguments of the chat template, such as {"enable_thinking": false}.'
    )
    chat_template: str | None = Field(
        default=None, min_length=1, description="A Jinja file in place of the model's own chat template."
    )
    reasoning_parser: str | None = Field(
        default=None, min_length=1, description="vLLM's parser of its reasoning; the usual marks need none."
    )
    sampling: Sampling = Field(
        default=Sampling(), description="In place of the model's generation_config; run, role and task win over it."
    )

    @field_validator("chat_template")
    @classmethod
    def _can_be_read(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                Path(value).read_text(encoding="utf-8")
            except OSError as error:
                raise ValueError(f"cannot read {value}: {error.strerror}") from None
            except UnicodeDecodeError:
                raise ValueError(f"{value} is not UTF-8 text") from None
        return value


class VllmConfig(ModelOptions):
    """How the run's model is loaded, and how any model is run."""

    model: str = Field(default="Qwen/Qwen3-0.6B", min_length=1, description="Hub name or local folder of the model.")
    max_num_seqs: int = Field(default=128, ge=1, le=4_096, description="Largest running batch, in requests.")
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1, description="Share of GPU memory vLLM may use.")
    tensor_parallel_size: int = Field(default=1, ge=1, le=64, description="GPUs to split the model over.")
    max_restarts: int = Field(
        default=5,
        ge=0,
        le=100,
        description="How often in a row an engine that dies is started again, with no deliberation finished in between.",
    )
    cpu_kv_cache_gib: int | None = Field(
        default=None, ge=1, le=1_024, description="KV cache on CPU, in GiB; VLLM_CPU_KVCACHE_SPACE, or 2, when absent."
    )

    certainty: int | None = Field(
        default=None,
        ge=0,
        le=20,
        description="Store how sure the engine is of each answer, from so many of its likeliest tokens; 0: the mean alone.",
    )

    def of(self, model: str, options: ModelOptions) -> Self:
        """The configuration of `model`, with its own `options`.

        A task's model gets none of the `ModelOptions` of the run's model. The reason: a revision, a precision and a
        chat template of one model were applied to the other, and a task could have code run that came with a model
        nobody had read.
        """
        unset = {} if model == self.model else dict(ModelOptions())
        own = {name: getattr(options, name) for name in options.model_fields_set}
        if "sampling" in own and model == self.model:
            own["sampling"] = options.sampling.over(self.sampling)
        return self.model_copy(update=unset | own | {"model": model})

    @property
    def output_options(self) -> str:
        """The options that affect a model's output, as JSON for fingerprints. Name and commit are handled elsewhere.
        An option that came later is left out where it is not set, so that fingerprints of before stand.
        """
        names = {"dtype", "quantization", "max_model_len", "chat_template_kwargs"}
        later = {
            "sampling": self.sampling.model_dump(exclude_none=True),
            "chat_template": self.template,
            "reasoning_parser": self.reasoning_parser,
        }
        return json.dumps(
            self.model_dump(include=names) | {name: value for name, value in later.items() if value}, sort_keys=True
        )

    @property
    def template(self) -> str | None:
        """The text of the Jinja file in place of the model's own chat template, if there is one. Raises `OSError`."""
        return Path(self.chat_template).read_text(encoding="utf-8") if self.chat_template else None
