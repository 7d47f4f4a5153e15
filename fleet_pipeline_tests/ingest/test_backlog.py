import io
import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.ingest.backlog import Backlog, Refusal, read_backlog

pytestmark = pytest.mark.unit

EXAMPLES = Path(__file__).parents[2] / "examples"
GOOD = '{"task_id": "good%d", "description": "d"}'


def read(path: Path, content: str | bytes) -> Backlog:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_backlog(str(path), BUILT_IN_ROLES)


@pytest.mark.parametrize(
    ("line", "field", "error"),
    [
        ("{", "(whole line)", "the object that begins here is not closed"),
        ("[1]", "(whole line)", "expected an object"),
        ('{"task_id": "x"}', "description", "add this field"),
        ('{"task_id": "../x", "description": "d"}', "task_id", "use 1 to 120 letters"),
        ('{"task_id": "x", "description": "d", "num_agents": 0}', "num_agents", "greater than or equal to 1"),
        ('{"task_id": "x", "description": "d", "rolls": ["DEV"]}', "rolls", "no such field"),
        ('{"task_id": "x", "task_id": "y", "description": "d"}', "task_id", "given twice"),
        ('{"task_id": "x", "description": "' + "d" * 2_000_001 + '"}', "(whole line)", "shorten"),
        ('{"a":' * 100_000, "(whole line)", ""),
        ('{"task_id": "x", "description": "d", "rounds": ' + "9" * 5_000 + "}", "(whole line)", "digits"),
        ('{"task_id": "x", "description": "d", "model": "\\ud800"}', "model", "no text"),
    ],
)  # fmt: skip
def test_a_bad_line_among_good_ones_is_named_and_the_good_ones_run(tmp_path, line, field, error) -> None:
    backlog = read(tmp_path / "b.jsonl", f"{GOOD % 1}\n{line}\n\n{GOOD % 2}\n")
    assert [task.task_id for task in backlog.tasks] == ["good1", "good2"]
    (refusal,) = backlog.refused
    assert (refusal.line, refusal.field) == (2, field)
    assert error in refusal.error


def test_every_problem_of_a_line_is_named(tmp_path: Path) -> None:
    backlog = read(tmp_path / "b.jsonl", '{"task_id": "", "rounds": 99}')
    assert {refusal.field for refusal in backlog.refused} == {"task_id", "description", "rounds"}


def test_bytes_that_are_not_utf8_cost_their_line_alone(tmp_path: Path) -> None:
    backlog = read(tmp_path / "b.jsonl", (GOOD % 1).encode() + b"\n\xff\xfe\n" + (GOOD % 2).encode())
    assert len(backlog.tasks) == 2
    assert backlog.refused == [
        Refusal(2, "(whole line)", "not UTF-8 at byte 1: write it in UTF-8 (in Excel: save as CSV UTF-8)")
    ]


@pytest.mark.parametrize("second", ["same", "SAME"])
def test_the_same_task_id_twice_is_refused_naming_both_lines(tmp_path: Path, second: str) -> None:
    lines = [json.dumps({"task_id": name, "description": "d"}) for name in ("same", "other", second)]
    backlog = read(tmp_path / "b.jsonl", "\n".join(lines))
    assert [task.task_id for task in backlog.tasks] == ["same", "other"]
    (refusal,) = backlog.refused
    assert (refusal.line, refusal.field) == (3, "task_id")
    assert "on line 3" in refusal.error
    assert "line 1" in refusal.error


ROWS = [
    {"task_id": "one", "description": "first,\nwith a comma", "roles": ["DEV", "QA"], "num_agents": 5},
    {"task_id": "two", "description": "second", "constraints": {"requirements": ["r"], "rubric": "c"}, "diversity": False},
]  # fmt: skip


def written(tmp_path: Path, suffix: str) -> Path:
    path = tmp_path / f"b.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    elif suffix == "csv":
        cells = [{k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()} for row in ROWS]
        pd.DataFrame(cells).to_csv(path, index=False)
    else:
        pd.DataFrame(ROWS).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_csv_and_parquet_say_the_same_as_json_lines(tmp_path: Path, suffix: str) -> None:
    expected = read_backlog(str(written(tmp_path, "jsonl")), BUILT_IN_ROLES)
    assert read_backlog(str(written(tmp_path, suffix)), BUILT_IN_ROLES) == expected
    assert len(expected.tasks) == 2
    assert expected.refused == []


