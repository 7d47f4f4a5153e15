"""The events of agents with tools."""

import json
from functools import partial

import pytest
from jsonschema import Draft202012Validator

from fleet_pipeline.deliberation.action_rows import Actions
from fleet_pipeline.deliberation.rows import ProposalRow
from fleet_pipeline.events.completions import deliberation_events
from fleet_pipeline.events.connection import run_blocking
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.lookup import stored_keys
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.publisher import publish
from fleet_pipeline.services.event_schemas import schemas
from fleet_pipeline_tests.support.rows import a_seat, an_artifact, an_operation, an_outcome

pytestmark = pytest.mark.broker

OPERATIONS = [
    an_operation(1),
    an_operation(2, None, error="this is no JSON"),
    an_operation(3, "tests.pytest", ok=False, outcome="failed", error="1 failed"),
    an_operation(1, "git.log", agent_id="agent-dev-002"),
]
ACTIONS = Actions(OPERATIONS, [an_artifact(tested="broken"), an_artifact()], "/s/operations/t1.dev.parquet")
SEATS = [a_seat(1, tested="verified"), a_seat(2, tested="broken"), a_seat(3, None)]


def events(actions: Actions | None = ACTIONS, seats: list[ProposalRow] = SEATS, max_bytes: int = 1_000_000, **changes) -> list[Envelope]:  # fmt: skip
    outcome = an_outcome(tools=True, **changes)
    return list(deliberation_events(outcome, seats, {}, "/s/t1.dev.parquet", max_bytes, actions))


def results(**arguments) -> list[Envelope]:
    return [one for one in events(**arguments) if one.event_type == "agent.results"]


def test_each_call_and_then_what_each_agent_has_come_to_is_announced_before_the_end() -> None:
    types = [one.event_type for one in events()]
    assert types[:6] == ["agent.tool.executed"] * 3 + ["agent.results"] * 3
    assert types[6:] == [one.event_type for one in events(actions=None)]
    assert [one.subject for one in results()] == ["agent.results.t1"] * 3
    calls = [one.payload for one in events()[:3]]
    assert [(one["agent_id"], one["tool"], one["operation"], one["success"]) for one in calls] == [
        ("agent-dev-001", "files", "read_file", True),
        ("agent-dev-001", "tests", "pytest", False),
        ("agent-dev-002", "git", "log", True),
    ]


def test_results_have_the_fields_of_the_earlier_system_and_a_trail_that_is_filled() -> None:
    first, second, third = (one.payload for one in results())
    assert set(first) >= {
        "task_id", "agent_id", "role", "status", "success", "operations", "artifacts", "audit_trail", "error",
        "duration_ms", "timestamp", "model", "enable_tools",
    }  # fmt: skip
    assert [(one["tool"], one["operation"], one["step"], one["success"]) for one in first["operations"]] == [
        ("files", "read_file", 1, True), (None, None, 2, False), ("tests", "pytest", 3, False)
    ]  # fmt: skip
    assert (first["artifacts"]["commit_sha"], first["artifacts"]["tested"]) == ("c0ffee", "verified")  # the last turn's
    assert first["audit_trail"][0]["params"] == {"path": "app.py"}
    assert first["audit_trail"][0]["output"] == "def one(): ..."
    assert (first["status"], first["success"]) == ("completed", True)
    assert (second["status"], second["success"]) == ("completed", False)  # its change broke a test
    assert (third["status"], third["success"], third["operations"]) == ("failed", False, [])


def test_results_that_are_too_large_leave_out_texts_and_then_calls() -> None:
    whole = results()[0]
    without_texts = results(max_bytes=len(whole.model_dump_json()) - 1)[0].payload
    assert (without_texts["texts_included"], without_texts["audit_trail"]) == (False, [])
    assert without_texts["artifacts"]["diff"] is None
    assert len(without_texts["operations"]) == 3
    many = Actions([an_operation(step) for step in range(5_000)], [an_artifact()], "/s/operations/t1.dev.parquet")
    bare = results(actions=many, max_bytes=100_000)[0]
    assert len(bare.model_dump_json()) < 100_000
    assert (bare.payload["operations"], bare.payload["operations_count"]) == ([], 5_000)
    assert bare.payload["operations_file"] == "/s/operations/t1.dev.parquet"


def test_the_same_result_has_the_same_keys_and_another_has_others() -> None:
    keys = [one.idempotency_key for one in events()]
    assert keys == [one.idempotency_key for one in events(run_id="again")]
    assert len(set(keys)) == len(keys)
    again = Actions([an_operation(1, ok=False, outcome="refused")], [an_artifact(commits=["beef"])])
    assert not set(keys[:4]) & {one.idempotency_key for one in events(actions=again)[:2]}


def test_they_are_what_their_published_schemas_say() -> None:
    known = schemas()
    for one in [*events(), *events(max_bytes=10), *events(actions=Actions(), seats=[a_seat(1, None)])]:
        Draft202012Validator.check_schema(known[one.event_type])
        Draft202012Validator(known[one.event_type]).validate(json.loads(one.model_dump_json()))


def test_the_broker_keeps_them_by_task_and_they_are_found_again(nats_url: str) -> None:
    broker, sent = NatsOptions(url=nats_url), [one.sealed() for one in events()]
    assert len(run_blocking(broker, partial(publish, make_events=lambda _: sent)).stored) == len(sent)
    assert run_blocking(broker, stored_keys) == {key for _, key, _ in sent}
