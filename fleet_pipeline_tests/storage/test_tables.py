import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.common.errors import InvalidInput, StorageError
from fleet_pipeline.storage.schemas import SCHEMA_VERSIONS, TABLES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import TableSlice, read_file, read_rows, write_rows
from fleet_pipeline.storage.transcripts import Provenance, TranscriptFacts, write_transcript
from fleet_pipeline_tests.support.councils import a_deliberation, play, said

pytestmark = pytest.mark.unit

BY_TEST = Provenance(model="m", engine="scripted", run_id="r", fingerprint="f")


def store_transcripts(store: Store, count: int) -> None:
    for n in range(count):
        deliberation = a_deliberation(f"t{n}")
        write_transcript(store, deliberation, play(deliberation)[0], BY_TEST, 1.0, 2.0)


def test_a_transcript_survives_the_round_trip_with_its_facts(tmp_path: Path) -> None:
    store, deliberation = Store(str(tmp_path)), a_deliberation()
    transcript, _ = play(
        deliberation, lambda p: said(f"<think>hm</think>{p.seat.label} — ünï 漢字 🙂", cached_tokens=3)
    )
    write_transcript(store, deliberation, transcript, BY_TEST, 1.5, 2.5)
    table = read_rows(store, "utterances", "t1.dev")
    assert table.schema.equals(TABLES["utterances"])
    assert [row["text"] for row in table.to_pylist()] == [u.text for u in transcript.utterances]
    assert {row["reasoning"] for row in table.to_pylist()} == {"hm"}
    assert [row["seed"] for row in table.to_pylist()] == [u.request.seed for u in transcript.utterances]
    assert read_file(store, "utterances", "t1.dev")[1] == {
        "status": "completed", "error_message": "", "fingerprint": "f",
        "started_at": 1.5, "finished_at": 2.5, "run_id": BY_TEST.run_id, "attempt": 1, "schema_version": SCHEMA_VERSIONS["utterances"],
    }  # fmt: skip


def test_pandas_and_duckdb_read_a_folder_as_one_table(tmp_path: Path) -> None:
    store_transcripts(Store(str(tmp_path)), 3)
    frame = pd.read_parquet(tmp_path / "utterances")
    assert len(frame) == 27
    assert list(frame.columns) == TABLES["utterances"].names
    (rows, started), = duckdb.sql(
        f"select count(*), min(started_at) from read_parquet('{tmp_path}/utterances/*.parquet')"
    ).fetchall()  # fmt: skip
    assert (rows, started.astimezone(UTC)) == (27, datetime(1970, 1, 1, tzinfo=UTC))


def test_files_of_absent_values_have_the_columns_and_types_of_the_table(tmp_path: Path) -> None:
    """A column that is null in one file and text in another would break readers of the folder."""
    store = Store(str(tmp_path))
    facts = asdict(TranscriptFacts("failed", "", "f", 0.0, 1.0, "r"))
    for table, schema in TABLES.items():
        write_rows(store, table, "t1.dev", [{}], facts)
        write_rows(store, table, "t2.dev", [])
        assert read_rows(store, table, "t1.dev").schema.equals(schema)
        assert len(pd.read_parquet(tmp_path / table)) == 1


def test_a_column_the_table_does_not_declare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="proposals has no column scroe"):
        write_rows(Store(str(tmp_path)), "proposals", "t1.dev", [{"scroe": 1.0}])


def flipped(content: bytes) -> bytes:
    """The same file with its first data page turned over: its footer is whole."""
    return content[:8] + bytes(255 - byte for byte in content[8:400]) + content[400:]


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"", lambda b: b"PAR1 not really PAR1", flipped])
def test_a_torn_or_damaged_file_is_named_with_the_remedy(tmp_path: Path, damage) -> None:
    store = Store(str(tmp_path))
    store_transcripts(store, 1)
    path = tmp_path / "utterances/t0.dev.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StorageError, match=r"t0\.dev\.parquet is damaged .* delete it and run t0\.dev again"):
        read_rows(store, "utterances", "t0.dev")


def test_a_foreign_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "utterances").mkdir()
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "utterances/t0.dev.parquet")
    with pytest.raises(StorageError, match="not a file of this project"):
        read_rows(Store(str(tmp_path)), "utterances", "t0.dev")


@given(st.text(max_size=20) | st.from_regex(r"[A-Za-z0-9._/-]{0,12}\.[a-z/.]{1,6}", fullmatch=True))
def test_no_key_leads_out_of_the_storage(key: str) -> None:
    store = Store("memory://keys")
    try:
        write_rows(store, "utterances", key, [])
    except InvalidInput:
        return
    assert store.names("utterances", ".parquet").count(key) == 1


def test_a_slice_reads_a_bounded_number_of_deliberations_at_a_time_and_skips_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store_transcripts(store, 5)
    keys = ["t0.dev", "../evil", "t1.dev", "absent.dev", "t2.dev", "t3.dev", "t4.dev"]
    chunks = list(TableSlice(store, "utterances", keys).chunks(size=4))
    assert [ids for ids, _ in chunks] == [["t0.dev", "t1.dev", "absent.dev", "t2.dev"], ["t3.dev", "t4.dev"]]
    assert [table.num_rows for _, table in chunks] == [27, 18]


def test_a_file_of_another_schema_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    here = SCHEMA_VERSIONS["utterances"]
    monkeypatch.setitem(SCHEMA_VERSIONS, "utterances", here - 1)
    store_transcripts(store, 1)
    monkeypatch.undo()
    with pytest.raises(StorageError, match=f"schema version {here - 1}, here {here}"):
        read_rows(store, "utterances", "t0.dev")


READ_AND_END = """
import sys
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_rows
for _ in range(20):
    read_rows(Store(sys.argv[1]), "utterances", "t0.dev")
"""


def test_a_process_that_has_just_read_ends_cleanly(tmp_path: Path) -> None:
    """pyarrow's threaded reader aborted one process in six on its way out, after all was done."""
    store_transcripts(Store(str(tmp_path)), 1)
    codes = [subprocess.run([sys.executable, "-c", READ_AND_END, str(tmp_path)]).returncode for _ in range(20)]
    assert codes == [0] * 20


def test_every_column_says_what_it_means() -> None:
    for schema in TABLES.values():
        for column in schema:
            assert len(column.metadata[b"description"]) > 5