def test_csv_takes_roles_separated_by_commas_and_names_the_line_of_a_bad_row(tmp_path: Path) -> None:
    text = 'task_id,description,roles,num_agents\na,"d\nd","dev, qa",\nb,d,DEV,many\nc,d,DEV,3,4,5\nd,d,,\n'
    backlog = read(tmp_path / "b.csv", text)
    assert [(task.task_id, task.roles) for task in backlog.tasks] == [("a", ("DEV", "QA")), ("d", ("DEV",))]
    assert [(refusal.line, refusal.field) for refusal in backlog.refused] == [(4, "num_agents"), (5, "(whole line)")]
    late = read(tmp_path / "c.csv", 'task_id,description,rounds\na,"d\nd\nd",99\n')
    assert late.refused[0].line == 2, "a row is where it begins"


def test_a_bad_json_cell_names_its_column(tmp_path: Path) -> None:
    (refusal,) = read(tmp_path / "b.csv", "task_id,description,constraints\na,d,{bad\n").refused
    assert (refusal.line, refusal.field) == (2, "constraints")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.xlsx", b"", "save the sheet as CSV UTF-8"),
        ("b.pdf", b"", "ends in .jsonl, .json, .csv"),
        ("b.parquet", b"nope", "not a Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_refused(tmp_path, name, content, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(tmp_path / name, content)


def test_null_is_absent_in_every_format(tmp_path: Path) -> None:
    frame = pd.DataFrame([{"task_id": "a", "description": "d", "rounds": 2}, {"task_id": "b", "description": "d"}])
    frame.to_json(tmp_path / "b.jsonl", lines=True, orient="records")
    backlog = read_backlog(str(tmp_path / "b.jsonl"), BUILT_IN_ROLES)
    assert [(task.task_id, task.rounds) for task in backlog.tasks] == [("a", 2), ("b", 1)]


def test_a_field_with_two_columns_costs_the_rows_that_fill_both(tmp_path: Path) -> None:
    backlog = read(tmp_path / "b.csv", "task_id,description,description\na,b,c\nd,e,\nf,,g\n")
    assert [(task.task_id, task.description) for task in backlog.tasks] == [("d", "e"), ("f", "g")]
    assert [(refusal.line, refusal.field) for refusal in backlog.refused] == [(2, "description")]
    assert "given twice" in backlog.refused[0].error


def test_a_damaged_parquet_backlog_is_refused(tmp_path: Path) -> None:
    content = written(tmp_path, "parquet").read_bytes()
    for damaged in (content[:-100], content[:8] + bytes(255 - byte for byte in content[8:200]) + content[200:]):
        with pytest.raises(InvalidInput, match="not a Parquet file, or a damaged one"):
            read(tmp_path / "damaged.parquet", damaged)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.jsonl: cannot be read"):
        read_backlog(str(tmp_path / "gone.jsonl"), BUILT_IN_ROLES)


def test_standard_input_is_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((GOOD % 1).encode())))
    assert len(read_backlog("-", BUILT_IN_ROLES).tasks) == 1


FIELDS = ["task_id", "description", "roles", "num_agents", "rounds", "constraints", "sampling", "model", "x"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=6))
def test_whatever_the_json_a_line_is_a_task_or_a_refusal_and_the_next_line_runs(entry: dict) -> None:
    import fsspec

    content = json.dumps(entry) + "\n" + GOOD % 1
    fsspec.filesystem("memory").pipe_file("memory://fuzz.jsonl", content.encode())
    backlog = read_backlog("memory://fuzz.jsonl", BUILT_IN_ROLES)
    assert backlog.tasks[-1].task_id == "good1"
    assert len(backlog.tasks) == 2 or {refusal.line for refusal in backlog.refused} == {1}
    for task in backlog.tasks:
        task.model_dump_json()


@given(st.binary(max_size=400))
def test_whatever_the_bytes_a_line_is_a_task_or_a_refusal(content: bytes) -> None:
    import fsspec

    for name in ("memory://fuzz.jsonl", "memory://fuzz.csv"):
        fsspec.filesystem("memory").pipe_file(name, content)
        try:
            backlog = read_backlog(name, BUILT_IN_ROLES)
        except InvalidInput:
            continue
        assert all(refusal.error and refusal.field and refusal.line >= 1 for refusal in backlog.refused)


@pytest.mark.parametrize(("name", "tasks"), [("backlog.jsonl", 23), ("platform-team.jsonl", 40)])
def test_the_examples_are_valid(name: str, tasks: int) -> None:
    backlog = read_backlog(str(EXAMPLES / name), BUILT_IN_ROLES)
    assert backlog.refused == []
    assert len(backlog.tasks) == tasks


def test_the_larger_example_uses_all_five_roles() -> None:
    tasks = read_backlog(str(EXAMPLES / "platform-team.jsonl"), BUILT_IN_ROLES).tasks
    assert {role for task in tasks for role in task.roles} == set(BUILT_IN_ROLES)
