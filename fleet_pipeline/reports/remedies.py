"""What to do about a deliberation that did not complete, in one sentence."""

from collections import Counter
from collections.abc import Iterable

from fleet_pipeline.deliberation.exchange import AgentError
from fleet_pipeline.deliberation.rows import OutcomeRow
from fleet_pipeline.deliberation.transcript import Status

GOES_ON = "what was said is kept, and the next run goes on from there"
_REMEDIES = {
    AgentError.OVERLONG: "shorten the task or its context, or take a model with a longer one (engine.max_model_len)",
    AgentError.EMPTY: "raise engine.sampling.max_tokens, where a model thinks at length, or take another model",
    AgentError.CUT_OFF: "raise engine.sampling.max_tokens, or ask for less",
    AgentError.LOOPED: "take another model, or raise engine.sampling.repetition_penalty",
    AgentError.ENGINE: "mend what the engine names, and ask again",
    AgentError.CANCELLED: f"ask again: {GOES_ON}",
    AgentError.FATAL: "ask another model or server: the engine dies of this one",
}


def remedy(row: OutcomeRow, errors: Iterable[AgentError | str | None]) -> str:
    """What to do about `row`, or "" where it completed, or where its message says so. `errors` are those of its answers."""
    if row.status is Status.COMPLETED:
        return ""
    if row.status is Status.TIMEOUT:
        return f"ask again with more time: the job `ask_again`, timeout_seconds; or in the backlog; {GOES_ON}"
    found = Counter(AgentError(error) for error in errors if error)
    return _REMEDIES.get(found.most_common(1)[0][0], "") if found else ""
