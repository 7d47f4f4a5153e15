import io
import json
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from fleet_pipeline.storage.export import export
from fleet_pipeline.storage.schemas import PROPOSALS, TABLES, TableName
from fleet_pipeline.storage.store import Store
from fleet_pipeline_tests.support.pipeline import Pipeline

pytestmark = pytest.mark.instance


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import dagster as dg

    folder = tmp_path_factory.mktemp("full")
    with dg.instance_for_test() as instance:
        pipeline = Pipeline(instance, folder)
        pipeline.run(pipeline.put("a", "b", "c", constraints={"requirements": ["a seed, or none"]}))
    return folder


@pytest.mark.parametrize("table", ["deliberations", "proposals", "utterances", "scores"])
def test_every_format_says_the_same_as_the_folder(full: Path, tmp_path: Path, table: TableName) -> None:
    store = Store(str(full))
    keys = store.names(table, ".parquet")
    rows = {export(store, TABLES[table], keys, form, tmp_path / f"x.{form}")[0] for form in ("parquet", "jsonl", "csv")}
    folder = pd.read_parquet(full / table)
    assert rows == {len(folder)}
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "x.parquet"), folder)
    assert duckdb.sql(f"select count(*) from read_csv('{tmp_path}/x.csv')").fetchall() == [(len(folder),)]
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [TABLES[table].schema.names] * len(folder)
    assert [line["deliberation_id"] for line in lines] == folder["deliberation_id"].tolist()
    if table == "proposals":
        in_csv = pd.read_csv(tmp_path / "x.csv")
        assert in_csv["text"].tolist() == folder["text"].tolist()
        assert json.loads(in_csv["evidence"][0])[0]["point"] == "a seed, or none"


def test_a_torn_file_costs_itself_alone(full: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for name in ("a", "b"):
        store.write(f"proposals/{name}.dev.parquet", (full / f"proposals/{name}.dev.parquet").read_bytes())
    store.write("proposals/torn.dev.parquet", b"PAR1 and no more")
    out = io.BytesIO()
    rows, damaged = export(store, PROPOSALS, store.names("proposals", ".parquet"), "jsonl", out)
    assert (rows, set(damaged)) == (6, {"torn.dev"})
    assert len(out.getvalue().splitlines()) == 6


def test_a_file_that_cannot_be_finished_is_not_there(full: Path, tmp_path: Path) -> None:
    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        export(Store(str(full)), PROPOSALS, ["a.dev"], "csv", tmp_path / "x.csv", full_disk)
    assert list(tmp_path.iterdir()) == []
