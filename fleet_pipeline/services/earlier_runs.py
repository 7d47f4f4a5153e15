"""The results of one run, also of one whose deliberations later runs have replaced.

What an earlier attempt said is kept (`storage.transcripts`), and its scores are not. So it is scored again, in a storage of its own that
goes afterwards, by the settings of now: two runs that are compared are scored alike. Verdicts of a judge and a reward model's ratings of it
are gone.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd

from fleet_pipeline.common.errors import CorruptFile, InvalidInput
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.task import is_deliberation_id
from fleet_pipeline.services.conclude import CouncilScorer, Rules
from fleet_pipeline.services.outcomes import write_outcome
from fleet_pipeline.services.run_report import outcome_table
from fleet_pipeline.services.score_councils import write_council
from fleet_pipeline.storage.schemas import UTTERANCES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import parse_file, table_path
from fleet_pipeline.storage.task_store import TaskStore


@contextmanager
def results_of(
    store: Store, run: str, roles: Mapping[str, Role], rules: Rules
) -> Iterator[tuple[str, Store, pd.DataFrame]]:
    """(run id, where its results are, its rows of the table `deliberations`) of the run whose id begins with `run`.

    Raises `InvalidInput` where there is none, or several.
    """
    rows = outcome_table(store)
    earlier = _attempts(store, run)
    runs = sorted({*(one for one in rows["run_id"].dropna() if one.startswith(run)), *earlier})
    if len(runs) != 1:
        why = f"several runs begin with {run}: {', '.join(runs[:5])}" if runs else f"no deliberations of run {run}"
        raise InvalidInput(f"{why} in {store.url}; `fleet status ID` names the run of a deliberation")
    (run_id,) = runs
    attempts = earlier.get(run_id, {})
    if not attempts:
        yield run_id, store, rows[rows["run_id"] == run_id]
        return
    with tempfile.TemporaryDirectory(prefix="fleet-compare-") as name:
        own = TaskStore(Store(name), roles)
        own_rows = rows.loc[rows["run_id"] == run_id, "deliberation_id"]
        kept = {key: content for key in own_rows if (content := store.read(table_path(UTTERANCES, key))) is not None}
        said = attempts | kept  # scored together, because a proposal is compared with the tasks of the others
        for key, content in said.items():
            own.store.write(table_path(UTTERANCES, key), content)
            if (task := store.read(f"tasks/{key}.json")) is not None:
                own.store.write(f"tasks/{key}.json", task)
        for council in CouncilScorer(own, list(said), rules, run_id).score(list(said)):
            write_council(own.store, council)
            write_outcome(own, council.deliberation_id, run_id, rules.checks, council)
        yield run_id, own.store, outcome_table(own.store)


def _attempts(store: Store, run: str) -> dict[str, dict[str, bytes]]:
    """What runs whose ids begin with `run` said and later ones replaced: by run id, then by deliberation, the last attempt of each."""
    found: dict[str, dict[str, bytes]] = {}
    for name in store.names("attempts", ".parquet"):  # sorted: the last attempt of a deliberation comes last
        key, _, number = name.rpartition(".")
        content = store.read(f"attempts/{name}.parquet") if number.isdecimal() and is_deliberation_id(key) else None
        if content is None:
            continue
        with suppress(CorruptFile):
            run_id = parse_file(UTTERANCES, content, str(Path(store.url, name))).footer.run_id
            if run_id.startswith(run):
                found.setdefault(run_id, {})[key] = content
    return found
