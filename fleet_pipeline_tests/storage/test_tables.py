import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from fleet_pipeline.common.errors import CorruptFile, InvalidInput, StorageError
from fleet_pipeline.deliberation.rows import NoFooter, Seconds, TranscriptFooter
from fleet_pipeline.deliberation.transcript import Status, Transcript
from fleet_pipeline.storage.local_copies import LocalCopies
from fleet_pipeline.storage.schemas import SCORES, TABLES, UTTERANCES, Table
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import TableSlice, parse_file, read_file, read_footer, read_rows, rows_of, write_rows
from fleet_pipeline.storage.transcripts import Provenance, write_transcript
from fleet_pipeline_tests.support.councils import a_deliberation, play, said
from fleet_pipeline_tests.support.rows import a_footer, an_utterance

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
    rows = read_rows(store, UTTERANCES, "t1.dev")
    assert [row.text for row in rows] == [u.text for u in transcript.utterances]
    assert {row.reasoning for row in rows} == {"hm"}
    assert [row.seed for row in rows] == [u.request.seed for u in transcript.utterances]
    footer = TranscriptFooter(
        status=Status.COMPLETED, error_message="", fingerprint="f", started_at=1.5, finished_at=2.5,
        run_id=BY_TEST.run_id, attempt=1, rounds=1, rounds_done=1,
    )  # fmt: skip
    assert read_footer(store, UTTERANCES, "t1.dev") == footer
    assert read_file(store, UTTERANCES, "t1.dev").footer == footer


def test_pandas_and_duckdb_read_a_folder_as_one_table(tmp_path: Path) -> None:
    store_transcripts(Store(str(tmp_path)), 3)
    frame = pd.read_parquet(tmp_path / "utterances")
    assert len(frame) == 27
    assert list(frame.columns) == UTTERANCES.schema.names
    (rows, started), = duckdb.sql(
        f"select count(*), min(started_at) from read_parquet('{tmp_path}/utterances/*.parquet')"
    ).fetchall()  # fmt: skip
    assert (rows, started.astimezone(UTC)) == (27, datetime(1970, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@given(st.data())
@settings(max_examples=30)
def test_whatever_rows_and_footer_a_table_can_have_are_read_back(table: Table, data: st.DataObject) -> None:
    rows = data.draw(st.lists(rows_for(table.row), max_size=3))
    footer = data.draw(rows_for(table.footer))
    store = Store(f"memory://rows-{table.name}")
    write_rows(store, table, "t1.dev", rows, footer)
    assert read_rows(store, table, "t1.dev") == rows
    assert read_footer(store, table, "t1.dev") == footer
    # A column that is null in one file and text in another would break readers of the folder.
    assert read_file(store, table, "t1.dev").content.schema.equals(table.schema)


def rows_for(kind: type) -> st.SearchStrategy:
    """Rows with any values, but for what Parquet and JSON cannot hold: surrogates, NaN, and moments far from now."""
    texts = st.text(st.characters(codec="utf-8"), max_size=20)
    moments = st.integers(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    plain = {str: texts, datetime: moments, float: numbers, int: st.integers(-(2**63), 2**63 - 1)}
    hints = get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{field.name: _values(hints[field.name], plain) for field in fields(kind)})


def _values(hint: Any, plain: dict[type, st.SearchStrategy]) -> st.SearchStrategy:
    if hint is Seconds:
        return st.floats(0, 2**33)
    if get_origin(hint) is Annotated:
        return _values(get_args(hint)[0], plain)
    if hint in plain:
        return plain[hint]
    if get_origin(hint) in (UnionType, Union):
        return st.one_of(*(_values(option, plain) for option in get_args(hint)))
    if get_origin(hint) is list:
        return st.lists(_values(get_args(hint)[0], plain), max_size=2)
    if get_origin(hint) is Mapping:
        return st.dictionaries(plain[str], plain[float], max_size=3)
    if is_dataclass(hint):
        return rows_for(hint)
    return st.from_type(hint)


def flipped(content: bytes) -> bytes:
    """The same file with its first data page turned over: its footer is whole."""
    return content[:8] + bytes(255 - byte for byte in content[8:400]) + content[400:]


def test_a_value_that_its_column_cannot_have_is_refused_when_it_is_written(tmp_path: Path) -> None:
    """It would be read as damage, and nothing would ever be made anew."""
    with pytest.raises(ValueError, match=r"table utterances, t1\.dev: 0\.finish_reason: must be a text"):
        write_rows(Store(str(tmp_path)), UTTERANCES, "t1.dev", [an_utterance(finish_reason=None)], a_footer())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"started_at": 1e300}, {"finished_at": -1e18}, {"schema_version": 4.0}])
