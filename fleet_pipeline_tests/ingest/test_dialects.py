"""Other people's files: what is accepted is what was written, what is not is refused with its line, and neighbours go on."""

import codecs
import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.ingest.backlog import Backlog, read_backlog
from fleet_pipeline.ingest.columns import BacklogOptions

pytestmark = pytest.mark.unit


def read(path: Path, content: str | bytes, **options: Any) -> Backlog:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_backlog(str(path), BUILT_IN_ROLES, BacklogOptions(**options))


def texts(backlog: Backlog) -> dict[str, str]:
    return {task.task_id: task.description for task in backlog.tasks}


def refused(backlog: Backlog) -> list[tuple[int, str]]:
    return [(refusal.line, refusal.field) for refusal in backlog.refused]


# CSV


def test_a_quote_that_is_never_closed_costs_its_own_row(tmp_path: Path) -> None:
    """The rows after it vanished inside its text, and the exit code was 0."""
    backlog = read(
        tmp_path / "b.csv", 'task_id,description\nlock,"Fix the lock\npaper,Order\npump,"Repair it"\nlamp,Change\n'
    )
    assert texts(backlog) == {"paper": "Order", "pump": "Repair it", "lamp": "Change"}
    assert refused(backlog) == [(2, "(whole line)")]
    at_the_end = read(tmp_path / "c.csv", 'task_id,description\npaper,Order\nlock,"Fix the lock\n')
    assert (texts(at_the_end), refused(at_the_end)) == ({"paper": "Order"}, [(3, "(whole line)")])
    assert "a quote is opened and not closed" in at_the_end.refused[0].error


def test_a_backslash_is_no_way_to_write_a_quote_and_changes_no_text(tmp_path: Path) -> None:
    backlog = read(tmp_path / "b.csv", 'task_id,description\nlock,"Fix the \\"front\\" lock"\npump,Repair\n')
    assert (texts(backlog), refused(backlog)) == ({"pump": "Repair"}, [(2, "(whole line)")])
    assert 'write "" for a quote inside a cell' in backlog.refused[0].error


def test_of_spark_s_csv_the_rows_with_a_quote_are_refused_and_the_others_run(tmp_path: Path) -> None:
    """Spark writes a backslash before a quote unless it is told not to: `.option("escape", '"')`."""
    out = io.StringIO(newline="")
    spark = csv.writer(out, doublequote=False, escapechar="\\", lineterminator="\n")
    spark.writerows([["task_id", "description"], ["a", 'the "front" lock, now'], ["b", "two,\nlines"], ["c", "plain"]])
    backlog = read(tmp_path / "b.csv", out.getvalue())
    assert texts(backlog) == {"b": "two,\nlines", "c": "plain"}
    assert refused(backlog) == [(2, "(whole line)")]


def test_a_quote_within_a_plain_cell_is_text(tmp_path: Path) -> None:
    assert texts(read(tmp_path / "b.csv", 'task_id,description\npipe,A 5" pipe\n')) == {"pipe": 'A 5" pipe'}


@pytest.mark.parametrize(
    "content",
    [
        "task_id,description,\r\nlock,Fix the lock,\r\npaper,Order,\r\n",
        "task_id,description,,\r\nlock,Fix the lock,,\r\npaper,Order,,\r\n,,,\r\n",
        "task_id,description\r\nlock,Fix the lock,,\r\n,\r\npaper,Order,,\r\n",
        "Task_ID, Description \nlock, Fix the lock\npaper, Order\n",
        'task_id, description\nlock, "Fix the lock"\npaper, Order\n',
        "\ufefftask_id,description\nlock,Fix the lock\npaper,Order\n",
        "task_id;description\nlock;Fix the lock\npaper;Order\n",
        "task_id\tdescription\nlock\tFix the lock\npaper\tOrder\n",
        "sep=;\ntask_id;description\nlock;Fix the lock\npaper;Order\n",
        "\n\n# made by hand\n\ntask_id,description\n\nlock,Fix the lock\n\npaper,Order\n",
        "task_id,description\rlock,Fix the lock\rpaper,Order\r",
        '"task_id","description"\n"lock","Fix the lock"\n"paper","Order"\n',
    ],
)  # fmt: skip
def test_csv_as_spreadsheets_write_it(tmp_path: Path, content: str) -> None:
    for name, written in (("b.csv", content.encode()), ("c.csv", content.encode("utf-16"))):
        backlog = read(tmp_path / name, written)
        assert (texts(backlog), backlog.refused) == ({"lock": "Fix the lock", "paper": "Order"}, [])


