"""A deliberation is scored, won, shown and announced while the others of its run are still under way."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from fleet_pipeline.deliberation.exchange import AgentError, Completion
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.instance.event_log import read_outcomes
from fleet_pipeline.instance.names import OUTCOMES
from fleet_pipeline.services import conclude
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.pipeline import Pipeline
from fleet_pipeline_tests.support.scripted import echo

pytestmark = pytest.mark.instance


def announced(pipeline: Pipeline) -> list[str]:
    return [outcome.key for outcome in read_outcomes(pipeline.instance, 0)[0]]


def holding(pipeline: Pipeline, last: str, until: Callable[[], bool]) -> Callable[[Heard], Completion]:
    """Answers one at a time as `echo`, but the council of `last` waits with its revision until something has come to pass."""

    pipeline.source.batch = 1  # an answer is delivered when its step is over

    def answer(prompt: Heard) -> Completion:
        if prompt.phase == "revise" and prompt.deliberation_id == last:
            # A minute at most, where it never comes to pass.
            for _ in range(600):
                if until():
                    break
                time.sleep(0.1)
        return echo(prompt)

    return answer


def test_an_outcome_is_known_while_another_deliberation_is_still_under_way(pipeline: Pipeline) -> None:
    keys = pipeline.put("first", "last")
    seen: list[Any] = []

    def first_is_announced() -> bool:
        if "first.dev" in announced(pipeline):
            seen.append((pipeline.partitions("deliberations")[0], pipeline.table("deliberations")["winner_agent_id"]))
        return bool(seen)

    pipeline.answer = holding(pipeline, "last.dev", first_is_announced)
    assert pipeline.run(keys).success
    green, winners = seen[0]
    assert green == {"first.dev"}
    assert len(winners) == 1
    assert winners.notna().all()
    assert pipeline.partitions("deliberations") == (set(keys), set())


def test_a_failure_is_known_while_another_deliberation_is_still_under_way(pipeline: Pipeline) -> None:
    keys = pipeline.put("mute", "last")
    heard: list[bool] = []

    def mute_is_announced() -> bool:
        heard.append("mute.dev" in announced(pipeline))
        return heard[-1]

    hold = holding(pipeline, "last.dev", mute_is_announced)
    pipeline.answer = lambda prompt: said("") if prompt.deliberation_id == "mute.dev" else hold(prompt)
    result = pipeline.run(keys)
    assert heard[-1]
    assert not result.success
    assert pipeline.partitions("deliberations") == ({"last.dev"}, {"mute.dev"})


def test_every_outcome_is_announced_once_a_run(pipeline: Pipeline) -> None:
    keys = pipeline.put(*[f"t{n}" for n in range(40)])
    pipeline.run(keys)
    records = pipeline.instance.fetch_materializations(OUTCOMES, limit=1_000).records
    assert sorted(record.partition_key or "" for record in records) == sorted(keys)


def test_what_was_concluded_early_is_not_shown_as_older_than_what_it_was_made_from(pipeline: Pipeline) -> None:
    keys = pipeline.put("t1", "t2")
    pipeline.run(keys)
    graph, loading = pipeline.definitions.resolve_asset_graph(), LoadingContextForTest(pipeline.instance)
    resolver = CachingStaleStatusResolver(pipeline.instance, graph, loading)
    for asset in ("transcripts", "proposals", "deliberations"):
        for key in keys:
            assert resolver.get_stale_causes(dg.AssetKey(asset), key) == []


def figures(pipeline: Pipeline, table: str) -> pd.DataFrame:
    rows = pipeline.table(table).drop(columns=["run_id"])
    return rows.sort_values([name for name in ("deliberation_id", "agent_id", "metric") if name in rows]).reset_index(
        drop=True
    )


def test_the_figures_are_those_of_scoring_all_councils_at_once(pipeline: Pipeline) -> None:
    keys = pipeline.put("a", description="Cache the catalogue of a shop in Redis.")
    keys += pipeline.put("b", description="Rotate the keys of a signing service every week.")
    keys += pipeline.put("c", "d", description="Move a queue from RabbitMQ to NATS without losing a message.")
    pipeline.answer = holding(pipeline, "d.dev", lambda: set(keys[:3]) <= set(announced(pipeline)))
    assert pipeline.run(keys).success
    one_by_one = [figures(pipeline, table) for table in ("scores", "proposals")]
    tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    rescore = pipeline.definitions.resolve_job_def("rescore")
    assert rescore.execute_in_process(instance=pipeline.instance, tags=tags).success
    for before, table in zip(one_by_one, ("scores", "proposals"), strict=True):
        pd.testing.assert_frame_equal(before, figures(pipeline, table))


def test_what_cannot_be_concluded_beside_the_engine_is_concluded_at_the_end(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, written = conclude.write_outcome, []

    def second_breaks(tasks: Any, key: str, *arguments: Any) -> Any:
        written.append(key)
        if len(written) == 2:
            raise OSError("the disk is full")
        return write(tasks, key, *arguments)

    monkeypatch.setattr(conclude, "write_outcome", second_breaks)
    keys = pipeline.put("t1", "t2", "t3")
    assert pipeline.run(keys).success
    assert len(written) == 2
    assert pipeline.partitions("deliberations") == (set(keys), set())
    assert sorted(announced(pipeline)) == sorted(keys)
    assert "the disk is full" in caplog.text


def test_a_judged_deliberation_is_concluded_with_its_verdicts(judged: Pipeline) -> None:
    keys = judged.put("t1", "t2")
    judged.run(keys)
    assert judged.table("judgements")["deliberation_id"].nunique() == 2
    assert judged.table("proposals")["judge"].notna().all()
    assert len(announced(judged)) == 2


def test_a_council_that_was_kept_when_its_time_was_up_is_judged_as_well(judged: Pipeline) -> None:
    answer, late = judged.answer, Completion(text="half a", error=AgentError.DEADLINE, finish_reason="deadline")
    judged.answer = lambda prompt: late if prompt.phase is Phase.REVISE else answer(prompt)
    judged.run(judged.put("t1"))
    row = judged.table("deliberations").iloc[0]
    assert (row["status"], row["rounds_done"]) == ("completed", 0)
    assert judged.table("proposals")["judge"].notna().all()
    assert announced(judged) == ["t1.dev"]


def order_of_work(made: Sequence[str], found: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The order in which a concluder takes keys that have all arrived before it begins."""
    taken: list[str] = []

    class Scorer:
        def __init__(self, *_: Any) -> None: ...

        def score(self, keys: Sequence[str]) -> tuple[()]:
            taken.extend(keys)
            return ()

    monkeypatch.setattr(conclude, "CouncilScorer", Scorer)
    concluder = conclude.Concluder(None, [], None, "", print, conclude.Concluded())  # type: ignore[arg-type]
    for key in found:
        concluder.found(key)
    for key in made:
        concluder.made(key)
    with concluder:
        pass
    return taken


def test_what_was_found_finished_waits_for_what_this_run_has_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assert order_of_work(["new"], ["old1", "old2"], monkeypatch) == ["new", "old1", "old2"]


def test_what_was_found_finished_fills_the_places_beside_what_this_run_has_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a run that resumes 500 waits half a second for company before every sixteen of them."""
    concluder = conclude.Concluder(None, [], None, "", print, conclude.Concluded())  # type: ignore[arg-type]
    many = [f"old{number}" for number in range(conclude.TOGETHER)]
    for key in many:
        concluder.found(key)
    concluder.made("new")

    def wait(_: float | None = None) -> bool:
        raise AssertionError("it waited for company that it had")

    monkeypatch.setattr(concluder._changed, "wait", wait)
    assert concluder._next() == ["new", *many[:-1]]
