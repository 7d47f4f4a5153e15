"""The completions sensor against a real instance and a real nats-server."""

import asyncio
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.common.errors import BrokerUnavailable, StorageError
from fleet_pipeline.defs.resources import TickOptions
from fleet_pipeline.defs.sensors import completions
from fleet_pipeline.events.connection import connect
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.publisher import publish
from fleet_pipeline.events.streams import DELIBERATIONS
from fleet_pipeline.instance.event_log import merge, read_outcomes
from fleet_pipeline.storage.store import Store
from fleet_pipeline_tests.support.broker import messages
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.pipeline import Pipeline, put_described, silent_for

pytestmark = [pytest.mark.instance, pytest.mark.broker]


@pytest.fixture
def pipeline(instance: dg.DagsterInstance, tmp_path: Path) -> Pipeline:
    return Pipeline(instance, tmp_path / "storage")


def tick(
    pipeline: Pipeline, url: str | None, cursor: str | None, ticks: TickOptions | None = None
) -> tuple[str, str | None]:
    """Evaluate the sensor as the daemon does; (what the tick says, its cursor afterwards)."""
    with dg.build_sensor_context(
        instance=pipeline.instance,
        cursor=cursor,
        resources={"nats": NatsOptions(url=url), "ticks": ticks or TickOptions()},
    ) as context:
        result = completions.evaluate_tick(context)
    return result.skip_message, result.cursor


def test_every_outcome_good_or_bad_is_published_once_with_its_seats(pipeline: Pipeline, nats_url: str) -> None:
    keys = put_described(pipeline, "good1", "bad", "good2")
    pipeline.answer = silent_for("bad")
    pipeline.run(keys)
    said, cursor = tick(pipeline, nats_url, None)
    # Three seats, the deliberation, and for the good ones the orchestrator's word.
    assert "published 14 events" in said
    events = messages(nats_url)
    assert {event["payload"]["deliberation_id"]: event["event_type"] for event in events} == {
        "good1.dev": "deliberation.completed",
        "bad.dev": "deliberation.failed",
        "good2.dev": "deliberation.completed",
    }
    said, again = tick(pipeline, nats_url, cursor)
    assert said == "no outcomes since the last tick"
    assert again == cursor
    assert len(messages(nats_url)) == 3


def test_a_crash_between_publish_and_cursor_sends_again_and_the_broker_drops_it(pipeline, nats_url) -> None:
    pipeline.run(pipeline.put("a", "b"))
    tick(pipeline, nats_url, None)
    said, _ = tick(pipeline, nats_url, None)  # the cursor was lost with the crash
    assert said == "published 0 events; the broker knew 10 more already"
    assert len(messages(nats_url)) == 2


def test_with_the_broker_down_the_cursor_stays_and_events_follow_when_it_is_back(pipeline, nats_url) -> None:
    pipeline.run(pipeline.put("a"))
    with pytest.raises(BrokerUnavailable):
        tick(pipeline, "nats://127.0.0.1:1", None)
    said, _ = tick(pipeline, nats_url, None)
    assert "published 5 events" in said


def test_without_a_broker_the_tick_says_how_to_name_one(pipeline: Pipeline) -> None:
    said, cursor = tick(pipeline, None, None)
    assert "FLEET_NATS__URL" in said
    assert cursor is None


def test_a_rerun_after_a_failure_is_announced_anew(pipeline: Pipeline, nats_url: str) -> None:
    keys = put_described(pipeline, "t1")
    pipeline.answer = silent_for("t1")
    pipeline.run(keys)
    _, cursor = tick(pipeline, nats_url, None)
    pipeline.answer = lambda prompt: silent_for()(prompt)
    pipeline.run(keys)
    tick(pipeline, nats_url, cursor)
    assert [event["event_type"] for event in messages(nats_url)] == ["deliberation.failed", "deliberation.completed"]


def test_a_backlog_of_outcomes_is_read_page_by_page_without_gap_or_overlap(pipeline: Pipeline) -> None:
    keys = put_described(pipeline, *[f"t{n}" for n in range(9)])
    pipeline.answer = silent_for("t1", "t4", "t7")
    pipeline.run(keys)
    cursor, seen = 0, []
    while True:
        page, following = read_outcomes(pipeline.instance, cursor, limit=2)
        if following == cursor:
            break
        seen += [judged.key for judged in page]
        cursor = following
    assert sorted(seen) == sorted(keys)


def test_outcomes_that_come_between_the_reading_of_the_two_logs_are_not_passed_over(pipeline: Pipeline) -> None:
    keys = put_described(pipeline, "a", "bad", "b")
    pipeline.answer = silent_for("bad")
    instance, fetch = pipeline.instance, pipeline.instance.fetch_observations
    with pytest.MonkeyPatch.context() as patch:

        def after_a_run(*arguments, **named):
            if not instance.get_runs():
                pipeline.run(keys)
            return fetch(*arguments, **named)

        patch.setattr(instance, "fetch_observations", after_a_run)
        first, cursor = read_outcomes(instance, 0)
    second, _ = read_outcomes(instance, cursor)
    assert sorted(judged.key for judged in [*first, *second]) == sorted(keys)


def test_with_the_storage_away_the_cursor_stays_and_events_follow(pipeline: Pipeline, nats_url: str) -> None:
    pipeline.run(pipeline.put("a", "b"))
    with pytest.MonkeyPatch.context() as patch:

        def away(*_):
            raise StorageError("cannot read: Input/output error")

        patch.setattr(Store, "read", away)
        with pytest.raises(StorageError):
            tick(pipeline, nats_url, None)
    assert "published 10 events" in tick(pipeline, nats_url, None)[0]