def test_a_footer_that_nobody_can_use_is_damage(tmp_path: Path, changes: dict) -> None:
    store = Store(str(tmp_path))
    store_transcripts(store, 1)
    rows = pq.read_table(tmp_path / "utterances/t0.dev.parquet")
    facts = json.dumps(json.loads(rows.schema.metadata[b"fleet"]) | changes)
    pq.write_table(rows.replace_schema_metadata({b"fleet": facts}), tmp_path / "utterances/t0.dev.parquet")
    for read in (read_rows, read_footer):
        with pytest.raises(CorruptFile):
            read(store, UTTERANCES, "t0.dev")


@pytest.mark.parametrize("damage", [flipped, lambda content: content[:-100]])
def test_a_damaged_transcript_is_replaced_and_kept_whatever_its_footer_says(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """A footer that said "completed" kept the file, and what was said anew was dropped."""
    store, deliberation = Store(str(tmp_path)), a_deliberation()
    write_transcript(store, deliberation, play(deliberation)[0], BY_TEST, 1.0, 2.0)
    path = tmp_path / "utterances/t1.dev.parquet"
    path.write_bytes(damage(path.read_bytes()))
    late = Transcript(deliberation.id, Status.TIMEOUT, (), "300 s are over")
    write_transcript(store, deliberation, late, BY_TEST, 3.0, 4.0)
    assert read_footer(store, UTTERANCES, "t1.dev").status is Status.TIMEOUT
    assert [file.name for file in (tmp_path / "attempts").iterdir()] == ["t1.dev.001.damaged"]


def test_what_another_run_wrote_is_kept_as_an_attempt_whatever_copies_this_run_has() -> None:
    deliberation = a_deliberation()
    mine, theirs = Store("memory://attempts", copies=LocalCopies()), Store("memory://attempts")
    failed = Transcript(deliberation.id, Status.FAILED, (), "mine")
    write_transcript(mine, deliberation, failed, BY_TEST, 1.0, 2.0)
    write_transcript(theirs, deliberation, play(deliberation)[0], replace(BY_TEST, fingerprint="g"), 1.0, 2.0)
    write_transcript(mine, deliberation, failed, BY_TEST, 1.0, 2.0)
    kept = [parse_file(UTTERANCES, theirs.read(f"attempts/t1.dev.00{n}.parquet"), "").footer.status for n in (1, 2)]
    assert kept == [Status.FAILED, Status.COMPLETED]


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"", lambda b: b"PAR1 not really PAR1", flipped])
def test_a_torn_or_damaged_file_is_named_with_the_remedy(tmp_path: Path, damage) -> None:
    store = Store(str(tmp_path))
    store_transcripts(store, 1)
    path = tmp_path / "utterances/t0.dev.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StorageError, match=r"t0\.dev\.parquet is damaged .* delete it and run t0\.dev again"):
        read_rows(store, UTTERANCES, "t0.dev")


