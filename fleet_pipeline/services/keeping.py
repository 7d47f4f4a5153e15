"""Stores what has been deliberated, while the engine goes on with the rest.

A deliberation's files wait for the disk 20 to 100 ms while tools write to it, and the engine stood still for that. So a thread
stores them, one after the other. Few may wait for it: a disk that is slower than the engine holds the engine up, and memory does
not grow.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from fleet_pipeline.common.errors import CorruptFile, StorageError
from fleet_pipeline.common.logs import fields
from fleet_pipeline.common.text import printable, shown
from fleet_pipeline.common.threads import give_way
from fleet_pipeline.deliberation.council import Deliberation
from fleet_pipeline.deliberation.exchange import AgentError
from fleet_pipeline.deliberation.transcript import Status, Transcript
from fleet_pipeline.inference.engine import Finished
from fleet_pipeline.services.agents import write_actions
from fleet_pipeline.services.progress import duration
from fleet_pipeline.storage.schemas import UTTERANCES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_footer
from fleet_pipeline.storage.transcripts import Provenance, write_transcript

_log = logging.getLogger(__name__)
_MOST_WAITING = 8

# What has finished, of which deliberation, and where its rows come from, by model.
Ended = tuple[Deliberation, Finished[Transcript], Mapping[str, Provenance]]


@dataclass(frozen=True)
class Kept:
    """A deliberation that has ended and is stored."""

    deliberation: Deliberation
    transcript: Transcript
    stopped: bool  # it ended because the run did
    written: bool  # False where the transcript that was there is worth more


class Keeper:
    """Stores deliberations of the run `run_id`. `kept` is called in the thread that stores, for each that is stored."""

    def __init__(self, store: Store, run_id: str, kept: Callable[[Kept], None]) -> None:
        self._store = store
        self._run_id = run_id
        self._kept = kept

    def keep_all(self, stream: Generator[Finished[Transcript]], told: Callable[[Finished[Transcript]], Ended]) -> None:
        """Store all that `stream` yields. `told` says of each what is to be stored.

        Where storing raises, or the run is stopped, the stream is: what is under way ends with what has been said, and is stored
        as far as it can be. Raises what stopped it.
        """
        waiting: deque[Future[None]] = deque()

        def look(most: int) -> None:
            while waiting and (len(waiting) > most or waiting[0].done()):
                waiting.popleft().result()

        with ThreadPoolExecutor(1, "fleet-keeper", give_way) as pool:
            try:
                for finished in stream:
                    waiting.append(pool.submit(self._keep, *told(finished)))
                    look(_MOST_WAITING)
                look(0)
            except BaseException as stop:
                with suppress(type(stop)):  # it is raised again where the stream ends
                    finished = stream.throw(stop)
                    while True:
                        pool.submit(self._keep_if_possible, *told(finished))
                        finished = next(stream)
                raise

    def _keep_if_possible(self, *ended: *Ended) -> None:
        with suppress(StorageError):
            self._keep(*ended)

    def _keep(
        self, deliberation: Deliberation, finished: Finished[Transcript], of_models: Mapping[str, Provenance]
    ) -> None:
        transcript = finished.result or Transcript(
            deliberation.id, Status.FAILED, (), f"the deliberation broke: {finished.error!r}"
        )
        stopped = any(one.error is AgentError.CANCELLED for one in transcript.utterances)
        if stopped and self._has_result(deliberation.id):
            return  # it stands, and what was heard for the next one stays in the answer log
        try:
            written = self._write(deliberation, transcript, finished, of_models)
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            # It holds what no table can. Raised here it would end the run of all, and again each time that it is resumed.
            _log.exception("%s cannot be stored", deliberation.id)
            transcript = Transcript(deliberation.id, Status.FAILED, (), shown(f"it cannot be stored: {error!r}")[:500])
            written = self._write(deliberation, transcript, finished, of_models)
        log_ended(self._run_id, transcript, finished.finished_at - finished.started_at)
        self._kept(Kept(deliberation, transcript, stopped, written))

    def _write(
        self,
        deliberation: Deliberation,
        transcript: Transcript,
        finished: Finished[Transcript],
        of_models: Mapping[str, Provenance],
    ) -> bool:
        # What was recalled was asked for earlier.
        asked = [one.completion.started_at for one in transcript.utterances if one.completion.started_at]
        return write_transcript(
            self._store,
            deliberation,
            transcript,
            of_models[deliberation.model],
            min([finished.started_at, *asked]),
            finished.finished_at,
            finished.timeout_seconds,
            of_models,
            lambda: self._write_actions(deliberation, transcript),
        )

    def _write_actions(self, deliberation: Deliberation, transcript: Transcript) -> None:
        if deliberation.toolset is not None:
            write_actions(self._store, deliberation, transcript, self._run_id)

    def _has_result(self, key: str) -> bool:
        with suppress(CorruptFile):
            footer = read_footer(self._store, UTTERANCES, key)
            return footer is not None and footer.status is Status.COMPLETED
        return False

    def keep_failed(self, deliberation: Deliberation, reason: str) -> None:
        """Store, here and now, that a deliberation could not be held. A result that is there stands."""
        now = time.time()
        transcript = Transcript(deliberation.id, Status.FAILED, (), reason)
        provenance = Provenance(deliberation.model, "", self._run_id, deliberation.fingerprint)
        write_transcript(self._store, deliberation, transcript, provenance, now, now)
        log_ended(self._run_id, transcript, 0.0)


def log_ended(run_id: str, transcript: Transcript, seconds: float) -> None:
    """Log one line for a deliberation that has ended, and one for each of its answers with an error."""
    key = transcript.deliberation_id
    ids = {"run_id": run_id, "deliberation_id": key}
    for utterance in transcript.utterances:
        if utterance.error:
            seat, phase = utterance.turn.seat.agent_id, str(utterance.turn.phase)
            log_fields = fields(**ids, agent_id=seat, phase=phase, error_type=str(utterance.error))
            why = printable(f"{utterance.error}: {utterance.error_message}")
            _log.warning("%s %s %s: %s", key, seat, phase, why, extra=log_fields)
    tokens = sum(utterance.completion.completion_tokens for utterance in transcript.utterances)
    log_fields = fields(**ids, status=str(transcript.status), seconds=round(seconds, 3), completion_tokens=tokens)
    said = f"after {duration(seconds)}, {tokens:,} tokens" if tokens else printable(transcript.error_message)
    _log.info("%s %s: %s", key, transcript.status, said, extra=log_fields)