def test_what_is_not_there_any_more_is_told(pipeline: Pipeline, nats_url: str) -> None:
    pipeline.run(pipeline.put("a"))
    pipeline.storage.rename(pipeline.storage.with_name("elsewhere"))
    assert "1 deliberations cannot be read" in tick(pipeline, nats_url, None)[0]


def test_an_event_larger_than_its_stream_takes_goes_without_its_texts(pipeline: Pipeline, nats_url: str) -> None:
    async def narrow() -> None:
        async with connect(NatsOptions(url=nats_url)) as connection:
            subjects = list(DELIBERATIONS.subjects)
            await connection.jetstream().add_stream(name=DELIBERATIONS.name, subjects=subjects, max_msg_size=4_000)

    asyncio.run(narrow())
    pipeline.answer = lambda prompt: said("a long proposal " * 300)
    pipeline.run(pipeline.put("a"))
    assert "published 5 events" in tick(pipeline, nats_url, None)[0]
    assert [event["payload"]["texts_included"] for event in messages(nats_url)] == [False]


def test_what_was_sent_before_the_broker_went_away_is_not_sent_again(pipeline: Pipeline, nats_url: str) -> None:
    pipeline.run(pipeline.put(*[f"t{n}" for n in range(6)]))
    pages = 0

    async def two_pages(*arguments, **named):
        nonlocal pages
        pages += 1
        if pages > 2:
            raise BrokerUnavailable("gone")
        return await publish(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fleet_pipeline.services.publishing.publish", two_pages)
        told, cursor = tick(pipeline, nats_url, None, TickOptions(page=2))
    assert told == "published 20 events; the broker knew 0 more already; then gone"
    assert tick(pipeline, nats_url, cursor)[0] == "published 10 events; the broker knew 0 more already"


def test_more_outcomes_than_a_page_are_published_in_one_tick(pipeline: Pipeline, nats_url: str) -> None:
    pipeline.run(pipeline.put(*[f"t{n}" for n in range(7)]))
    said, _ = tick(pipeline, nats_url, None, TickOptions(page=2))
    assert "published 35 events" in said


def test_a_run_with_a_storage_of_its_own_is_announced_from_there(pipeline: Pipeline, nats_url: str, tmp_path) -> None:
    keys = pipeline.put("t1")
    pipeline.run(keys)
    _, cursor = tick(pipeline, nats_url, None)
    elsewhere = Pipeline(pipeline.instance, tmp_path / "elsewhere")
    elsewhere.put("t1", description="Another task")
    elsewhere.run(keys)
    tick(pipeline, nats_url, cursor)
    files = [event["payload"]["proposals_file"] for event in messages(nats_url)]
    assert files == [
        str(tmp_path / "storage/proposals/t1.dev.parquet"),
        str(tmp_path / "elsewhere/proposals/t1.dev.parquet"),
    ]


def test_other_weights_announce_the_new_scores(pipeline: Pipeline, nats_url: str) -> None:
    keys = pipeline.put("t1", constraints={"requirements": ["says propose"]})
    pipeline.run(keys)
    _, cursor = tick(pipeline, nats_url, None)
    weights = {"resources": {"weights": {"config": {"fit": 0.1, "coverage": 0.1, "novelty": 1.0}}}}
    pipeline.run(keys, run_config=weights)
    tick(pipeline, nats_url, cursor)
    scores = [event["payload"]["winner_score"] for event in messages(nats_url)]
    assert len(scores) == 2
    assert scores[0] != scores[1]
    assert pipeline.starts == 1


def test_events_that_were_ready_and_events_from_the_tables_are_the_same(pipeline: Pipeline, nats_url: str) -> None:
    pipeline.run(pipeline.put("a", "b", "c"))
    assert "published 15 events" in tick(pipeline, nats_url, None)[0]
    (pipeline.storage / "outbox/a.dev.gz").unlink()
    torn = pipeline.storage / "outbox/b.dev.gz"
    torn.write_bytes(torn.read_bytes()[:-20])
    (pipeline.storage / "outbox/c.dev.gz").write_bytes(b"")  # as a power cut leaves a file that was not synchronised
    assert tick(pipeline, nats_url, None)[0] == "published 0 events; the broker knew 15 more already"


def test_a_deliberation_whose_files_are_torn_does_not_hold_up_its_neighbours(pipeline: Pipeline, nats_url: str) -> None:
    pipeline.run(pipeline.put("a", "b", "c"))
    for file in ("outbox/b.dev.gz", "deliberations/b.dev.parquet"):
        (pipeline.storage / file).write_bytes(b"torn")
    said, cursor = tick(pipeline, nats_url, None)
    assert "published 10 events" in said
    assert "1 deliberations cannot be read" in said
    assert tick(pipeline, nats_url, cursor)[0] == "no outcomes since the last tick"


@given(st.lists(st.sampled_from(["good", "bad"]), max_size=60), st.integers(1, 7))
def test_merging_pages_of_two_logs_loses_and_doubles_nothing(kinds: list[str], limit: int) -> None:
    entries = [(position, f"k{position}", kind) for position, kind in enumerate(kinds, start=1)]
    cursor, seen = 0, []
    for _ in range(len(entries) + 1):
        logs = [[(p, k) for p, k, kind in entries if kind == name and p > cursor][:limit] for name in ("good", "bad")]
        keys, following = merge(logs, cursor, limit, len(entries))
        assert following >= cursor
        seen += keys
        cursor = following
    assert seen == [key for _, key, _ in entries]
