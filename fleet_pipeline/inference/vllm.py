"""The production engine: vLLM in offline batch mode, driven by its step loop. There is no server.

Prompts enter as token ids. Their lengths are therefore known before submission, and an overlong prompt
never affects other prompts.

Pitfalls that this file avoids, with the incident behind each:

- On CPU a per-request seed crashes the engine when a prompt is prefilled in chunks ("CPU Generator
  does not use offset"). Chunked prefill is off there.
- vLLM's V1 engine processes outlived a successful run by minutes and held their memory, until the
  engine was shut down explicitly. `close` does this, however the run ends.
- vLLM 0.32.0 waits forever for the answers of an engine process that was killed, because its monitor
  ends the thread that would report the end. `_watch` reports it.
- In-process engines start twice as fast (18 s against 28 to 43 s on 2 cores) and leave no process
  behind, but a crash ends the whole process. On CPU the engine runs in process. On GPUs it runs in
  vLLM's own engine process, because the exit of that process frees GPU memory.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from contextlib import suppress
from multiprocessing.connection import wait
from threading import Thread
from typing import Any, NamedTuple, Self

from fleet_pipeline.common.errors import EngineCrashed, EngineError, ModelUnavailable
from fleet_pipeline.deliberation.answers import LOOP_COUNT
from fleet_pipeline.deliberation.exchange import AgentError, Completion, Request, Result
from fleet_pipeline.inference.certainty import certainty
from fleet_pipeline.inference.chat_format import ChatFormat
from fleet_pipeline.inference.engine import (
    ALL_CHECKS,
    Finished,
    Hands,
    Job,
    OnCompletion,
    Origin,
    PromptCheck,
    ignore,
    origin_of,
)
from fleet_pipeline.inference.loading import free, load, shut_down
from fleet_pipeline.inference.loop import drive
from fleet_pipeline.inference.options import VllmConfig
from fleet_pipeline.inference.sampling import LEAST_ROOM, LOOP_TOKENS, parameters, too_long
from fleet_pipeline.inference.threads import Threads


class VllmEngine:
    """A loaded model. Create it with `VllmEngine.start` and use it as a context manager."""

    down_seconds = 0.0

    def __init__(self, config: VllmConfig) -> None:
        self.config = config
        self.checks: frozenset[PromptCheck] = ALL_CHECKS
        self.start_seconds = 0.0
        self.crashes: list[str] = []
        self.llm: Any = None
        self.core: Any = None
        self.crash: str | None = None  # reason of the last crash, until the restart
        self.threads: Threads | None = None  # of an engine in this process, where they follow the load

    @classmethod
    def start(cls, config: VllmConfig) -> VllmEngine:
        """Load the model, never a substitute. Raises `ModelUnavailable` or `EngineError`."""
        engine = cls(config)
        engine._load()
        return engine

    def _load(self) -> None:
        began = time.monotonic()
        llm, self.threads = load(self.config)
        self.llm, self.core, self.crash = llm, llm.llm_engine, None
        try:
            _watch(self.core.engine_core)
            self.format = ChatFormat(
                llm.get_tokenizer(),
                self.config.model,
                self.config.template,
                self.config.chat_template_kwargs,
                self.config.reasoning_parser,
            )
            self.checks = self.format.checks
            self.max_model_len: int = llm.model_config.max_model_len
            self.vocabulary: int = llm.model_config.get_vocab_size()
            self.lora = _lora(self.config.lora)
            own = self.config.sampling.model_dump(exclude_none=True)
            recommended = llm.model_config.get_diff_sampling_param()
            # Of a model's recommendations all but this: prompts name a length, and deadlines follow from it.
            recommended.pop("max_tokens", None)
            self.model_defaults: dict[str, Any] = recommended | own
            self.under_way: dict[str, _UnderWay] = {}  # by request id
        except BaseException:
            self.close()
            raise
        self.start_seconds += time.monotonic() - began

    def run(
        self, jobs: Iterable[Job[Result]], on_completion: OnCompletion = ignore, hands: Hands | None = None
    ) -> Generator[Finished[Result]]:
        if self.crash is not None:  # at the end of the previous run
            self.restart(self.crash)
        # Slightly more than the batch holds, so that a prompt is waiting when a slot becomes free.
        limit = self.config.max_num_seqs + 8
        return drive(
            jobs, self, max_in_flight=limit, restarts=self.config.max_restarts, on_completion=on_completion, hands=hands
        )

    def origin(self, model: str) -> Origin:
        return origin_of("vllm", self.checks)

    def submit(self, request_id: str, request: Request) -> Completion | None:
        try:
            tokens = self.format.encode(request.messages)
        except Exception as error:  # noqa: BLE001 - a template may fail on one text; other prompts must go on
            return _failed_completion(error)
        room = self.max_model_len - len(tokens)
        if room < LEAST_ROOM:
            message = too_long(len(tokens), self.max_model_len)
            return Completion(prompt_tokens=len(tokens), error=AgentError.OVERLONG, error_message=message)
        try:
            params = self._params(request, room)
            (rendered,) = self.core.renderer.render_cmpl([{"prompt_token_ids": tokens}])
        except Exception as error:  # noqa: BLE001 - as above
            return _failed_completion(error, len(tokens))
        try:
            self.core.add_request(request_id, rendered, params, lora_request=self.lora)
        except ValueError as error:  # vLLM does not accept this prompt
            return _failed_completion(error, len(tokens))
        except Exception as error:  # noqa: BLE001 - the engine has crashed; the next step raises
            self.crash = _explain_crash(error)
        self.under_way[request_id] = _UnderWay(params.temperature, self.format.opened(tokens))
        return None

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        if self.crash is None and not self._has_come(patience_seconds):
            return []
        if self.threads is not None:
            self.threads.look()
        if self.crash is None:
            try:
                outputs = self.core.step()
            except Exception as error:  # noqa: BLE001 - any exception here is a crash
                self.crash = _explain_crash(error)
        if self.crash is not None:
            raise EngineCrashed(self.crash)
        return [
            (output.request_id, self._completion(output, self.under_way.pop(output.request_id, _UnderWay())))
            for output in outputs
            if output.finished
        ]

    def _completion(self, output: Any, under_way: _UnderWay) -> Completion:
        answer = output.outputs[0]
        failed = answer.finish_reason not in ("stop", "length", "repetition")
        reasoning, text = self.format.read(answer.text)
        sure = certainty(_by_token(answer.logprobs), self.vocabulary) if answer.logprobs is not None else None
        return Completion(
            text=text,
            reasoning=reasoning,
            opened=under_way.opened,
            finish_reason=answer.finish_reason or "",
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens or 0,
            completion_tokens=len(answer.token_ids),
            temperature=under_way.temperature,
            mean_logprob=sure.mean_logprob if sure else None,
            self_certainty=sure.self_certainty if sure else None,
            error=AgentError.ENGINE if failed else None,
            error_message=f"vLLM ended the request with {answer.finish_reason!r}" if failed else "",
        )

    def _has_come(self, patience_seconds: float) -> bool:
        """Whether `core.step` can return. It waits for the engine's process for ever, which may hang."""
        answers = getattr(self.core.engine_core, "outputs_queue", None)
        if answers is None:  # an engine in this process: a step computes one token of every request
            return True
        with answers.not_empty:
            return bool(answers.queue) or answers.not_empty.wait(patience_seconds)

    def abort(self, request_ids: list[str]) -> dict[str, Completion]:
        partials: dict[str, Completion] = {}
        if not request_ids or self.core is None:
            return partials
        for request_id in request_ids:
            under_way = self.under_way.pop(request_id, _UnderWay())
            with suppress(Exception):  # whatever state a crash has left
                partials[request_id] = self._partial(request_id, under_way)
        with suppress(Exception):  # a crashed engine no longer has them
            self.core.abort_request(request_ids)
        return partials

    def _partial(self, request_id: str, under_way: _UnderWay) -> Completion:
        """What has been generated of a request.

        vLLM returns nothing for a request that is aborted. Its text stands in the request's detokenizer, in this process.
        (Asking for outputs on the way gives the same, but for the last tokens, and makes an object per request and step.)
        """
        states = self.core.output_processor
        (internal_id,) = states.external_req_ids[request_id]
        state = states.request_states[internal_id]
        reasoning, text = self.format.read(state.detokenizer.output_text)
        return Completion(
            text=text,
            reasoning=reasoning,
            opened=under_way.opened,
            prompt_tokens=0 if state.is_prefilling else state.prompt_len,
            cached_tokens=state.num_cached_tokens,
            completion_tokens=state.detokenizer.num_output_tokens(),
            temperature=under_way.temperature,
        )

    def restart(self, reason: str) -> None:
        self.crashes.append(reason)
        self.close()
        try:
            self._load()
        except ModelUnavailable as error:  # the model was available a moment ago
            raise EngineError(f"the engine died ({reason}), and could not be started again: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine's processes and free the model's memory."""
        if self.threads is not None:
            self.threads.take_back()
            self.threads = None
        if self.core is not None:
            core, self.llm, self.core = self.core, None, None
            shut_down(core)
            del core
            free()

    def _params(self, request: Request, room: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams

        chosen = parameters(request, self.model_defaults)
        chosen["max_tokens"] = min(chosen["max_tokens"], room)
        if request.schema:
            chosen["structured_outputs"] = StructuredOutputsParams(json=request.schema)
        return SamplingParams(
            **chosen,
            seed=request.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
            repetition_detection=RepetitionDetectionParams(
                min_pattern_size=LOOP_TOKENS.start, max_pattern_size=LOOP_TOKENS.stop - 1, min_count=LOOP_COUNT
            ),
            skip_special_tokens=not self.format.shows_special_tokens,
            logprobs=self.config.certainty,
            flat_logprobs=True,
        )


def _lora(folder: str | None) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name="adapter", lora_int_id=1, lora_path=folder) if folder else None


def _watch(client: Any) -> None:
    """Report to vLLM's waiting client when an engine process ends. An in-process engine has none."""
    manager = getattr(getattr(client, "resources", None), "engine_manager", None)
    if manager is None:
        return
    sentinels = [process.sentinel for process in manager.processes]

    def report_end() -> None:
        wait(sentinels)
        client.outputs_queue.put_nowait(RuntimeError("the engine's process has ended"))

    Thread(target=report_end, name="fleet-engine-watch", daemon=True).start()


def _explain_crash(error: Exception) -> str:
    detail = (str(error).strip().splitlines() or [""])[0][:300]
    return f"vLLM broke while generating: {type(error).__name__}: {detail}"


def _failed_completion(error: Exception, prompt_tokens: int = 0) -> Completion:
    message = f"{type(error).__name__}: {error}"[:500]
    return Completion(prompt_tokens=prompt_tokens, error=AgentError.ENGINE, error_message=message)


class _UnderWay(NamedTuple):
    """What is remembered of a request until its answer is there."""

    temperature: float | None = None
    opened: str | None = None


def _by_token(flat: Any) -> list[list[float]]:
    """vLLM's flat log-probabilities, by token: the sampled one's first."""
    return [flat.logprobs[start:end] for start, end in zip(flat.start_indices, flat.end_indices, strict=True)]
