"""`fleet backlog check`, and how commands tell what they do not take."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fleet_pipeline.cli import main
from fleet_pipeline.ingest.columns import PRESETS
from fleet_pipeline.settings import load_settings

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).parents[2] / "docs/backlogs.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["backlog", "check", *arguments], input=stdin, catch_exceptions=False)


def test_the_page_on_backlogs_shows_what_the_commands_print() -> None:
    for name, content in re.findall(r"```(?:csv|json) (\S+)\n(.*?)```", PAGE, re.DOTALL):
        Path(name).write_text(content)
    shown = re.findall(r"```console\n\$ fleet backlog check (.*?)\n(.*?)```", PAGE, re.DOTALL)
    assert len(shown) == 3
    for command, output in shown:
        arguments = [one.strip('"') for one in re.findall(r'"[^"]*"|\S+', command)]
        assert check(*arguments).stdout == output


def test_the_settings_of_the_page_on_backlogs_are_settings() -> None:
    found = re.search(r"```toml backlog\n(.*?)```", PAGE, re.DOTALL)
    Path("fleet.toml").write_text(found[1])
    assert load_settings().backlog.map["description"] == ("Title", "Details")
    Path("sheet.csv").write_text("Key,Title,Details,Done when\nA-1,Fix,the lock,it opens\n")
    assert check("sheet.csv").exit_code == 0


def test_the_page_on_backlogs_names_every_preset() -> None:
    for preset, fields in PRESETS.items():
        assert f"| `{preset}` |" in PAGE
        assert f"| {fields['task_id'][0]} | {', '.join(fields['description'])} |" in PAGE


def test_a_table_of_200_rows_with_13_unknown_columns_is_told_in_one_line() -> None:
    """It was 2,601 lines."""
    columns = [f"Unknown {n}" for n in range(13)]
    rows = "\n".join(f"t{n},d{',x' * 13}" for n in range(200))
    Path("b.csv").write_text(f"task_id,description,{','.join(columns)}\n{rows}\n")
    result = check("b.csv")
    assert (result.exit_code, result.stderr.count("\n")) == (0, 1)
    assert result.stderr.startswith("ignored: Unknown 0, Unknown 1,")
    strict = check("b.csv", "--strict")
    assert (strict.exit_code, strict.stderr.count("\n")) == (2, 4)
    assert "and 197 more of this kind" in strict.stderr


def test_refusals_are_told_by_kind_with_the_first_three_of_each_and_no_more_than_a_screen() -> None:
    lines = [
        json.dumps({"task_id": f"t{n}", "description": "d", f"{'x' * (n % 40 + 1)}rounds": 99}) for n in range(400)
    ]
    lines += [json.dumps({"task_id": f"u{n}", "description": "d", "rounds": 99}) for n in range(10)]
    result = check("-", "--strict", stdin="\n".join(lines))
    assert result.stderr.count("\n") < 60
    assert "other kinds (--json lists all)" in result.stderr
    assert len(json.loads(check("-", "--strict", "--json", stdin="\n".join(lines)).stdout)["refused"]) == 410


def test_an_ignored_column_that_is_nearly_a_field_is_pointed_at() -> None:
    Path("b.csv").write_text("task_id,description,Role\na,d,QA\n")
    assert check("b.csv").stderr == "ignored: Role (did you mean roles?); --strict refuses them\n"


def test_of_several_files_every_line_names_its_own() -> None:
    Path("a.jsonl").write_text('{"task_id": "a", "description": "d"}\n{"task_id": "b"}\n')
    Path("b.csv").write_text("task_id,description\na,d\nc,d\n")
    result = check("a.jsonl", "b.csv")
    assert result.exit_code == 3
    assert result.stdout.splitlines() == ["a  DEV  d", "c  DEV  d", "2 tasks would run as 2 deliberations, 2 refusals"]
    assert "refused: a.jsonl: line 2: description: add this field" in result.stderr
    assert "refused: b.csv: task_id: 'a' is in a.jsonl already" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gone.csv",), "gone.csv: cannot be read: No such file or directory"),
        (("b.xlsx",), "b.xlsx: a workbook cannot be read; save the sheet as CSV UTF-8"),
        (("cut.jsonl.gz",), "cut.jsonl.gz: not a gzip file, or a damaged one"),
        (("b.csv", "--map", "task_id"), "expected FIELD=COLUMN, such as task_id=Key"),
        (("b.csv", "--map", "tusk_id=Key"), "tusk_id is no field of a task"),
        (("b.csv", "--map", "task_id=Key"), "b.csv: has no column Key; there are description, task_id"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_in_one_line_that_names_it(arguments: tuple[str, ...], told: str) -> None:
    Path("b.csv").write_text("task_id,description\na,d\n")
    Path("cut.jsonl.gz").write_bytes(b"\x1f\x8b and no more")
    result = check(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_nothing_valid_is_exit_code_2() -> None:
    Path("b.csv").write_text("task_id,description\n")
    assert check("b.csv").exit_code == 2
