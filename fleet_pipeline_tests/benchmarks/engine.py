"""How well the loop uses the engine, as ratios in one process on one engine.

    python -m fleet_pipeline_tests.benchmarks.engine                       # 60 councils of fleet-tiny, 5 repetitions
    python -m fleet_pipeline_tests.benchmarks.engine --councils 6 --repetitions 1

Councils are held once and recorded. From then on every way of running them replays the recording: the same prompts, seeds
and sampling, each answer forced to its recorded length and then taken from the recording. So all ways generate the same
number of tokens, which is asserted. They take turns (A B C, C B A), and the prefix cache is emptied before each.

- `loop`: `drive`, as the pipeline runs councils.
- `lockstep`: one `LLM.generate` a phase over all councils; no council goes on before the last has ended the phase. Answers
  that were asked for again follow in one of their own.
- `at once`: one `LLM.generate` over all prompts, as if no answer were needed for the next prompt. This is the limit.
- `one by one`: one call after another, as the earlier system made them of its server; of the first councils only.

`--shape` replays what fleet-tiny has said on a model of a real model's shape with random weights. (Its own answers are
noise, which is asked for again.)
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fleet_pipeline.deliberation.council import CouncilDefaults
from fleet_pipeline.deliberation.exchange import Completion, Request
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.inference.options import VllmConfig
from fleet_pipeline.inference.vllm import VllmEngine
from fleet_pipeline.models.registry import FLEET_TINY, resolve
from fleet_pipeline_tests.benchmarks.figures import Line, Spread, publish, ratios, takes_json, turns
from fleet_pipeline_tests.benchmarks.shapes import SHAPES, random_model
from fleet_pipeline_tests.support.councils import a_deliberation, a_job

CONTEXT = 4_096
MAX_TOKENS = 300
SUBJECTS = ("rate limiter", "job queue", "audit log", "search index", "feature flag store", "retry policy", "backup")


@dataclass
class Said:
    """A recorded answer, the tokens of the prompt that it was given to, and how it was sampled."""

    council: str
    phase: str
    attempt: int
    prompt: list[int]
    params: Any
    completion: Completion
    messages: list[dict[str, str]]


class Replay(VllmEngine):
    """An engine that records what it says, and once it has, gives every request its recorded answer."""

    said: dict[str, Said]  # by request name, in the order in which they were asked
    replays = False
    max_tokens = MAX_TOKENS
    names: dict[str, str]  # by request id
    step_seconds = 0.0
    # An engine in a process of its own computes outside of `step` as well, with what it holds.
    computes_outside = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "1"
    full_seconds = 0.0  # in which it computed with a full batch, or with all that could be asked
    since = 0.0
    in_flight = 0
    all_begun = False

    def submit(self, request_id: str, request: Request) -> Completion | None:
        self.names[request_id] = request.name
        self._count(self.computes_outside)
        self.in_flight += 1
        return super().submit(request_id, request)

    def _count(self, computed: bool) -> None:
        now = time.perf_counter()
        if computed and (self.in_flight >= self.config.max_num_seqs or self.all_begun):
            self.full_seconds += now - self.since
        self.since = now

    def _params(self, request: Request, room: int) -> Any:
        params = super()._params(request, room)
        if self.replays:
            return self.said[request.name].params
        council, _, phase, *_, attempt = request.name.split(" ")
        prompt, messages = self.format.encode(request.messages), [asdict(one) for one in request.messages]
        self.said[request.name] = Said(council, phase, int(attempt), prompt, params, Completion(), messages)
        return params

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        self._count(self.computes_outside)
        began = self.since
        answers = super().step(patience_seconds)
        self._count(True)
        self.step_seconds += self.since - began
        self.in_flight -= len(answers)
        for request_id, answer in answers:
            said = self.said[self.names[request_id]]
            if self.replays:
                assert answer.completion_tokens == said.completion.completion_tokens, self.names[request_id]
            else:
                said.completion = answer
        return [
            (request_id, replace(self.said[self.names[request_id]].completion, cached_tokens=answer.cached_tokens))
            for request_id, answer in answers
        ]

    def record(self, councils: int, max_tokens: int = MAX_TOKENS) -> None:
        self.said, self.names, self.replays, self.max_tokens = {}, {}, False, max_tokens
        list(self.run(_jobs(councils, max_tokens)))
        for said in self.said.values():
            params = said.params.clone()
            params.max_tokens, params.ignore_eos, params.repetition_detection = (
                said.completion.completion_tokens,
                True,
                None,
            )
            params.structured_outputs = None
            said.params = params
        self.replays = True

    def save(self, file: Path) -> None:
        """Write the recording as JSON, by request name."""
        file.write_text(
            json.dumps(
                {
                    name: {
                        "council": one.council,
                        "phase": one.phase,
                        "attempt": one.attempt,
                        "messages": one.messages,
                        "prompt": one.prompt,
                        "length": one.params.max_tokens,
                        "seed": one.params.seed,
                        "temperature": one.params.temperature,
                        "top_p": one.params.top_p,
                        "completion": asdict(one.completion),
                    }
                    for name, one in self.said.items()
                }
            )
        )

    def load(self, file: Path) -> int:
        """Replay what `save` has written. Returns how many councils it is of."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self.said, self.names, self.replays = {}, {}, True
        for name, one in json.loads(file.read_text()).items():
            params = SamplingParams(
                max_tokens=one["length"],
                seed=one["seed"],
                temperature=one["temperature"],
                top_p=one["top_p"],
                ignore_eos=True,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            completion = Completion(**one["completion"])
            self.said[name] = Said(
                one["council"], one["phase"], one["attempt"], one["prompt"], params, completion, one["messages"]
            )
        return len({one.council for one in self.said.values()})

    def forget(self) -> None:
        self.llm.reset_prefix_cache()
        self.step_seconds = self.full_seconds = 0.0
        self.since, self.in_flight, self.all_begun = time.perf_counter(), 0, False


@dataclass
class Pass:
    """What one pass took. `first` and `outside` are known of the loop only."""

    tokens_per_second: float
    first: float = 0.0  # share of the pass after which the first council had finished
    outside: float = 0.0  # seconds outside of `step` per second in it
    cached: float = 0.0  # share of the prompts' tokens
    full: float = (
        0.0  # share of the pass in which the engine computed with a full batch, or with all that could be asked
    )
    tokens: int = 0


def description(number: int) -> str:
    """A task unlike its neighbours."""
    return f"Design a {SUBJECTS[number % len(SUBJECTS)]} for {number + 2} tenants."


def _jobs(councils: int, max_tokens: int) -> list[Any]:
    defaults = CouncilDefaults(model=FLEET_TINY, sampling=Sampling(max_tokens=max_tokens))
    return [
        a_job(a_deliberation(f"t{number}", defaults=defaults, description=description(number)))
        for number in range(councils)
    ]


def loop(engine: Replay, councils: int) -> Pass:
    engine.forget()
    answers: list[Completion] = []
    began = time.perf_counter()
    first = 0.0

    def jobs() -> Iterator[Any]:
        yield from _jobs(councils, engine.max_tokens)
        engine.all_begun = True

    for _ in engine.run(jobs(), answers.append):
        first = first or time.perf_counter() - began
    seconds = time.perf_counter() - began
    tokens = sum(one.completion_tokens for one in answers)
    assert tokens == sum(one.completion.completion_tokens for one in engine.said.values())
    return Pass(
        tokens / seconds,
        first / seconds,
        (seconds - engine.step_seconds) / engine.step_seconds,
        sum(one.cached_tokens for one in answers) / sum(one.prompt_tokens for one in answers),
        engine.full_seconds / seconds,
        tokens,
    )


def _generate(engine: Replay, batches: Sequence[Sequence[Said]]) -> Pass:
    engine.forget()
    began = time.perf_counter()
    tokens = 0
    for batch in batches:
        prompts: Any = [{"prompt_token_ids": one.prompt} for one in batch]
        for output in engine.llm.generate(prompts, [one.params for one in batch], use_tqdm=False):
            tokens += len(output.outputs[0].token_ids)
    seconds = time.perf_counter() - began
    assert tokens == sum(one.completion.completion_tokens for batch in batches for one in batch)
    return Pass(tokens / seconds)


def lockstep(engine: Replay) -> Pass:
    said = list(engine.said.values())
    phases = list(dict.fromkeys(one.phase for one in said))
    batches = sorted({(phases.index(one.phase), one.attempt) for one in said})
    return _generate(
        engine, [[one for one in said if (phases.index(one.phase), one.attempt) == batch] for batch in batches]
    )


def at_once(engine: Replay) -> Pass:
    return _generate(engine, [list(engine.said.values())])


def one_by_one(engine: Replay, councils: int) -> Pass:
    first = list(dict.fromkeys(one.council for one in engine.said.values()))[:councils]
    return _generate(engine, [[one] for one in engine.said.values() if one.council in first])


def cache_limit(engine: Replay) -> float:
    """The share of prompt tokens that a cache without limit would hold, in blocks of this engine's size.

    vLLM computes at least the last token of a prompt, so a prompt never comes from the cache as a whole.
    """
    size = engine.core.vllm_config.cache_config.block_size
    seen: set[tuple[int, ...]] = set()
    held = total = 0
    for one in engine.said.values():
        total += len(one.prompt)
        prefixes = [tuple(one.prompt[:end]) for end in range(size, len(one.prompt) + 1, size)]
        known = [prefix for prefix in prefixes if prefix in seen and len(prefix) < len(one.prompt)]
        held += len(known) * size
        seen.update(prefixes)
    return held / total


def measure(
    config: VllmConfig,
    councils: int,
    few: int,
    repetitions: int,
    max_tokens: int = MAX_TOKENS,
    recording: Path | None = None,
) -> list[Line]:
    """Measure every way `repetitions` times, on a recording of `councils` councils, or else on one of the engine's own."""
    with Replay.start(config) as engine:
        assert isinstance(engine, Replay)
        if recording is None:
            engine.record(councils, max_tokens)
        else:
            engine.max_tokens = max_tokens
            engine.load(recording)
        ways = {
            "loop": lambda: loop(engine, councils),
            "lockstep": lambda: lockstep(engine),
            "at once": lambda: at_once(engine),
            "one by one": lambda: one_by_one(engine, few),
        }
        passes: dict[str, list[Pass]] = {name: [] for name in ways}
        for name in turns(list(ways), repetitions):
            passes[name].append(ways[name]())
        limit = cache_limit(engine)
    rates = {name: [one.tokens_per_second for one in found] for name, found in passes.items()}
    cached = [one.cached for one in passes["loop"]]
    return [
        Line("loop, tokens/s", Spread.of(rates["loop"])),
        Line("loop / lockstep", ratios(rates["loop"], rates["lockstep"]), "at least 1"),
        Line("loop / all prompts at once", ratios(rates["loop"], rates["at once"]), "at least 0.97"),
        Line("loop / one call after another", ratios(rates["loop"], rates["one by one"]), "at least 10"),
        Line("first outcome, share of the run", Spread.of([one.first for one in passes["loop"]]), "at most 0.3"),
        Line("seconds outside `step` per second in it", Spread.of([one.outside for one in passes["loop"]])),
        Line("share of the time with a full batch", Spread.of([one.full for one in passes["loop"]]), "at least 0.98"),
        Line("prompt tokens from the cache", Spread.of(cached)),
        Line("the same with a cache without limit", Spread.of([limit])),
        Line("cache / its limit", Spread.of([one / limit for one in cached]), "at least 0.95"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=FLEET_TINY)
    parser.add_argument("--shape", choices=SHAPES, help="replay what --model has said on a model of this shape")
    parser.add_argument("--councils", type=int, default=60)
    parser.add_argument("--few", type=int, default=12, help="councils of which calls are made one after another")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="of an answer")
    parser.add_argument("--seqs", type=int, help="engine.max_num_seqs")
    takes_json(parser)
    arguments = parser.parse_args()
    own = {"max_num_seqs": arguments.seqs} if arguments.seqs else {}
    config = VllmConfig(model=resolve(arguments.model), max_model_len=CONTEXT, **own)
    sizes = (arguments.councils, arguments.few, arguments.repetitions, arguments.max_tokens)
    if arguments.shape:
        with tempfile.TemporaryDirectory() as name:
            recording = Path(name) / "said.json"
            with Replay.start(config) as engine:
                assert isinstance(engine, Replay)
                engine.record(arguments.councils, arguments.max_tokens)
                engine.save(recording)
            model = random_model(Path(name), arguments.shape)
            lines = measure(config.model_copy(update={"model": model}), *sizes, recording)
    else:
        lines = measure(config, *sizes)
    publish(f"{arguments.councils} councils of {arguments.shape or arguments.model}", lines, arguments.json)


if __name__ == "__main__":
    main()
