"""What messages ask for, read strictly."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fleet_pipeline.common.errors import RequestRejected
from fleet_pipeline.common.messages import PLAN_APPROVED, REQUESTED, Received
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.ingest.options import RequestOptions
from fleet_pipeline.ingest.requests import DeliberationRequested, PlanApproved, Request, read_request
from fleet_pipeline_tests.support.councils import a_task

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PLAN = {
    "story_id": "story-1",
    "plan_id": "plan-1",
    "approved_by": "po",
    "timestamp": "2026-11-21",
    "roles": ["DEV", "qa"],
}


def received(content: Any, subject: str = REQUESTED, **fields: Any) -> Received:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Received(**{
        "subject": subject, "content": body, "id": "m1", "stream": "S", "sequence": 1, "sent_at": NOW, "deliveries": 1,
    } | fields)  # fmt: skip


def read(content: Any, subject: str = REQUESTED, options: RequestOptions | None = None, **fields: Any) -> Request:
    return read_request(received(content, subject, **fields), BUILT_IN_ROLES, options or RequestOptions(), NOW)


def enveloped(payload: Any, subject: str = REQUESTED, **fields: Any) -> dict:
    return {"event_type": subject, "idempotency_key": "k1", "payload": payload} | fields


def test_a_request_is_a_line_of_a_backlog_bare_or_in_an_envelope() -> None:
    line = {"task_id": "t1", "description": "Design a rate limiter", "roles": ["DEV", "QA"], "model": None}
    assert read(line) == Request("m1", (a_task(roles=["DEV", "QA"]),), NOW)
    assert read(enveloped(line)) == Request("k1", (a_task(roles=["DEV", "QA"]),), NOW)
    assert read(line | {"rerun": True}).rerun


def test_roles_of_a_roles_file_can_be_asked_for() -> None:
    roles = {**BUILT_IN_ROLES, "SECURITY": BUILT_IN_ROLES["DEV"].model_copy(update={"name": "SECURITY"})}
    message = received({"task_id": "t1", "description": "d", "roles": ["SECURITY"]})
    assert read_request(message, roles, RequestOptions(), NOW).tasks[0].roles == ("SECURITY",)


def test_a_plan_is_one_deliberation_for_each_role_with_what_the_story_and_the_plan_say() -> None:
    request = read(
        PLAN
        | {
            "story": {"title": "Log in with a passkey", "acceptance_criteria": ["Falls back to a password"]},
            "plan": "1. Add a table. 2. Add an endpoint.",
            "acceptance_criteria": ["Works offline"],
        },
        PLAN_APPROVED,
    )
    assert [(task.task_id, task.roles) for task in request.tasks] == [("plan-1", ("DEV",)), ("plan-1", ("QA",))]
    task = request.tasks[0]
    assert task.description == ("Story\n\ntitle: Log in with a passkey\n\nPlan\n\n1. Add a table. 2. Add an endpoint.")
    assert task.constraints.requirements == ("Works offline", "Falls back to a password")
    assert task.constraints.metadata == {"story_id": "story-1", "plan_id": "plan-1"}
    assert task.constraints.rubric == ("quality: high", "tests: required", "documentation: complete")


def test_a_plan_without_content_says_what_the_original_said() -> None:
    assert read(PLAN, PLAN_APPROVED).tasks[0].description == "Implement plan plan-1 for story story-1"


def test_a_plan_approved_again_is_the_same_tasks() -> None:
    again = PLAN | {"approved_by": "another", "timestamp": 1_763_700_000.5}
    assert read(again, PLAN_APPROVED).tasks == read(PLAN, PLAN_APPROVED).tasks


def test_a_plan_with_one_role_that_is_unknown_runs_the_others() -> None:
    request = read(PLAN | {"roles": ["DEV", "PO"]}, PLAN_APPROVED)
    assert [task.roles for task in request.tasks] == [("DEV",)]
    assert "unknown role 'PO'" in request.problems[0]


@pytest.mark.parametrize(
    ("content", "subject", "message"),
    [
        (b"not JSON", REQUESTED, "not valid JSON at column 1"),
        (b"\xff\xfe{}", REQUESTED, "not UTF-8 at byte 1"),
        (b"[" * 100_000, REQUESTED, "nested too deeply"),
        ([1], REQUESTED, "expected a JSON object"),
        ({"task_id": "t1"}, REQUESTED, "description: add this field"),
        ({"task_id": "../t", "description": "d"}, REQUESTED, "task_id: use 1 to 120 letters"),
        ({"task_id": "t1", "description": "d\x00"}, REQUESTED, "description: holds the character"),
        ({"task_id": "t1", "description": "d", "rerun": "yes"}, REQUESTED, "rerun: must be true or false"),
        ({"task_id": "t1", "description": "d", "color": 1}, REQUESTED, "color: no such field"),
        (b'{"task_id": "t1", "task_id": "t2"}', REQUESTED, "task_id: given twice"),
        (enveloped({"task_id": "t1", "description": "d"}, PLAN_APPROVED), REQUESTED, "event_type: must be deliberation"),
        (enveloped("text"), REQUESTED, "payload: must be an object"),
        ({name: value for name, value in PLAN.items() if name != "plan_id"}, PLAN_APPROVED, "plan_id: add this field"),
        (PLAN | {"roles": []}, PLAN_APPROVED, "roles: the plan names none"),
        (PLAN | {"roles": ["PO"]}, PLAN_APPROVED, "unknown role 'PO'"),
        (PLAN | {"plan_id": "plan/1"}, PLAN_APPROVED, "task_id: use 1 to 120 letters"),
        (PLAN | {"story": {"acceptance_criteria": 5}}, PLAN_APPROVED, "constraints.requirements.0: must be a text"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused_with_field_and_remedy(content: Any, subject: str, message: str) -> None:
    with pytest.raises(RequestRejected) as refused:
        read(content, subject)
    assert message in str(refused.value)


def test_an_id_that_is_no_text_is_made_one() -> None:
    line = {"task_id": "t1", "description": "d"}
    assert read(enveloped(line, idempotency_key="\ud800")).id == "?"
    assert read(enveloped(line, idempotency_key="")).id == read(enveloped(line, idempotency_key=5)).id == "m1"
    assert len(read(enveloped(line, idempotency_key="k" * 9_000)).id) == 500


def test_a_bare_plan_may_say_its_type_and_have_fields_without_values() -> None:
    request = read(PLAN | {"event_type": PLAN_APPROVED, "story": None, "extra": 1}, PLAN_APPROVED)
    assert len(request.tasks) == 2
    with pytest.raises(RequestRejected, match="names none"):
        read(PLAN | {"roles": None}, PLAN_APPROVED)


def test_ten_thousand_mistakes_are_told_in_a_few_words_and_at_once() -> None:
    with pytest.raises(RequestRejected, match="9981 more problems") as refused:
        read({"task_id": "t1", **{f"field {n} {'x' * 100}": 1 for n in range(10_000)}})
    assert len(str(refused.value)) < 4_000


def test_a_request_that_has_waited_too_long_or_is_too_large_is_refused() -> None:
    line = {"task_id": "t1", "description": "d" * 2_000}
    with pytest.raises(RequestRejected, match="too old: it has waited 7200 s"):
        read(line, sent_at=NOW - timedelta(hours=2), options=RequestOptions(max_age_seconds=3_600))
    with pytest.raises(RequestRejected, match="bytes long; at most 1000 fit"):
        read(line, options=RequestOptions(max_bytes=1_000))


# Any JSON, with the names that requests have among others, so that it gets past the first checks.
NAMES = st.sampled_from([*DeliberationRequested.model_fields, *PlanApproved.model_fields, "payload", "event_type"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([REQUESTED, "DEV", "t1", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=6),
    max_leaves=25,
)


def outcome(content: Any, subject: str) -> Any:
    """The tasks, or the reason why there are none. Anything else is raised."""
    try:
        return read(content, subject).tasks
    except RequestRejected as refused:
        return str(refused)


@given(JSON, st.sampled_from([REQUESTED, PLAN_APPROVED]))
@settings(max_examples=1_000)
def test_any_json_is_a_request_or_refused_with_a_reason(content: Any, subject: str) -> None:
    assert outcome(content, subject)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_reason(content: bytes) -> None:
    with pytest.raises(RequestRejected):
        read(content)


@given(st.dictionaries(NAMES, JSON, max_size=5))
@settings(max_examples=1_000)
def test_a_plan_with_anything_in_it_is_read_or_refused(fields: dict) -> None:
    assert outcome(PLAN | fields, PLAN_APPROVED)
