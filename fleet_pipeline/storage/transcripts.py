"""Transcripts and judgements as rows of the tables `utterances` and `judgements`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from fleet_pipeline.common.errors import CorruptFile
from fleet_pipeline.deliberation.council import Deliberation
from fleet_pipeline.deliberation.exchange import Completion
from fleet_pipeline.deliberation.judging import Judgement
from fleet_pipeline.deliberation.rows import JudgementRow, JudgementsFooter, TranscriptFooter, UtteranceRow
from fleet_pipeline.deliberation.task import checked_id
from fleet_pipeline.deliberation.transcript import Status, Transcript, Utterance
from fleet_pipeline.storage.answer_log import prompt_sha256
from fleet_pipeline.storage.schemas import JUDGEMENTS, UTTERANCES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import parse_file, table_path, write_rows

# What (prompt tokens, those of them from a cache, completion tokens) cost.
PriceOf = Callable[[int, int, int], float]


@dataclass(frozen=True)
class Provenance:
    """Where a row comes from, and what its engine could not check. The tables have these as columns, and the cost for
    the price.
    """

    model: str
    engine: str
    run_id: str
    fingerprint: str
    not_checked: str | None = None
    price: PriceOf | None = None

    def columns(self, completion: Completion) -> dict[str, Any]:
        tokens = completion.prompt_tokens, completion.cached_tokens, completion.completion_tokens
        own = {name: value for name, value in vars(self).items() if name != "price"}
        return own | {"cost": self.price(*tokens) if self.price else None}


def write_transcript(
    store: Store,
    deliberation: Deliberation,
    transcript: Transcript,
    provenance: Provenance,
    started_at: float,
    finished_at: float,
    timeout_seconds: float | None = None,
    of_models: Mapping[str, Provenance] = MappingProxyType({}),
    first: Callable[[], None] = lambda: None,
) -> bool:
    """Write a finished deliberation in one atomic file: rows, and their state in the footer. Returns whether it did.

    `timeout_seconds` is the deadline that was in force at its end. Two runs may race: a complete transcript that was
    made from the same inputs is never replaced by an incomplete one, or by one of fewer rounds. `of_models` has the
    provenance of what the models of a mixed council said. `first` is called before the file is written, where it is: what
    stands in other tables must be there when the transcript is.

    An earlier attempt is kept in `attempts/<deliberation_id>.<number of the attempt>.parquet`, with the same
    columns. It is copied there before it is replaced. After a crash in between, the next write copies it again.
    """
    key, path = deliberation.id, table_path(UTTERANCES, deliberation.id)
    content, number = store.read(path, fresh=True), 0
    if content is not None:
        try:
            earlier = parse_file(UTTERANCES, content, store.full_path(path)).footer
        except CorruptFile:  # torn, or of another version: kept as it is, with a suffix that readers ignore
            number = max([*attempts(store, key), *attempts(store, key, ".damaged")], default=0) + 1
            store.write(f"attempts/{checked_id(key)}.{number:03d}.damaged", content)
        else:
            same_inputs = earlier.fingerprint == provenance.fingerprint
            if same_inputs and _is_further(earlier, transcript, deliberation.rounds):
                return False
            number = earlier.attempt
            _keep_attempt(store, key, number, content)
    footer = TranscriptFooter(
        status=transcript.status,
        error_message=transcript.error_message,
        fingerprint=provenance.fingerprint,
        started_at=started_at,
        finished_at=finished_at,
        run_id=provenance.run_id,
        attempt=number + 1,
        rounds=deliberation.rounds,
        rounds_done=transcript.rounds_done,
        timeout_seconds=timeout_seconds,
    )
    rows = [
        _utterance_row(deliberation, utterance, of_models.get(utterance.request.model, provenance))
        for utterance in transcript.utterances
    ]
    first()
    write_rows(store, UTTERANCES, key, rows, footer)
    return True


def _is_further(earlier: TranscriptFooter, transcript: Transcript, rounds: int) -> bool:
    """Whether an earlier transcript is worth more."""
    if earlier.status is not Status.COMPLETED:
        return False
    done = rounds if earlier.rounds_done is None else earlier.rounds_done
    if transcript.status is Status.TIMEOUT:  # as `on_timeout` "fail" calls what "keep" had completed
        return done >= rounds or transcript.rounds_done < done
    return transcript.status is Status.FAILED or transcript.rounds_done < done


def _keep_attempt(store: Store, key: str, number: int, content: bytes) -> None:
    """Keep the transcript that is about to be replaced."""
    store.write(attempt_path(key, number), content)


def attempts(store: Store, key: str, suffix: str = ".parquet") -> list[int]:
    """The sorted numbers of a deliberation's earlier attempts that are kept."""
    numbers = (name.removeprefix(f"{key}.") for name in store.names("attempts", suffix) if name.startswith(key))
    return sorted(int(number) for number in numbers if number.isdecimal())


