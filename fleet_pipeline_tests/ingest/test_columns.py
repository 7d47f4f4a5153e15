"""From other people's columns to the fields of a task."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.ingest.backlog import Backlog, read_backlog, read_backlogs
from fleet_pipeline.ingest.columns import PRESETS, BacklogOptions

pytestmark = pytest.mark.unit

JIRA = (
    "\ufeffSummary,Issue key,Issue id,Issue Type,Status,Priority,Assignee,Labels,Labels,Labels,Description,Parent id\r\n"
    '"Payment page rework",SHOP-1,20001,Epic,In Progress,High,Person A,frontend,,,"Rework how people pay.\r\n\r\n'
    'See the sketch, then ""release"" it.",\r\n'
    '"Add a wallet",SHOP-2,20002,Story,To Do,Highest,,backend,payments,,"Wallets for phones.",20001\r\n'
)
GITHUB = json.dumps(
    [
        {"number": 7, "title": "Crash", "body": "With an empty basket.", "labels": [{"name": "bug", "color": "red"}]},
        {"number": 8, "title": "Docs", "body": "", "labels": [], "url": "https://example.org/8"},
    ]
)
LINEAR = "ID,Team,Title,Description,Status,Priority,Labels\nENG-3,ENG,Wallet,For phones,Todo,High,backend\n"
TRELLO = json.dumps(
    {
        "name": "Board",
        "cards": [
            {"id": "5f", "shortLink": "aB3", "name": "Card", "desc": "Do it", "labels": [{"name": "x"}], "due": None}
        ],
        "lists": [{"id": "1", "name": "To do"}],
        "members": [{"id": "2", "fullName": "Person A"}],
    }
)
TRELLO_CSV = "Card ID,Card Name,Card Description,Labels,List Name\n5f3a,Card,Do it,x,To do\n"


def read(path: Path, content: str, **options: Any) -> Backlog:
    path.write_text(content, newline="")
    return read_backlog(str(path), BUILT_IN_ROLES, BacklogOptions(**options))


@pytest.mark.parametrize(
    ("name", "preset", "content", "descriptions", "labels"),
    [
        (
            "b.csv",
            "jira",
            JIRA,
            {
                "SHOP-1": 'Payment page rework\n\nRework how people pay.\r\n\r\nSee the sketch, then "release" it.',
                "SHOP-2": "Add a wallet\n\nWallets for phones.",
            },
            ["frontend", ["backend", "payments"]],
        ),
        ("b.json", "github", GITHUB, {"7": "Crash\n\nWith an empty basket.", "8": "Docs"}, [["bug"], None]),
        ("b.csv", "linear", LINEAR, {"ENG-3": "Wallet\n\nFor phones"}, ["backend"]),
        ("b.json", "trello", TRELLO, {"aB3": "Card\n\nDo it"}, [["x"]]),
        ("b.csv", "trello-csv", TRELLO_CSV, {"5f3a": "Card\n\nDo it"}, ["x"]),
    ],
)  # fmt: skip
def test_an_export_is_read_by_its_preset(
    tmp_path: Path, name: str, preset: str, content: str, descriptions: dict[str, str], labels: list
) -> None:
    backlog = read(tmp_path / name, content, preset=preset)
    assert backlog.refused == []
    assert {task.task_id: task.description for task in backlog.tasks} == descriptions
    assert [task.constraints.metadata.get("labels") for task in backlog.tasks] == labels


@pytest.mark.parametrize(("name", "preset", "content"), [("b.csv", "jira", JIRA), ("b.json", "github", GITHUB)])
def test_an_export_without_its_preset_is_refused_and_says_which(tmp_path, name, preset, content) -> None:
    backlog = read(tmp_path / name, content)
    assert backlog.tasks == []
    assert any(f"--preset {preset} reads" in refusal.error for refusal in backlog.refused)


def test_every_preset_says_where_an_id_and_a_description_are() -> None:
    for fields in PRESETS.values():
        assert {"task_id", "description"} <= fields.keys()


def test_a_field_is_made_of_the_columns_that_a_mapping_names(tmp_path: Path) -> None:
    mapping = {"task_id": "Key", "description": "Title,Details", "requirements": ["Done when"], "metadata.team": "Team"}
    content = 'key,Title,Details,Done when,Team,roles\nA-1,Fix,the lock,"it opens\n- it closes",Doors,"QA,DEV"\n'
    backlog = read(tmp_path / "b.csv", content, map=mapping)
    (task,) = backlog.tasks
    assert (task.task_id, task.description, task.roles) == ("A-1", "Fix\n\nthe lock", ("QA", "DEV"))
    assert task.constraints.requirements == ("it opens", "it closes")
    assert task.constraints.metadata == {"team": "Doors"}
    assert backlog.ignored == []


def test_a_column_that_a_mapping_names_and_no_row_has_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"b\.csv: has no column Kye; there are Key, Title"):
        read(tmp_path / "b.csv", "Key,Title\nA-1,Fix\n", map={"task_id": ["Kye"], "description": ["Title"]})


@pytest.mark.parametrize("field", ["task", "descripton", "sampling.seed"])
def test_a_mapping_to_what_is_no_field_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match="is no field of a task"):
        BacklogOptions(map={field: "Key"})


def test_unknown_columns_are_ignored_and_named_or_refused_where_the_reader_is_strict(tmp_path: Path) -> None:
    content = "task_id,description,Priority,Role,Assignee\na,d,High,QA,\nb,e,Low,QA,x\n"
    backlog = read(tmp_path / "b.csv", content)
    assert (len(backlog.tasks), backlog.ignored) == (2, ["Priority", "Role", "Assignee"])
    strict = read(tmp_path / "b.csv", content, strict=True)
    assert (strict.tasks, [(refusal.line, refusal.field) for refusal in strict.refused]) == (
        [], [(2, "Priority"), (3, "Priority")]
    )  # fmt: skip


def test_a_field_of_json_that_is_nearly_one_of_ours_is_a_misspelling_and_refused(tmp_path: Path) -> None:
    backlog = read(tmp_path / "b.jsonl", '{"task_id": "a", "description": "d", "rolls": ["QA"], "priority": 1}\n')
    (refusal,) = backlog.refused
    assert refusal.error == "no such field; did you mean roles?"


def test_fields_of_constraints_are_columns_where_a_table_has_no_nesting(tmp_path: Path) -> None:
    content = 'task_id,description,requirements,rubric,timeout_seconds,sampling.temperature,metadata\na,d,"[""r, s""]",c,60,0.5,"{""k"": 1}"\n'
    (task,) = read(tmp_path / "b.csv", content).tasks
    constraints = task.constraints
    assert (constraints.requirements, constraints.rubric) == (("r, s",), ("c",))
    assert (constraints.timeout_seconds, constraints.metadata, task.sampling.temperature) == (60, {"k": 1}, 0.5)


def test_a_column_under_two_spellings_is_refused(tmp_path: Path) -> None:
    (refusal,) = read(tmp_path / "b.jsonl", '{"task_id": "a", "Task ID": "b", "description": "d"}').refused
    assert "is given twice, as task_id and as Task ID" in refusal.error


def test_several_files_are_one_backlog_in_which_an_id_stands_once(tmp_path: Path) -> None:
    for name, ids in (("a.jsonl", "xy"), ("b.csv", "yz")):
        rows = [{"task_id": one, "description": "d"} for one in ids]
        text = "\n".join(map(json.dumps, rows)) if name == "a.jsonl" else "task_id,description\ny,d\nz,d\n"
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.csv"), str(tmp_path)]
    backlogs = read_backlogs(files, BUILT_IN_ROLES)
    assert {Path(file).name: [task.task_id for task in one.tasks] for file, one in backlogs.items()} == {
        "a.jsonl": ["x", "y"], "b.csv": ["z"]
    }  # fmt: skip
    assert "is in" in backlogs[files[1]].refused[0].error


def test_columns_that_add_to_one_object_are_joined_and_none_takes_another_s_place(tmp_path: Path) -> None:
    content = "task_id,description,constraints,metadata.team,sampling,sampling.top_p\n"
    content += 'a,d,"{""metadata"": {""k"": 1}, ""rubric"": [""c""]}",Doors,"{""temperature"": 0.5}",0.9\n'
    content += 'b,d,"{""metadata"": {""team"": 1}}",Doors,,\nc,d,[1],Doors,,\n'
    backlog = read(tmp_path / "b.csv", content)
    (task,) = backlog.tasks
    assert task.constraints.metadata == {"k": 1, "team": "Doors"}
    assert task.constraints.rubric == ("c",)
    assert (task.sampling.temperature, task.sampling.top_p) == (0.5, 0.9)
    assert [(refusal.line, refusal.field) for refusal in backlog.refused] == [(3, "metadata"), (4, "constraints")]


def test_a_column_of_a_field_that_is_made_of_others_is_told(tmp_path: Path) -> None:
    backlog = read(tmp_path / "b.csv", "task_id,Key,description\nold,A-1,d\n", map={"task_id": ["Key"]})
    assert ([task.task_id for task in backlog.tasks], backlog.ignored) == (["A-1"], ["task_id"])


def test_an_export_of_any_length_is_read(tmp_path: Path) -> None:
    cards = [{"shortLink": f"c{n}", "name": "Card", "desc": "Do it. " * 10_000} for n in range(40)]
    backlog = read(tmp_path / "b.json", json.dumps({"cards": cards}), preset="trello")
    assert (len(backlog.tasks), backlog.refused) == (40, [])


def test_requirements_that_begin_like_a_list_are_lines_of_text(tmp_path: Path) -> None:
    content = 'task_id,description,requirements\na,d,"[ ] it opens\n[x] it closes"\nb,d,"[""it, opens""]"\n'
    tasks = read(tmp_path / "b.csv", content).tasks
    assert [task.constraints.requirements for task in tasks] == [("[ ] it opens", "[x] it closes"), ("it, opens",)]
