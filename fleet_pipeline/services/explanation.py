"""Why a deliberation came out as it did, in words, from all that is stored of it."""

from contextlib import suppress
from dataclasses import dataclass

from fleet_pipeline.common.errors import CorruptFile
from fleet_pipeline.deliberation.rows import OutcomeRow, ProposalRow, ProposalsFooter
from fleet_pipeline.scoring.explain import explain
from fleet_pipeline.storage.schemas import JUDGEMENTS, PROPOSALS, SCORES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_file, read_rows


@dataclass(frozen=True)
class Explanation:
    """`lines` of text, and the proposals that they are about. `scoring` says how they were scored, if they were."""

    lines: list[str]
    seats: list[ProposalRow]
    scoring: ProposalsFooter | None


def explanation(store: Store, outcome: OutcomeRow) -> Explanation:
    """Of a stored outcome. Raises `CorruptFile`."""
    key = outcome.deliberation_id
    proposals = read_file(store, PROPOSALS, key)
    seats, scoring = (proposals.rows, proposals.footer) if proposals else ([], None)
    lines = explain(outcome, seats, scoring, read_rows(store, SCORES, key), marked_by_judge(store, key))
    return Explanation(lines, seats, scoring)


def marked_by_judge(store: Store, key: str) -> list[str]:
    """The criteria that a judge gave marks for."""
    with suppress(CorruptFile):  # the scores that were made from it stand all the same
        return next((row.criteria for row in read_rows(store, JUDGEMENTS, key)), [])
    return []