def attempt_path(key: str, number: int) -> str:
    return f"attempts/{checked_id(key)}.{number:03d}.parquet"


def write_judgements(
    store: Store,
    deliberation: Deliberation,
    judgements: Iterable[Judgement],
    provenance: Provenance,
    footer: JudgementsFooter,
) -> None:
    """Write one council's judgements."""
    rows = [_judgement_row(deliberation, judgement, provenance) for judgement in judgements]
    write_rows(store, JUDGEMENTS, deliberation.id, rows, footer)


def utc(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)


def _utterance_row(deliberation: Deliberation, utterance: Utterance, provenance: Provenance) -> UtteranceRow:
    turn, seat, completion = utterance.turn, utterance.turn.seat, utterance.completion
    return UtteranceRow(
        deliberation_id=deliberation.id,
        task_id=deliberation.task.task_id,
        role=deliberation.role.name,
        agent_id=seat.agent_id,
        label=seat.label,
        perspective=seat.perspective.name if seat.perspective else None,
        phase=turn.phase,
        round=turn.round,
        attempt=utterance.attempt,
        about_agent_id=turn.about.agent_id,
        self_critique=utterance.self_critique,
        text=utterance.text,
        reasoning=utterance.reasoning,
        raw_text=utterance.raw_text,
        shortened=utterance.shortened,
        error_type=utterance.error,
        error_message=utterance.error_message or None,
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        cached_tokens=completion.cached_tokens,
        completion_tokens=completion.completion_tokens,
        temperature=completion.temperature,
        mean_logprob=completion.mean_logprob,
        self_certainty=completion.self_certainty,
        tested=utterance.acted.change.tested if utterance.acted and utterance.acted.change else None,
        seed=utterance.request.seed,
        prompt_sha256=prompt_sha256(utterance.request.messages),
        started_at=utc(completion.started_at),
        finished_at=utc(completion.finished_at),
        **provenance.columns(completion),
    )


def _judgement_row(deliberation: Deliberation, judgement: Judgement, provenance: Provenance) -> JudgementRow:
    utterance, completion, verdict = judgement.utterance, judgement.utterance.completion, judgement.verdict
    return JudgementRow(
        deliberation_id=deliberation.id,
        task_id=deliberation.task.task_id,
        role=deliberation.role.name,
        first_agent_id=judgement.first.agent_id,
        second_agent_id=judgement.second.agent_id,
        repeat=judgement.repeat,
        better=verdict.better if verdict else None,
        criteria=list(judgement.criteria),
        first_marks=verdict.first_marks if verdict else None,
        second_marks=verdict.second_marks if verdict else None,
        reason=verdict.reason if verdict else None,
        raw_text=utterance.text,
        error_type=utterance.error,
        error_message=utterance.error_message or None,
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        cached_tokens=completion.cached_tokens,
        completion_tokens=completion.completion_tokens,
        temperature=completion.temperature,
        seed=utterance.request.seed,
        prompt_sha256=prompt_sha256(utterance.request.messages),
        started_at=utc(completion.started_at),
        finished_at=utc(completion.finished_at),
        **provenance.columns(completion),
    )