def test_a_cell_under_no_name_is_refused_and_says_which(tmp_path: Path) -> None:
    backlog = read(tmp_path / "b.csv", "task_id,description,\nlock,Fix, now\npaper,Order,\n")
    assert (texts(backlog), refused(backlog)) == ({"paper": "Order"}, [(2, "(whole line)")])
    assert "'now') in column 3" in backlog.refused[0].error


def test_csv_in_an_old_code_page_costs_the_rows_that_show_it(tmp_path: Path) -> None:
    backlog = read(tmp_path / "b.csv", "task_id;description\nlock;Türschloß\npaper;Order\n".encode("cp1252"))
    assert (texts(backlog), refused(backlog)) == ({"paper": "Order"}, [(2, "(whole line)")])
    assert "save as CSV UTF-8" in backlog.refused[0].error


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing\n", ";;;\n;;;\n", "x" * 2_000_001])
def test_csv_without_a_header_is_refused_as_a_whole(tmp_path: Path, content: str) -> None:
    with pytest.raises(InvalidInput, match=r"b\.csv: (no header|line 1, the header: )"):
        read(tmp_path / "b.csv", content)


# JSON

LOCK, PAPER = {"task_id": "lock", "description": "Fix"}, {"task_id": "paper", "description": "Order"}


@pytest.mark.parametrize(
    "content",
    [
        f"{json.dumps(LOCK)}\n{json.dumps(PAPER)}",
        f"{json.dumps(LOCK)},\n{json.dumps(PAPER)},\n",
        f"{json.dumps(LOCK)}\r{json.dumps(PAPER)}",
        json.dumps([LOCK, PAPER]),
        json.dumps([LOCK, PAPER], indent=2),
        json.dumps({"tasks": [LOCK, PAPER]}, indent=1),
        json.dumps({"total": 2, "issues": [LOCK, PAPER], "names": {}}),
        f"{json.dumps(LOCK, indent=2)}\n{json.dumps(PAPER, indent=2)}",
        f"\ufeff{json.dumps(LOCK)}\n\ufeff{json.dumps(PAPER)}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_json_as_programs_write_it(tmp_path: Path, content: str, ending: str) -> None:
    for name, written in ((f"b.{ending}", content.encode()), (f"b.{ending}.gz", gzip.compress(content.encode()))):
        backlog = read(tmp_path / name, written)
        assert (texts(backlog), backlog.refused) == ({"lock": "Fix", "paper": "Order"}, [])


def test_one_object_that_is_pretty_is_one_task(tmp_path: Path) -> None:
    assert texts(read(tmp_path / "b.json", json.dumps(LOCK, indent=2))) == {"lock": "Fix"}


@pytest.mark.parametrize("indent", [None, 1, 2, "\t"])
def test_a_broken_entry_of_a_list_costs_itself_alone(tmp_path: Path, indent: int | str | None) -> None:
    bad = {"task_id": "bad", "description": "d", "constraints": {"metadata": {"a": [{"b": 1}]}}}
    content = json.dumps([LOCK, bad, PAPER], indent=indent).replace('"bad"', "bad")
    backlog = read(tmp_path / "b.json", content)
    assert texts(backlog) == {"lock": "Fix", "paper": "Order"}
    assert len(backlog.refused) == 1
    assert "not valid JSON" in backlog.refused[0].error


def test_a_list_that_was_cut_off_is_told(tmp_path: Path) -> None:
    backlog = read(tmp_path / "b.json", json.dumps([LOCK, PAPER])[:-1])
    assert len(backlog.tasks) == 2
    assert "the file may be cut off" in backlog.refused[0].error


def test_numbers_that_json_has_not_are_refused(tmp_path: Path) -> None:
    lines = ['{"task_id": "a", "description": "d", "constraints": {"metadata": {"x": Infinity}}}', json.dumps(LOCK)]
    backlog = read(tmp_path / "b.jsonl", "\n".join(lines))
    assert (texts(backlog), refused(backlog)) == ({"lock": "Fix"}, [(1, "(whole line)")])


def test_a_missing_number_is_no_number_anywhere(tmp_path: Path) -> None:
    """NaN is none of JSON's values: what is stored and sent must not have it."""
    content = '{"task_id": "a", "description": "d", "constraints": {"metadata": {"k": NaN, "l": [1, NaN]}}}'
    (task,) = read(tmp_path / "b.jsonl", content).tasks
    assert task.constraints.metadata == {"l": [1, None]}


def test_a_number_is_an_id(tmp_path: Path) -> None:
    assert texts(read(tmp_path / "b.json", '[{"task_id": 12, "description": "d"}]')) == {"12": "d"}
    pd.DataFrame({"task_id": [1.0, 2.0], "description": ["d", "e"]}).to_parquet(tmp_path / "b.parquet")
    assert texts(read_backlog(str(tmp_path / "b.parquet"), BUILT_IN_ROLES)) == {"1": "d", "2": "e"}


# Parquet


def parquet(path: Path, values: pa.Array) -> Backlog:
    count = len(values)
    constraints = pa.StructArray.from_arrays([pa.StructArray.from_arrays([values], ["v"])], ["metadata"])
    ids = [f"t{n}" for n in range(count)]
    pq.write_table(pa.table({"task_id": ids, "description": ids, "constraints": constraints}), path)
    return read_backlog(str(path), BUILT_IN_ROLES)


@pytest.mark.parametrize(
    ("values", "read_as"),
    [
        (pa.array([Decimal("1.10")]), "1.10"),
        (pa.array([date(2026, 1, 2)]), "2026-01-02"),
        (pa.array([datetime(2026, 1, 2, 3, tzinfo=UTC)], pa.timestamp("us", "UTC")), "2026-01-02T03:00:00+00:00"),
        (pa.array([timedelta(seconds=5)]), "0:00:05"),
        (pa.array([[("a", 1), ("b", 2)]], pa.map_(pa.string(), pa.int64())), {"a": 1, "b": 2}),
        (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
        (pa.array([[1, None]]), [1, None]),
        (pa.array([{"a": None, "b": 1}]), {"b": 1}),
    ],
)  # fmt: skip
def test_a_value_that_json_lacks_is_the_text_that_people_write_for_it(tmp_path: Path, values, read_as) -> None:
    (task,) = parquet(tmp_path / "b.parquet", values).tasks
    assert task.constraints.metadata == {"v": read_as}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (pa.array([None, b"\x89PNG", None]), "holds bytes"),
        (pa.array([0.5, float("inf"), 0.5]), "infinite"),
        (pa.array([None, [(1, 2)], None], pa.map_(pa.int64(), pa.int64())), "keys are no texts"),
        (pa.array([None, [("a", 1), ("a", 2)], None], pa.map_(pa.string(), pa.int64())), "a key twice"),
        (pa.array([0, 2**62, 0], pa.timestamp("ms")), "cannot be read"),
    ],
)  # fmt: skip
def test_a_value_that_no_text_can_show_costs_its_row_alone(tmp_path: Path, values: pa.Array, why: str) -> None:
    backlog = parquet(tmp_path / "b.parquet", values)
    assert [task.task_id for task in backlog.tasks] == ["t0", "t2"]
    assert refused(backlog)[0][0] == 2
    assert why in backlog.refused[0].error


def test_a_parquet_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """The last one won."""
    table = pa.table(
        [pa.array(["a"]), pa.array(["d"]), pa.array(["e"])], names=["task_id", "description", "description"]
    )
    pq.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(InvalidInput, match="has the column description twice"):
        read_backlog(str(tmp_path / "b.parquet"), BUILT_IN_ROLES)


# Any table

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=30)
PROSE = st.lists(WORDS, min_size=1, max_size=3).map("\n".join).map(str.strip).filter(bool)
TABLES = st.lists(PROSE, min_size=1, max_size=6)


