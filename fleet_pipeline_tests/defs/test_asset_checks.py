"""Asset checks name the councils whose results people should look at, and stop nothing."""

import dagster as dg
import pytest

from fleet_pipeline.defs.asset_checks import CHECKS
from fleet_pipeline.deliberation.exchange import AgentError, Completion
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.pipeline import Pipeline
from fleet_pipeline_tests.support.scripted import echo

pytestmark = pytest.mark.instance


def check_results(pipeline: Pipeline) -> dict[str, dg.AssetCheckEvaluation]:
    records = pipeline.instance.event_log_storage.get_asset_check_execution_history
    found = {}
    for name in CHECKS:
        (record,) = records(dg.AssetCheckKey(dg.AssetKey("proposals"), name), limit=1)
        found[name] = record.event.dagster_event.asset_check_evaluation_data
    return found


def which(result: dg.AssetCheckEvaluation) -> dict[str, str]:
    return {str(one.data["deliberation"]): str(one.data["why"]) for one in result.metadata["which"].records}


def test_councils_that_repeat_themselves_or_miss_their_task_are_named_by_checks_that_stop_nothing(pipeline) -> None:
    keys = pipeline.put("same", description="Empty the cache hourly") + pipeline.put("good")
    limiters = {
        "001": "A rate limiter in Redis keeps counters by tenant and a Lua script expires them.",
        "002": "Design it as an nginx limiter zone of 10 MB whose rate comes from a config map.",
        "003": "Envoy's global limiter service shares quotas; the design adds a sidecar and a rate dashboard.",
    }
    pipeline.answer = lambda prompt: said(
        "It depends." if "Empty the cache" in prompt.user else limiters[prompt.seat.agent_id[-3:]]
    )
    assert pipeline.run(keys).success
    found = check_results(pipeline)
    named = {name: which(result) for name, result in found.items() if not result.passed}
    assert {name: list(which) for name, which in named.items()} == {
        "diversity": ["same.dev"], "relevance": ["same.dev"], "duplicates": ["same.dev"]
    }  # fmt: skip
    assert "a higher temperature" in named["duplicates"]["same.dev"]
    assert {found[name].severity for name in named} == {dg.AssetCheckSeverity.WARN}
    shown = pipeline.instance.fetch_materializations(dg.AssetKey("deliberations"), limit=2).records
    failed_checks = {r.partition_key: r.asset_materialization.metadata.get("look at this first") for r in shown}
    assert failed_checks["good.dev"] is None
    assert failed_checks["same.dev"].value.startswith("duplicates: 2 proposals repeat another")


def test_a_torn_file_costs_the_checks_of_others_nothing(pipeline) -> None:
    pipeline.run(pipeline.put("t1", "t2"))
    (pipeline.storage / "proposals/t1.dev.parquet").write_bytes(b"PAR1 torn")
    job = pipeline.definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_check_selection={dg.AssetCheckKey(dg.AssetKey("proposals"), name) for name in CHECKS},
        asset_selection=set(),
    )
    assert job.execute_in_process(instance=pipeline.instance, resources=None).success
    found = check_results(pipeline)["schema"]
    assert list(which(found)) == ["t1.dev"]
    assert found.severity == dg.AssetCheckSeverity.ERROR
    assert check_results(pipeline)["quorum"].passed


def test_seats_that_do_not_answer_and_answers_that_are_cut_off_are_named_with_what_to_do(pipeline: Pipeline) -> None:
    cut = Completion(error=AgentError.CUT_OFF, error_message="the answer reached max_tokens", text="half")
    pipeline.answer = lambda prompt: echo(prompt) if prompt.seat.index == 0 else cut
    pipeline.configure(council_checks={"errors": ["truncation"], "diversity_below": 0})
    pipeline.run(pipeline.put("t1"))
    found = check_results(pipeline)
    assert "1 seats answered, the quorum is 2" in which(found["quorum"])["t1.dev"]
    assert "raise it" in which(found["truncation"])["t1.dev"]
    assert found["quorum"].severity == dg.AssetCheckSeverity.WARN
    assert found["truncation"].severity == dg.AssetCheckSeverity.ERROR


def test_checks_of_a_sound_run_pass(pipeline) -> None:
    answers = {
        "A": "A limiter in Redis counts by tenant.",
        "B": "An nginx zone designs the rate away.",
        "C": "Envoy shares rate quotas.",
    }
    pipeline.answer = lambda prompt: said(answers[prompt.seat.label])
    pipeline.run(pipeline.put("t1"))
    assert {name: result.passed for name, result in check_results(pipeline).items()} == dict.fromkeys(CHECKS, True)  # fmt: skip


def test_a_finding_stays_until_it_is_mended_whatever_later_runs_are_over(pipeline: Pipeline) -> None:
    """Two later runs over one council each turned "1 of 8" into "passed, none of 1"."""
    cut = Completion(error=AgentError.CUT_OFF, error_message="the answer reached max_tokens", text="half")
    keys = pipeline.put("bad", description="This one is cut off", rounds=0) + pipeline.put("good")
    pipeline.answer = lambda prompt: cut if "is cut off" in prompt.user else echo(prompt)
    pipeline.run(keys)
    found = check_results(pipeline)["completed"]
    assert (found.passed, found.description) == (False, "1 of 2 councils")
    assert found.severity == dg.AssetCheckSeverity.ERROR
    assert "; to do: raise engine.sampling.max_tokens" in which(found)["bad.dev"]
    assert found.metadata["their pages"].value == "- [bad.dev](/assets/deliberations?view=partitions&partition=bad.dev)"
    pipeline.run(pipeline.put("other"))
    found = check_results(pipeline)["completed"]
    assert not found.passed
    assert found.description == "none of 1 councils, and 1 of earlier runs that are not mended"
    assert list(which(found)) == ["bad.dev"]
    pipeline.answer = echo
    pipeline.run(pipeline.put("bad", description="This one is cut off", rounds=0))
    assert check_results(pipeline)["completed"].passed
