"""From trials to cases: runs with a scripted model and real hands, judged by real hidden tests."""

import json
from pathlib import Path

import pytest

from fleet_pipeline.deliberation.exchange import Completion
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.evaluation.arms import ARMS, Trial
from fleet_pipeline.evaluation.cases import cases_of
from fleet_pipeline.evaluation.hidden import examiner
from fleet_pipeline.evaluation.repositories import repositories
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.pipeline import Pipeline, why_broken

pytestmark = pytest.mark.instance


def test_each_trial_is_judged_by_its_winner_s_change(pipeline: Pipeline, tmp_path: Path) -> None:
    (repository,) = repositories(["slug"])
    folder = repository.write(tmp_path / "repositories")
    pipeline.configure(
        tools={"sources": [str(folder.parent)], "workspaces": str(tmp_path / "fleet/workspaces")}, council={"seed": 1}
    )
    solution = {"path": "slug.py", "content": repository.solution["slug.py"]}
    test = {"path": "test_more.py", "content": "from slug import slugify\n\n\ndef test_more():\n    assert slugify('a  b') == 'a-b'\n"}  # fmt: skip

    def speak(prompt: Heard) -> Completion:
        if prompt.phase is Phase.CRITIQUE:
            return said("Good.")
        done = sum(message.role == "assistant" for message in prompt.request.messages)
        steps = [solution, test] if prompt.seat.agent_id.endswith("2") else [test | {"content": "x = 1\n"}]
        if done < len(steps) and "anyOf" in json.loads(prompt.schema):
            return said(json.dumps({"tool": "files.write_file", "arguments": steps[done]}), completion_tokens=10)
        return said(json.dumps({"answer": "I did it."}), completion_tokens=10)

    pipeline.answer = speak
    trials = [Trial(arm, repository, folder, 1) for arm in ARMS]
    keys = [key for trial in trials for key in pipeline.tasks.put(trial.task(39))]
    result = pipeline.run(keys)
    assert result.success, why_broken(result)
    seen: list[int] = []
    with examiner(pipeline.definitions.resources["tools"], tmp_path / "fleet/audit") as judge:
        cases = list(cases_of(trials, pipeline.store, judge, seen.append))
    assert seen == [1, 2, 3]
    assert [(case.arm, case.solved, case.tested) for case in cases] == [
        ("one", False, "unverified"), ("best", True, "verified"), ("council", True, "verified"),
    ]  # fmt: skip
    assert cases[0].why == "4 of 4 hidden tests fail"
    assert [case.calls for case in cases[:2]] == [1, 4]
    assert [case.completion_tokens for case in cases[:2]] == [20, 70]


def test_a_trial_without_a_result_or_a_change_is_none_that_is_solved(pipeline: Pipeline, tmp_path: Path) -> None:
    (repository,) = repositories(["slug"])
    folder = repository.write(tmp_path / "repositories")
    pipeline.configure(tools={"sources": [str(folder.parent)], "workspaces": str(tmp_path / "fleet/workspaces")})
    pipeline.answer = lambda prompt: said(json.dumps({"answer": "It is done."}))
    trials = [Trial(ARMS[0], repository, folder, repeat) for repeat in (1, 2)]
    assert pipeline.run(pipeline.tasks.put(trials[0].task(9))).success
    with examiner(pipeline.definitions.resources["tools"], tmp_path / "fleet/audit") as judge:
        cases = list(cases_of(trials, pipeline.store, judge))
    assert [(case.solved, case.why) for case in cases] == [
        (False, "the winner changed nothing"), (False, "no result: it was not run"),
    ]  # fmt: skip
