"""What an engine is configured with: the options of a model, and those of the machine that runs it."""

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from fleet_pipeline.common.strict_model import StrictModel
from fleet_pipeline.deliberation.sampling import Sampling

# Arguments of vLLM's engine that the pipeline sets, and without which it would not work as it says.
_OURS = {"runner", "enable_lora", "max_lora_rank", "max_loras", "seed", "tokenizer", "skip_tokenizer_init"}
# The cache for keys and values on a CPU, where neither `cpu_kv_cache_gib` nor VLLM_CPU_KVCACHE_SPACE says another.
CPU_CACHE_GIB = 2


class Price(StrictModel):
    """What tokens cost, each per million, in a currency of your own."""

    prompt: float = Field(default=0.0, ge=0, description="Tokens of prompts.")
    cached: float | None = Field(
        default=None, ge=0, description="Those of them that came from a cache; absent, as prompt."
    )
    completion: float = Field(default=0.0, ge=0, description="Tokens generated.")

    def of(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> float:
        cached = self.prompt if self.cached is None else self.cached
        fresh = prompt_tokens - cached_tokens
        return (fresh * self.prompt + cached_tokens * cached + completion_tokens * self.completion) / 1e6


class ServerOptions(StrictModel):
    """Servers that speak OpenAI's HTTP API, all with the same model."""

    urls: tuple[str, ...] = Field(
        min_length=1, max_length=256, description="Base URLs, up to /v1; a council stays with one while it can."
    )
    weights: tuple[float, ...] = Field(
        default=(), description="How much of the work each gets, in the order of urls; absent, all the same."
    )
    api_key_env: str | None = Field(
        default=None,
        pattern="^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the key. Never the key itself.",
    )
    ca_file: str | None = Field(
        default=None,
        min_length=1,
        description="Certificates to trust besides the system's, for servers with one of your own.",
    )
    max_in_flight: int = Field(default=64, ge=1, le=4_096, description="Requests at a time, of each server.")
    tries: int = Field(
        default=8,
        ge=1,
        le=100,
        description="How often a request is sent that meets errors of servers or lost connections.",
    )
    silence_seconds: float = Field(
        default=300.0, gt=0, le=86_400, description="A server that says nothing for so long is as good as gone."
    )
    patience_seconds: float = Field(
        default=600.0,
        gt=0,
        le=86_400,
        description="How long the run waits while no server answers, or a request while all are too busy.",
    )
    tokenizer: str | None = Field(
        default=None,
        min_length=1,
        description="Folder or hub name of the model's tokenizer, where the servers have no /tokenize: for the checks of prompts.",
    )

    @field_validator("urls")
    @classmethod
    def _can_be_asked(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            parts = urlsplit(url)
            if "@" in url or parts.query or parts.fragment:
                # It goes into run records and error messages: this one, too.
                raise ValueError("a URL holds credentials or a query; name the variable with the key in api_key_env")
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{url[:200]!r}: expected a URL such as http://host:8000/v1")
        return tuple(url.rstrip("/") for url in value)

    @model_validator(mode="after")
    def _weights_and_key_fit(self) -> Self:
        if self.weights and (len(self.weights) != len(self.urls) or min(self.weights) <= 0):
            raise ValueError("weights: give one above 0 for each of urls, in their order")
        if self.api_key_env and (open_ := [url for url in self.urls if _is_open_wire(url)]):
            raise ValueError(
                f"api_key_env: {open_[0]} is not encrypted, and the key would be read on the way; use https://"
            )
        return self


def _is_open_wire(url: str) -> bool:
    """Whether others than this machine could read what is sent."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        here = ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return parts.scheme == "http" and not here


class ModelOptions(StrictModel):
    """What belongs to one model, and is wrong for another. Names and meanings are vLLM's."""

    stands_for: str | None = Field(
        default=None,
        min_length=1,
        description="Hub name or folder, or the servers' name, of the model that this name stands for; absent, the name itself.",
    )
    server: ServerOptions | None = Field(
        default=None, description="Where the model is served; absent, it is loaded into this process."
    )
    price: Price | None = Field(default=None, description="What its tokens cost; absent, costs are not counted.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub model.")
    dtype: str = Field(default="auto", description="auto, bfloat16, float16 or float32.")
    gpu_memory_utilization: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of GPU memory for this model, in place of the run's; models of a run whose shares fit stay loaded together.",
    )
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

    lora: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of a LoRA adapter of the model; of one on a server name the adapter in stands_for.",
    )
    engine_args: dict[str, Any] = Field(
        default_factory=dict,
        description="Further arguments of vLLM's engine, by its own names, such as kv_cache_dtype.",
    )

    @field_validator("engine_args")
    @classmethod
    def _have_no_option_of_their_own(cls, value: dict[str, Any]) -> dict[str, Any]:
        if own := sorted(value.keys() & (VllmConfig.model_fields.keys() - {"tensor_parallel_size"} | _OURS)):
            raise ValueError(f"{', '.join(own)}: has an option of its own, or is set by the pipeline; take it out")
        return value

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        if self.server is not None:
            if idle := [name for name in ("lora", "engine_args") if getattr(self, name)]:
                raise ValueError(
                    f"{' and '.join(idle)}: of a model on a server they belong to the server's own options"
                )
            if self.reasoning_parser and not self.server.tokenizer:
                raise ValueError(
                    "reasoning_parser: name server.tokenizer as well, or let the server split reasoning off"
                )
        return self

    @field_validator("lora")
    @classmethod
    def _is_an_adapter(cls, value: str | None) -> str | None:
        if value is not None and not Path(value, "adapter_config.json").is_file():
            raise ValueError(f"{value} has no adapter_config.json; name the folder of an adapter in PEFT's format")
        return value

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
        if options.gpu_memory_utilization is None:  # the machine's, and no model's
            unset.pop("gpu_memory_utilization", None)
            own.pop("gpu_memory_utilization", None)
        if "sampling" in own and model == self.model:
            own["sampling"] = options.sampling.over(self.sampling)
        return self.model_copy(update=unset | own | {"model": model})

    @property
    def target(self) -> str:
        """What is loaded, or asked for at the servers."""
        return self.stands_for or self.model

    @property
    def output_options(self) -> str:
        """The options that affect a model's output, as JSON for fingerprints. Name and commit are handled elsewhere.
        An option that came later is left out where it is not set, so that fingerprints of before stand.
        """
        names = {"dtype", "quantization", "max_model_len", "chat_template_kwargs"}
        later = {
            "stands_for": self.stands_for,
            "served": self.server is not None,
            "sampling": self.sampling.model_dump(exclude_none=True),
            "chat_template": self.template,
            "reasoning_parser": self.reasoning_parser,
            "engine_args": self.engine_args,
        }
        return json.dumps(
            self.model_dump(include=names) | {name: value for name, value in later.items() if value}, sort_keys=True
        )

    @property
    def template(self) -> str | None:
        """The text of the Jinja file in place of the model's own chat template, if there is one. Raises `OSError`."""
        return Path(self.chat_template).read_text(encoding="utf-8") if self.chat_template else None
