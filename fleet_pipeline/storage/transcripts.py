"""Transcripts and judgements as rows of the tables `utterances` and `judgements`."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from fleet_pipeline.common.errors import CorruptFile
from fleet_pipeline.deliberation.council import Deliberation
from fleet_pipeline.deliberation.judging import Judgement
from fleet_pipeline.deliberation.task import checked_id
from fleet_pipeline.deliberation.transcript import Status, Transcript, Utterance
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_file, table_path, write_rows


@dataclass(frozen=True)
class Provenance:
    """Where a row comes from. The tables have these as columns."""

    model: str
    engine: str
    run_id: str
    fingerprint: str


@dataclass(frozen=True)
class TranscriptFacts:
    """Facts in a transcript file's footer: the state of a transcript, readable without its rows."""

    status: str
    error_message: str
    fingerprint: str
    started_at: float
    finished_at: float
    run_id: str
    attempt: int = 1


def write_transcript(
    store: Store,
    deliberation: Deliberation,
    transcript: Transcript,
    provenance: Provenance,
    started_at: float,
    finished_at: float,
) -> None:
    """Write a finished deliberation in one atomic file: rows, and facts in the footer.

    Two runs may race: an incomplete transcript never replaces a complete one that was made from the same inputs.

    An earlier attempt is kept in `attempts/<deliberation_id>.<number of the attempt>.parquet`, with the same
    columns. It is copied there before it is replaced. After a crash in between, the next write copies it again.
    """
    if transcript.status != Status.COMPLETED and _is_complete(store, deliberation.id, provenance.fingerprint):
        return
    facts = TranscriptFacts(
        transcript.status,
        transcript.error_message,
        provenance.fingerprint,
        started_at,
        finished_at,
        provenance.run_id,
        _keep_earlier(store, deliberation.id) + 1,
    )
    shared = _shared_columns(deliberation, provenance)
    rows = [shared | _utterance_row(utterance) for utterance in transcript.utterances]
    write_rows(store, "utterances", deliberation.id, rows, asdict(facts))


def _keep_earlier(store: Store, key: str) -> int:
    """Keep a copy of the transcript that is about to be replaced. Returns its attempt number, 0 if there is none."""
    try:
        stored = read_file(store, "utterances", key)
    except CorruptFile:  # torn, or of another version: kept as it is, with a suffix that readers of the folder ignore
        number = max([*attempts(store, key), *attempts(store, key, ".damaged")], default=0) + 1
        content = store.read(table_path("utterances", key))
        store.write(f"attempts/{checked_id(key)}.{number:03d}.damaged", content or b"")
        return number
    if stored is None:
        return 0
    number = int(stored[1].get("attempt", 1))
    content = store.read(table_path("utterances", key))
    if content is not None:
        store.write(attempt_path(key, number), content)
    return number


def _is_complete(store: Store, key: str, fingerprint: str) -> bool:
    try:
        stored = read_file(store, "utterances", key)
    except CorruptFile:
        return False
    return bool(stored and (stored[1]["status"], stored[1]["fingerprint"]) == (Status.COMPLETED, fingerprint))


def attempts(store: Store, key: str, suffix: str = ".parquet") -> list[int]:
    """The sorted numbers of a deliberation's earlier attempts that are kept."""
    numbers = (name.removeprefix(f"{key}.") for name in store.names("attempts", suffix) if name.startswith(key))
    return sorted(int(number) for number in numbers if number.isdecimal())


def attempt_path(key: str, number: int) -> str:
    return f"attempts/{checked_id(key)}.{number:03d}.parquet"


def write_judgements(
    store: Store, deliberation: Deliberation, judgements: Iterable[Judgement], provenance: Provenance, judged: str
) -> None:
    """Write one council's judgements. `judged` is the fingerprint of everything they depend on."""
    shared = _shared_columns(deliberation, provenance)
    rows = [shared | _judgement_row(judgement) for judgement in judgements]
    write_rows(store, "judgements", deliberation.id, rows, {"judged": judged})


def _shared_columns(deliberation: Deliberation, provenance: Provenance) -> dict[str, Any]:
    return {
        "deliberation_id": deliberation.id,
        "task_id": deliberation.task.task_id,
        "role": deliberation.role.name,
        **asdict(provenance),
    }


def utc(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)


def _utterance_row(utterance: Utterance) -> dict[str, Any]:
    turn, seat = utterance.turn, utterance.turn.seat
    return {
        "agent_id": seat.agent_id,
        "label": seat.label,
        "perspective": seat.perspective.name if seat.perspective else None,
        "phase": str(turn.phase),
        "round": turn.round,
        "attempt": utterance.attempt,
        "about_agent_id": turn.about.agent_id,
        "self_critique": utterance.self_critique,
        "text": utterance.text,
        "reasoning": utterance.reasoning,
        "error_type": str(utterance.error) if utterance.error else None,
        "error_message": utterance.error_message or None,
        **_request_columns(utterance),
    }


def _judgement_row(judgement: Judgement) -> dict[str, Any]:
    utterance, verdict = judgement.utterance, judgement.verdict
    return {
        "first_agent_id": judgement.first.agent_id,
        "second_agent_id": judgement.second.agent_id,
        "repeat": judgement.repeat,
        **(verdict.model_dump() if verdict else {}),
        "raw_text": utterance.text,
        "error_type": str(utterance.error) if utterance.error else None,
        "error_message": utterance.error_message or None,
        **_request_columns(utterance),
    }


def _request_columns(utterance: Utterance) -> dict[str, Any]:
    request, completion = utterance.request, utterance.completion
    return {
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "cached_tokens": completion.cached_tokens,
        "completion_tokens": completion.completion_tokens,
        "temperature": completion.temperature,
        "seed": request.seed,
        "prompt_sha256": hashlib.sha256(
            json.dumps([asdict(message) for message in request.messages]).encode()
        ).hexdigest(),
        "started_at": utc(completion.started_at),
        "finished_at": utc(completion.finished_at),
    }
