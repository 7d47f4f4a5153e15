"""What a broker has lost can be sent again from disk: a real broker, real files, scripted councils."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fleet_pipeline.cli import main
from fleet_pipeline.events.connection import connect, run_blocking
from fleet_pipeline.events.lookup import stored_keys
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline_tests.support.pipeline import Pipeline

pytestmark = [pytest.mark.instance, pytest.mark.broker]


def fleet(pipeline: Pipeline, url: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["events", *arguments, "--storage", str(pipeline.storage), "--nats", url])


def told(result: Result) -> dict[str, int]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def done(pipeline: Pipeline) -> Pipeline:
    pipeline.run(pipeline.put("t1", "t2", "t3"))
    return pipeline


def forget(url: str, stream: str, *numbers: int) -> None:
    async def delete() -> None:
        async with connect(NatsOptions(url=url)) as connection:
            for number in numbers:
                await connection.jetstream().delete_msg(stream, number)

    asyncio.run(delete())


def test_what_the_streams_lack_is_sent_and_nothing_else(done: Pipeline, nats_url: str) -> None:
    assert told(fleet(done, nats_url, "reconcile", "--json")) == {
        "deliberations": 3, "sent": 15, "known_to_the_broker": 0, "unreadable": {}
    }  # fmt: skip
    before = run_blocking(NatsOptions(url=nats_url), stored_keys)
    assert len(before) == 15
    assert told(fleet(done, nats_url, "reconcile", "--json"))["sent"] == 0
    forget(nats_url, "AGENT_RESPONSES", 2, 5)
    forget(nats_url, "DELIBERATIONS", 1)
    assert len(run_blocking(NatsOptions(url=nats_url), stored_keys)) == 12
    again = told(fleet(done, nats_url, "reconcile", "--json"))
    # Within the window the broker still knows the ids of what was deleted and drops them.
    assert again["sent"] + again["known_to_the_broker"] == 3


def test_a_broker_that_lost_everything_gets_everything_under_the_same_keys(
    done: Pipeline, nats_url: str, another_nats_url: str
) -> None:
    fleet(done, nats_url, "reconcile")
    assert told(fleet(done, another_nats_url, "reconcile", "--json"))["sent"] == 15
    assert run_blocking(NatsOptions(url=nats_url), stored_keys) == run_blocking(
        NatsOptions(url=another_nats_url), stored_keys
    )


def test_named_deliberations_are_sent_again(done: Pipeline, nats_url: str) -> None:
    assert "5 events of 1 deliberations sent, 0 known" in fleet(done, nats_url, "replay", "t2.dev").stdout
    assert "0 events of 1 deliberations sent, 5 known" in fleet(done, nats_url, "replay", "t2.dev").stdout
    assert told(fleet(done, nats_url, "replay", "--since", "1h", "--json"))["sent"] == 10
    assert told(fleet(done, nats_url, "replay", "--since", "2999-01-01", "--json"))["deliberations"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay"], "name deliberations, or a time"),
        (["replay", "t9.dev"], "no finished deliberation t9.dev"),
        (["replay", "--since", "yesterday"], "expected a time such as"),
        (["replay", "--since", "999999d"], "longer ago than there are dates"),
    ],
)
def test_what_cannot_be_meant_is_said(done: Pipeline, nats_url: str, arguments: list[str], message: str) -> None:
    result = fleet(done, nats_url, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_without_a_broker_it_says_how_to_name_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["events", "reconcile", "--storage", str(tmp_path)])
    assert result.exit_code == 2
    assert "FLEET_NATS__URL" in result.stderr


def test_others_messages_do_not_keep_what_is_there_from_being_compared(done: Pipeline, nats_url: str) -> None:
    """A header that looks like the server's own word ended the comparison, or hid what came after it."""
    fleet(done, nats_url, "reconcile")

    async def disturb() -> None:
        async with connect(NatsOptions(url=nats_url)) as connection:
            for status in ("404", "500"):
                headers = {"Status": status}
                await connection.jetstream().publish("agent.response.completed", b"theirs", headers=headers)

    asyncio.run(disturb())
    assert len(run_blocking(NatsOptions(url=nats_url), stored_keys)) == 15
    assert told(fleet(done, nats_url, "reconcile", "--json"))["sent"] == 0


def test_a_torn_file_costs_only_its_own_events(done: Pipeline, nats_url: str) -> None:
    file = done.storage / "deliberations/t2.dev.parquet"
    file.write_bytes(file.read_bytes()[:100])
    result = fleet(done, nats_url, "reconcile", "--since", "1h", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["sent"] == 10
    assert list(json.loads(result.stdout)["unreadable"]) == ["t2.dev"]
    assert "not sent: t2.dev:" in result.stderr
    assert fleet(done, nats_url, "replay", "t2.dev", "t1.dev").exit_code == 3