def test_a_footer_is_read_without_its_rows(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store_transcripts(store, 1)
    path = tmp_path / "utterances/t0.dev.parquet"
    path.write_bytes(flipped(path.read_bytes()))
    assert read_footer(store, UTTERANCES, "t0.dev").status is Status.COMPLETED
    assert read_footer(store, UTTERANCES, "absent.dev") is None


def test_a_footer_that_is_longer_than_what_is_read_at_first_is_read_whole(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    long = a_footer(error_message="why " * 100_000)
    write_rows(store, UTTERANCES, "t0.dev", [], long)
    assert read_footer(store, UTTERANCES, "t0.dev") == long


def test_a_foreign_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "utterances").mkdir()
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "utterances/t0.dev.parquet")
    with pytest.raises(StorageError, match="not a file of this project"):
        read_rows(Store(str(tmp_path)), UTTERANCES, "t0.dev")


@given(st.text(max_size=20) | st.from_regex(r"[A-Za-z0-9._/-]{0,12}\.[a-z/.]{1,6}", fullmatch=True))
def test_no_key_leads_out_of_the_storage(key: str) -> None:
    store = Store("memory://keys")
    try:
        write_rows(store, SCORES, key, [], NoFooter())
    except InvalidInput:
        return
    assert store.names("scores", ".parquet").count(key) == 1


def test_a_slice_reads_a_bounded_number_of_deliberations_at_a_time_and_skips_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store_transcripts(store, 5)
    keys = ["t0.dev", "../evil", "t1.dev", "absent.dev", "t2.dev", "t3.dev", "t4.dev"]
    chunks = list(TableSlice(store, UTTERANCES, keys).chunks(size=4))
    assert [list(files) for files in chunks] == [["t0.dev", "t1.dev", "absent.dev", "t2.dev"], ["t3.dev", "t4.dev"]]
    assert [rows_of(UTTERANCES, files.values()).num_rows for files in chunks] == [27, 18]


def test_columns_of_many_files_are_those_of_whole_rows_and_a_damaged_file_has_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store_transcripts(store, 3)
    (tmp_path / "utterances/t1.dev.parquet").write_bytes(b"PAR1 torn")
    found = TableSlice(store, UTTERANCES, ["t0.dev", "../evil", "t1.dev", "absent.dev", "t2.dev"])
    names = ["text", "deliberation_id", "started_at"]
    [files] = found.chunks()
    assert found.columns(names).equals(rows_of(UTTERANCES, files.values()).select(names))
    assert TableSlice(store, UTTERANCES, []).columns(names).schema.names == names


def test_a_file_of_a_version_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store_transcripts(store, 1)
    rows = pq.read_table(tmp_path / "utterances/t0.dev.parquet")
    for version in (UTTERANCES.version + 1, 1, "4", None):
        facts = json.loads(rows.schema.metadata[b"fleet"]) | {"schema_version": version}
        pq.write_table(
            rows.replace_schema_metadata({b"fleet": json.dumps(facts)}), tmp_path / "utterances/t0.dev.parquet"
        )
        for read in (read_rows, read_footer):
            with pytest.raises(StorageError, match=f"schema version {version}, here {UTTERANCES.version}"):
                read(store, UTTERANCES, "t0.dev")


READ_AND_END = """
import sys
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.schemas import UTTERANCES
from fleet_pipeline.storage.tables import read_rows
for _ in range(20):
    read_rows(Store(sys.argv[1]), UTTERANCES, "t0.dev")
"""


def test_a_process_that_has_just_read_ends_cleanly(tmp_path: Path) -> None:
    """pyarrow's threaded reader aborted one process in six on its way out, after all was done."""
    store_transcripts(Store(str(tmp_path)), 1)
    codes = [subprocess.run([sys.executable, "-c", READ_AND_END, str(tmp_path)]).returncode for _ in range(20)]
    assert codes == [0] * 20


def test_every_column_says_what_it_means() -> None:
    for table in TABLES.values():
        for column in table.schema:
            assert len(column.metadata[b"description"]) > 5
