from pathlib import Path

import pytest

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import TaskStore
from fleet_pipeline_tests.support.councils import a_task

pytestmark = pytest.mark.unit


def test_a_task_is_stored_once_for_each_role_and_read_back_the_same(tmp_path: Path) -> None:
    store, task = Store(str(tmp_path)), a_task(roles=["DEV", "QA"], constraints={"rubric": {"a": "b"}}, rounds=3)
    assert TaskStore(store, BUILT_IN_ROLES).put(task) == ["t1.dev", "t1.qa"]
    stored, role = TaskStore(store, BUILT_IN_ROLES).get("t1.qa")
    assert role.name == "QA"
    assert stored == task.model_copy(update={"roles": ("QA",)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no task is stored at"),
        (b"{", "not valid JSON"),
        (b"{}", "task_id: add this field"),
        (b'{"task_id": "other", "description": "d"}', "another deliberation than its name says"),
        (b'{"task_id": "t1", "description": "d", "roles": ["DEV", "QA"]}', "several roles"),
        (b"[1]", "must be an object"),
        (b'{"task_id": "t1", "description": "d", "roles": ["GONE"]}', "unknown role 'GONE'"),
    ],
)
def test_a_spec_that_does_not_hold_is_refused_with_its_place(tmp_path: Path, content, message: str) -> None:
    store = Store(str(tmp_path))
    if content is not None:
        store.write("tasks/t1.dev.json", content)
    with pytest.raises(InvalidInput, match=message) as caught:
        TaskStore(store, BUILT_IN_ROLES).get("t1.dev")
    assert "tasks/t1.dev.json" in str(caught.value)


@pytest.mark.parametrize("key", ["../../etc/passwd", "t1", "", ".dev", "t1.DEV", "/t1.dev"])
def test_a_key_that_is_no_id_is_never_a_path(key: str) -> None:
    with pytest.raises(InvalidInput, match="no deliberation id"):
        TaskStore(Store("memory://x"), BUILT_IN_ROLES).get(key)
