"""Council checks: can a council's result be trusted, or should people look at it first?"""

from collections.abc import Sequence

from fleet_pipeline.deliberation.exchange import AgentError
from fleet_pipeline.deliberation.rows import CouncilFigures, ProposalRow, UtteranceRow
from fleet_pipeline.scoring.options import CouncilCheck, CouncilCheckOptions

COUNCIL_CHECKS: dict[CouncilCheck, str] = {
    "quorum": "Councils of which fewer seats answered than their quorum.",
    "schema": "Deliberations with a file that is damaged, foreign, or of a version that cannot be read.",
    "truncation": "Councils with more answers cut off at max_tokens than truncated_above.",
    "duplicates": "Councils with proposals that repeat another one exactly.",
    "diversity": "Councils whose final proposals are nearly one: (Vendi - 1) / (proposals - 1) below diversity_below.",
    "relevance": "Councils whose proposals hardly speak of their task: mean relevance below relevance_below.",
}


def failed_checks(
    utterances: Sequence[UtteranceRow],
    seats: Sequence[ProposalRow],
    diversity: CouncilFigures,
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
    truncated = sum(utterance.error_type is AgentError.CUT_OFF for utterance in utterances)
    if utterances and truncated / len(utterances) > options.truncated_above:
        failures["truncation"] = (
            f"{truncated} of {len(utterances)} answers reached max_tokens: raise it, or turn a reasoning model's thinking off"
        )
    if diversity.duplicates:
        failures["duplicates"] = (
            f"{diversity.duplicates} proposals repeat another: a higher temperature, or diversity = true, tells seats apart"
        )
    if n > 1 and diversity.vendi is not None:
        share = (diversity.vendi - 1) / (n - 1)
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
