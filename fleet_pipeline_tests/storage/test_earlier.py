"""Results of earlier versions are read, and stand.

The files in `earlier` were written by the code of utterances 3, proposals 2, deliberations 3, judgements 2 and
scores 2: a judged council of three that said the same, so that a lot decided.
"""

import shutil
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from fleet_pipeline.cli import main
from fleet_pipeline.deliberation.rows import Evidence
from fleet_pipeline.storage.schemas import DELIBERATIONS, JUDGEMENTS, PROPOSALS, SCORES, TABLES, UTTERANCES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import TableSlice, read_file, read_rows
from fleet_pipeline_tests.support.pipeline import Pipeline, said
from fleet_pipeline_tests.support.scripted import echo

pytestmark = pytest.mark.instance

EARLIER = Path(__file__).with_name("earlier")
TIED = "tied.dev"
THEN = {name: table for name, table in TABLES.items() if (EARLIER / name).is_dir()}  # there was no table of rewards


@pytest.fixture
def storage(pipeline: Pipeline) -> Path:
    shutil.copytree(EARLIER, pipeline.storage, dirs_exist_ok=True)
    return pipeline.storage


def test_every_table_of_an_earlier_version_is_read(storage: Path) -> None:
    store = Store(str(storage))
    for table in THEN.values():
        file = read_file(store, table, TIED)
        assert file.content.schema.equals(table.schema)
        assert len(file.rows) == pq.read_metadata(storage / table.name / f"{TIED}.parquet").num_rows
        names = table.schema.names[::-1]  # of which an earlier version has not all
        assert TableSlice(store, table, [TIED]).columns(names).equals(file.content.select(names))
    assert {row.not_checked for row in read_rows(store, UTTERANCES, TIED)} == {None}
    assert {row.better for row in read_rows(store, JUDGEMENTS, TIED)} == {"equal"}
    assert read_file(store, PROPOSALS, TIED).footer.method == "judge"
    assert read_file(store, PROPOSALS, TIED).footer.diversity.duplicates == 2
    assert any(row.metric == "judge_position_consistency" for row in read_rows(store, SCORES, TIED))
    winner = next(seat for seat in read_rows(store, PROPOSALS, TIED) if seat.winner)
    assert [type(entry) for entry in winner.evidence] == [Evidence]


def test_a_winner_by_lot_that_was_a_sentence_is_data(storage: Path) -> None:
    store = Store(str(storage))
    (outcome,) = read_rows(store, DELIBERATIONS, TIED)
    assert (outcome.won_by, outcome.by_lot) == ("judge", True)
    assert sorted((seat.won_by or "", seat.by_lot) for seat in read_rows(store, PROPOSALS, TIED)) == [
        ("", False), ("", False), ("judge", True)
    ]  # fmt: skip
    explained = CliRunner().invoke(main, ["explain", TIED, "--storage", str(storage)])
    assert "won by lot: its chance to win by the judge" in explained.stdout
    assert CliRunner().invoke(main, ["show", TIED, "--storage", str(storage)]).exit_code == 0


def test_a_run_over_earlier_results_starts_no_engine_and_writes_the_tables_of_scores_anew(
    pipeline: Pipeline, storage: Path
) -> None:
    # Its prompts were others: without "always" it would be made anew.
    pipeline.configure(judge={"enabled": True}, scoring={"method": "judge"}, council={"resume": "always"})
    before = {name: (storage / name / f"{TIED}.parquet").read_bytes() for name in THEN}
    assert pipeline.run([TIED]).success
    assert pipeline.starts == 0
    after = {name: (storage / name / f"{TIED}.parquet").read_bytes() for name in THEN}
    assert {name for name in THEN if after[name] == before[name]} == {"utterances", "judgements"}
    (outcome,) = read_rows(pipeline.store, DELIBERATIONS, TIED)
    assert (outcome.won_by, outcome.by_lot) == ("judge", True)


def test_other_tools_read_a_folder_of_both_versions(pipeline: Pipeline, storage: Path) -> None:
    pipeline.answer = lambda prompt: echo(prompt) if prompt.phase != "judge" else said("no verdict")
    pipeline.run(pipeline.put("new"))
    for name in THEN:
        frame = pd.read_parquet(storage / name)
        ((rows,),) = duckdb.sql(
            f"select count(*) from read_parquet('{storage}/{name}/*.parquet', union_by_name = true)"
        ).fetchall()
        assert len(frame) == rows > 0
