"""kill -9 at each phase of a run and inside each: the next run generates only what is missing, and nothing is torn."""

import random
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pytest

from fleet_pipeline.instance.partitions import register
from fleet_pipeline.instance.run_processes import fail_orphaned_runs
from fleet_pipeline.storage.answer_log import earlier_logs
from fleet_pipeline_tests.support.broker import messages
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.kill_points import PROCESSES
from fleet_pipeline_tests.support.killed_runs import (
    POINTS,
    KilledRun,
    answers_known,
    counted,
    execute,
    run_and_kill,
    run_and_publish,
)
from fleet_pipeline_tests.support.pipeline import Pipeline

pytestmark = pytest.mark.instance

CALLS = 9  # of one deliberation: three seats propose, criticise and revise
IN_FLIGHT = 32 + 6  # requests that the scripted engine holds, and what the last deliberation admitted asks beyond


def is_whole(pipeline: Pipeline, keys: Sequence[str]) -> None:
    """Every key complete and green, every file readable by another tool, no row twice."""
    assert pipeline.partitions("deliberations") == (set(keys), set())
    count = f"from read_parquet('{pipeline.storage}/{{}}/*.parquet')"
    assert duckdb.sql(
        f"select count(*), count(distinct deliberation_id) {count.format('deliberations')}"
    ).fetchall() == [(len(keys), len(keys))]
    assert duckdb.sql(f"select distinct status {count.format('deliberations')}").fetchall() == [("completed",)]
    seats = f"select count(*), count(distinct deliberation_id || agent_id) {count.format('proposals')}"
    assert duckdb.sql(seats).fetchall() == [(3 * len(keys), 3 * len(keys))]
    spoken = "count(distinct deliberation_id || agent_id || phase || round || attempt)"
    assert duckdb.sql(f"select count(*), {spoken} {count.format('utterances')}").fetchall() == [
        (CALLS * len(keys), CALLS * len(keys))
    ]


def go_on(pipeline: Pipeline, killed: KilledRun) -> tuple[int, int]:
    """Run again, as a person or the daemon would; (answers of the killed run, answers in all)."""
    for lost in fail_orphaned_runs(pipeline.instance):
        assert pipeline.instance.get_run_by_id(lost).status.value == "FAILURE"
    spent = killed.asked.stat().st_size if killed.asked.exists() else 0
    pipeline.answer = counted(killed.asked)
    assert pipeline.run(list(killed.keys)).success
    return spent, killed.asked.stat().st_size if killed.asked.exists() else 0


PUBLISHING = [point for point in POINTS if point.startswith("published")]


@pytest.mark.parametrize(
    "point", [point for point in POINTS if "more" not in point and point != "never" and point not in PUBLISHING]
)
def test_a_run_killed_anywhere_is_completed_by_the_next(pipeline: Pipeline, tmp_path: Path, point: str) -> None:
    keys = pipeline.put(*[f"t{n}" for n in range(4)])
    if "earlier attempt" in point:
        pipeline.answer = lambda _: said("")
        pipeline.run(keys)
    killed = KilledRun(tmp_path / "dagster_home", pipeline.storage, keys, point)
    run_and_kill(killed)
    known = answers_known(pipeline, keys)
    spent, in_all = go_on(pipeline, killed)
    assert in_all == spent + CALLS * 4 - known
    assert spent >= known
    is_whole(pipeline, keys)
    # A log that was torn before its first answer was whole holds nothing, and may be left: retention removes it.
    assert [log for log in earlier_logs(pipeline.store, keys) if log.dialogues] == []


@pytest.mark.parametrize("point", PUBLISHING)
def test_a_run_killed_while_it_publishes_has_announced_everything_once_when_the_next_has_ended(
    pipeline: Pipeline, tmp_path: Path, nats_url: str, point: str
) -> None:
    keys = pipeline.put(*[f"t{n}" for n in range(4)])
    killed = KilledRun(tmp_path / "dagster_home", pipeline.storage, keys, point, nats_url)
    run_and_kill(killed)
    fail_orphaned_runs(pipeline.instance)
    run_and_publish(pipeline, killed)
    is_whole(pipeline, keys)
    told = [(event["event_type"], event["payload"]["task_id"]) for event in messages(nats_url)]
    assert sorted(told) == [("deliberation.completed", f"t{n}") for n in range(4)]


def test_a_run_of_four_killed_at_random_moments_goes_on_each_time_from_what_was_heard(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """The same with a real model, and twenty times: `benchmarks.kills`."""
    keys = pipeline.put(*[f"t{n}" for n in range(4)])
    known, moments = 0, random.Random(19)
    while known < CALLS * 4 - 3:
        killed = KilledRun(tmp_path / "dagster_home", pipeline.storage, keys, f"{moments.randint(1, 8)} answers more")
        run_and_kill(killed)
        fail_orphaned_runs(pipeline.instance)
        assert answers_known(pipeline, keys) >= known
        known = answers_known(pipeline, keys)
    spent, in_all = go_on(pipeline, killed)
    assert in_all == spent + CALLS * 4 - known
    is_whole(pipeline, keys)
    # A log that was torn before its first answer was whole holds nothing, and may be left: retention removes it.
    assert [log for log in earlier_logs(pipeline.store, keys) if log.dialogues] == []


def test_a_run_of_60_killed_at_10_50_and_90_percent_spends_one_pass_and_what_was_under_way(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    keys = pipeline.put(*[f"t{n:02d}" for n in range(60)])
    for point in ("after 6 more", "after 24 more", "after 24 more"):
        killed = KilledRun(tmp_path / "dagster_home", pipeline.storage, keys, point)
        run_and_kill(killed)
        fail_orphaned_runs(pipeline.instance)
    assert len(pipeline.store.names("utterances", ".parquet")) == 54
    pipeline.answer = counted(killed.asked)
    assert pipeline.run(keys).success
    in_all = killed.asked.stat().st_size
    # This engine answers faster than a disk syncs. So what was not logged is at most all that was open: nine calls each.
    assert in_all <= 1.02 * CALLS * 60 + 3 * CALLS * IN_FLIGHT / 3
    is_whole(pipeline, keys)


def test_of_two_runs_racing_for_the_same_deliberations_each_result_is_of_one_of_them_whole(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    keys = pipeline.put(*[f"t{n}" for n in range(12)])
    register(pipeline.instance, keys)
    racing = KilledRun(tmp_path / "dagster_home", pipeline.storage, keys, "never")
    processes = [PROCESSES.Process(target=execute, args=(racing,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    is_whole(pipeline, keys)
    for table in ("utterances", "proposals"):
        assert set(pipeline.table(table).groupby("deliberation_id")["run_id"].nunique()) == {1}
