"""Council checks: can a council's result be trusted, or should people look at it first?"""

from collections.abc import Sequence

from fleet_pipeline.deliberation.exchange import AgentError
from fleet_pipeline.deliberation.rows import OutcomeRow, ProposalRow, UtteranceRow
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.scoring.options import CouncilCheck, CouncilCheckOptions

COUNCIL_CHECKS: dict[CouncilCheck, str] = {
    "quorum": "Councils of which fewer seats answered than their quorum.",
    "schema": "Deliberations with a file that is damaged, foreign, or of a version that cannot be read.",
    "deadline": "Councils whose time was up before their last round.",
    "truncation": "Councils with more answers cut at max_tokens than truncated_above.",
    "loops": "Councils with more answers that repeated themselves than looped_above.",
    "duplicates": "Councils with proposals that repeat another one exactly.",
    "diversity": "Councils whose final proposals are nearly one: (Vendi - 1) / (proposals - 1) below diversity_below.",
    "relevance": "Councils whose proposals hardly speak of their task: mean relevance below relevance_below.",
}


def failed_checks(
    outcome: OutcomeRow,
    utterances: Sequence[UtteranceRow],
    seats: Sequence[ProposalRow],
    quorum: int | None,
    options: CouncilCheckOptions,
) -> dict[CouncilCheck, str]:
    """The checks that one council fails, and for each what was found and what to do. `quorum` is None without a task."""
    failures: dict[CouncilCheck, str] = {}
    n = sum(seat.text is not None for seat in seats)
    if quorum is not None and n < quorum:
        failures["quorum"] = (
            f"{n} seats answered, the quorum is {quorum}: run it again, with more retries or a larger timeout_seconds"
        )
    if outcome.status is Status.COMPLETED and (outcome.rounds_done or 0) < (outcome.rounds or 0):
        failures["deadline"] = (
            f"time was up after {outcome.rounds_done} of {outcome.rounds} rounds: give it more "
            "(constraints.timeout_seconds), or shorter answers (sampling.max_tokens)"
        )
    spoken = len(utterances)
    truncated = sum(one.shortened == "truncated" or one.error_type is AgentError.CUT_OFF for one in utterances)
    if spoken and truncated / spoken > options.truncated_above:
        failures["truncation"] = (
            f"{truncated} of {spoken} answers reached max_tokens: raise it, or turn a reasoning model's thinking off"
        )
    looped = sum(one.shortened == "looped" or one.error_type is AgentError.LOOPED for one in utterances)
    if spoken and looped / spoken > options.looped_above:
        failures["loops"] = (
            f"{looped} of {spoken} answers repeated themselves: a repetition_penalty of 1.1, or a larger model, may help"
        )
    if outcome.duplicates:
        failures["duplicates"] = (
            f"{outcome.duplicates} proposals repeat another: a higher temperature, or diversity = true, tells seats apart"
        )
    if n > 1 and outcome.vendi is not None:
        share = (outcome.vendi - 1) / (n - 1)
        if share < options.diversity_below:
            failures["diversity"] = (
                f"{share:.2f} of the possible diversity: a higher temperature, more perspectives, or fewer rounds"
            )
    relevance = [seat.relevance for seat in seats if seat.relevance is not None]
    mean = sum(relevance) / len(relevance) if relevance else None
    if mean is not None and mean < options.relevance_below:
        failures["relevance"] = (
            f"mean relevance {mean:.2f}: say more in the task and its requirements, or use a larger model"
        )
    return failures