def _csv(delimiter: str, ending: str, quoting: int) -> Callable[[Sequence[Sequence[str]]], bytes]:
    def write(rows: Sequence[Sequence[str]]) -> bytes:
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=delimiter, lineterminator=ending, quoting=quoting).writerows(rows)
        return out.getvalue().encode()

    return write


def _json(indent: int | None, *, lines: bool) -> Callable[[Sequence[Sequence[str]]], bytes]:
    def write(rows: Sequence[Sequence[str]]) -> bytes:
        objects = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
        if lines:
            return "\n".join(json.dumps(one, ensure_ascii=False) for one in objects).encode()
        return json.dumps(objects, indent=indent).encode()

    return write


def _parquet(rows: Sequence[Sequence[str]]) -> bytes:
    out = io.BytesIO()
    pd.DataFrame([list(row) for row in rows[1:]], columns=list(rows[0])).to_parquet(out)
    return out.getvalue()


def _duckdb(options: str) -> Callable[[Sequence[Sequence[str]]], bytes]:
    def write(rows: Sequence[Sequence[str]]) -> bytes:
        table = pd.DataFrame([list(row) for row in rows[1:]], columns=list(rows[0]))
        with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
            connection.register("given", table)
            connection.execute(f"copy given to '{folder}/out' ({options})")
            return Path(folder, "out").read_bytes()

    return write


def _of_jq(rows: Sequence[Sequence[str]]) -> bytes:
    """`jq .`: pretty objects, one after another."""
    objects = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    return "\n".join(json.dumps(one, ensure_ascii=False, indent=2) for one in objects).encode()


WRITERS = {
    "csv": _csv(",", "\n", csv.QUOTE_MINIMAL),
    "csv of Excel": _csv(",", "\r\n", csv.QUOTE_MINIMAL),
    "csv of Excel in German": _csv(";", "\r\n", csv.QUOTE_MINIMAL),
    "csv of Excel in French": lambda rows: codecs.BOM_UTF8 + _csv(";", "\r\n", csv.QUOTE_MINIMAL)(rows),
    "tsv of Excel, Unicode text": lambda rows: _csv("\t", "\r\n", csv.QUOTE_MINIMAL)(rows).decode().encode("utf-16"),
    "csv of a database": _csv(",", "\n", csv.QUOTE_ALL),
    "json of jq": _of_jq,
    "tsv": _csv("\t", "\n", csv.QUOTE_MINIMAL),
    "jsonl": _json(None, lines=True),
    "json": _json(None, lines=False),
    "json, pretty": _json(2, lines=False),
    "parquet": _parquet,
    "csv of DuckDB": _duckdb("format csv, header"),
    "json of DuckDB": _duckdb("format json, array true"),
    "jsonl of DuckDB": _duckdb("format json"),
    "parquet of DuckDB": _duckdb("format parquet"),
}


def ending_of(dialect: str) -> str:
    return dialect.replace(",", " ").split()[0]


@pytest.mark.parametrize("dialect", WRITERS)
@given(rows=TABLES, data=st.data())
@settings(max_examples=60)
def test_the_valid_rows_of_any_table_run_as_written_and_the_bad_one_is_named(
    dialect: str, rows: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = [["task_id", "description", "num_agents"], *([f"t{n}", text, "3"] for n, text in enumerate(rows))]
    bad = data.draw(st.integers(1, len(table)))
    table.insert(bad, ["bad", "d", "many"])
    path = tmp_path_factory.mktemp("any") / f"b.{ending_of(dialect)}"
    path.write_bytes(WRITERS[dialect](table))
    backlog = read_backlog(str(path), BUILT_IN_ROLES)
    assert texts(backlog) == {f"t{n}": text for n, text in enumerate(rows)}
    assert [refusal.field for refusal in backlog.refused] == ["num_agents"]


@given(
    rows=st.lists(st.text(st.characters(codec="ascii", exclude_characters="\r\n\0"), max_size=20), max_size=6),
    delimiter=st.sampled_from([",", ";", "\t"]),
)
@settings(max_examples=300)
def test_a_row_of_csv_is_what_a_strict_reader_says_or_refused(
    rows: list[str], delimiter: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Lines of any characters: whatever is accepted, another strict reader reads as well, cell for cell."""
    path = tmp_path_factory.mktemp("strict") / "b.csv"
    path.write_text("\n".join([f"task_id{delimiter}description", *rows]), newline="")
    backlog = read_backlog(str(path), BUILT_IN_ROLES)
    lines = path.read_text().split("\n")
    for task in backlog.tasks:
        assert any(
            _strictly(lines[first:last], delimiter) == [task.task_id, task.description]
            for first in range(len(lines))
            for last in range(first + 1, len(lines) + 1)
        )


def _strictly(lines: Sequence[str], delimiter: str) -> list[str]:
    try:
        (row,) = csv.reader("\n".join(lines).splitlines(keepends=True), delimiter=delimiter, strict=True)
    except (ValueError, csv.Error):
        return []
    cells = [cell.strip() for cell in row]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _changed(data: st.DataObject, content: bytes) -> bytes:
    """A file that was cut, or changed in places by the bytes that formats are made of."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(changed) - 1, 0)))
        what = data.draw(
            st.sampled_from(
                [b'"', b"'", b",", b";", b"\n", b"\r", b"\t", b"{", b"}", b"[", b"]", b"\\", b"\0", b"\xff", b""]
            )
        )
        changed[at : at + data.draw(st.integers(0, 3))] = what
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", WRITERS)
@given(rows=TABLES, data=st.data())
@settings(max_examples=1_400)
def test_whatever_happened_to_a_file_each_row_is_read_as_it_stands_or_refused(
    dialect: str, rows: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """22,400 files in sixteen dialects: each row is a task or a refusal, and nothing else comes out of a reader."""
    table = [["task_id", "description", "num_agents"], *([f"t{n}", text, "3"] for n, text in enumerate(rows))]
    path = tmp_path_factory.getbasetemp() / f"fuzz.{ending_of(dialect)}"
    path.write_bytes(_changed(data, WRITERS[dialect](table)))
    try:
        backlog = read_backlog(str(path), BUILT_IN_ROLES)
    except InvalidInput:  # as a whole: no header, or no Parquet
        return
    assert all(refusal.error and refusal.field for refusal in backlog.refused)
    assert len({task.task_id for task in backlog.tasks}) == len(backlog.tasks)
