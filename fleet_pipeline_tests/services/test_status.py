"""Where deliberations stand: from a real instance and real files, by command, by client and by service."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fleet_pipeline.api.client import AsyncClient, Client
from fleet_pipeline.cli import main
from fleet_pipeline.common.errors import BrokerUnavailable, InvalidInput
from fleet_pipeline.events.connection import connect
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.instance.partitions import register
from fleet_pipeline.services import status
from fleet_pipeline.storage.schemas import UTTERANCES
from fleet_pipeline_tests.support.answering import answering
from fleet_pipeline_tests.support.broker import Broker
from fleet_pipeline_tests.support.councils import a_deliberation
from fleet_pipeline_tests.support.deployment import eventually
from fleet_pipeline_tests.support.http import ask, free_port
from fleet_pipeline_tests.support.intakes import Intakes, line
from fleet_pipeline_tests.support.pipeline import Pipeline, put_described, silent_for
from fleet_pipeline_tests.support.rows import a_footer
from fleet_pipeline_tests.support.serving import serving, status_service

pytestmark = [pytest.mark.instance, pytest.mark.broker]


def standing(pipeline: Pipeline, key: str) -> str:
    one = status_service(pipeline).status(key).status
    assert str(status_service(pipeline).statuses().get(key, "UNKNOWN")) == one
    return one


def test_a_deliberation_goes_from_unknown_to_completed(pipeline: Pipeline) -> None:
    assert standing(pipeline, "t1.dev") == "UNKNOWN"
    keys = pipeline.put("t1")
    assert standing(pipeline, "t1.dev") == "PENDING"
    job = pipeline.definitions.resolve_job_def("deliberate")
    run = pipeline.instance.create_run_for_job(job, tags=register(pipeline.instance, keys))
    assert standing(pipeline, "t1.dev") == "PENDING"
    pipeline.instance.handle_run_event(run.run_id, _started(job.name))
    assert standing(pipeline, "t1.dev") == "IN_PROGRESS"
    pipeline.instance.report_run_canceled(run)
    answer = status_service(pipeline).status("t1.dev")
    assert (answer.status, answer.run_id) == ("FAILED", run.run_id)
    assert "was cancelled before its outcome" in answer.error
    pipeline.run(keys)
    assert standing(pipeline, "t1.dev") == "COMPLETED"


def _started(job: str) -> Any:
    from dagster import DagsterEvent, DagsterEventType

    return DagsterEvent(DagsterEventType.RUN_START.value, job)


def test_a_completed_one_has_its_winner_and_every_result_best_first(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.put("t1"))
    answer = status_service(pipeline).status("t1.dev", with_texts=True)
    assert answer.winner_id in {result.agent_id for result in answer.results}
    assert [result.rank for result in answer.results] == sorted(result.rank for result in answer.results)
    assert (answer.total_agents, answer.successful_responses, answer.failed_responses) == (3, 3, 0)
    assert all(result.proposal.content for result in answer.results)
    assert status_service(pipeline).status("t1.dev").results[0].proposal.content is None


def test_a_failed_one_says_why_and_a_rerun_that_broke_does_not_pass_for_the_old_result(pipeline: Pipeline) -> None:
    keys = put_described(pipeline, "good", "bad")
    pipeline.answer = silent_for("bad")
    pipeline.run(keys)
    assert {key: standing(pipeline, key) for key in keys} == {"good.dev": "COMPLETED", "bad.dev": "FAILED"}
    assert "of 3 agents answered" in status_service(pipeline).status("bad.dev").error
    (pipeline.storage / "utterances/good.dev.parquet").unlink()
    pipeline.unavailable = {pipeline.source.model}
    pipeline.run(["good.dev"])
    answer = status_service(pipeline).status("good.dev")
    assert standing(pipeline, "good.dev") == "FAILED"
    assert "broke before its outcome; what had finished is kept" in answer.error


def test_one_that_timed_out_is_told_from_one_that_failed(pipeline: Pipeline) -> None:
    from fleet_pipeline.deliberation.transcript import Status
    from fleet_pipeline.storage.tables import write_rows

    keys = pipeline.put("t1")
    found = a_deliberation()
    with pytest.MonkeyPatch.context() as patch:
        # What the engine leaves when the deadline passes.
        def late(self: Any, keys: list[str]) -> Any:
            footer = a_footer(Status.TIMEOUT, "300 s are over", fingerprint=found.fingerprint, finished_at=300.0)
            write_rows(self.store, UTTERANCES, keys[0], [], footer)
            return self.progress

        patch.setattr("fleet_pipeline.services.transcribe.Transcription.run", late)
        pipeline.run(keys)
    assert standing(pipeline, "t1.dev") == "TIMEOUT"
    assert status_service(pipeline).status("t1.dev").error == "300 s are over"
    assert status_service(pipeline).counts() == {
        "total_deliberations": 1, "pending": 0, "in_progress": 0, "completed": 0, "failed": 0, "timeout": 1
    }  # fmt: skip


def test_partial_results_of_one_that_is_still_being_judged_are_told(pipeline: Pipeline) -> None:
    seen: list[dict] = []
    keys = pipeline.put("t1", "t2")
    with pytest.MonkeyPatch.context() as patch:
        from fleet_pipeline.services import conclude

        write = conclude.write_outcome

        def look(tasks: Any, key: str, *arguments: Any) -> Any:
            seen.append(status_service(pipeline).status(key, with_texts=True))
            return write(tasks, key, *arguments)

        patch.setattr(conclude, "write_outcome", look)
        pipeline.run(keys)
    assert [answer.status for answer in seen] == ["IN_PROGRESS"] * 2
    assert [len(answer.results) for answer in seen] == [3, 3]
    assert seen[0].results[0].proposal.content
    assert seen[0].winner_id is None


def test_an_answer_of_another_version_is_told_and_is_no_traceback(nats_url: str) -> None:
    async def answer(*_: Any) -> dict[str, int]:
        return {"status": 7}

    with answering(NatsOptions(url=nats_url), answer), Client(nats_url) as fleet:
        for ask in (fleet.status, fleet.result):
            with pytest.raises(BrokerUnavailable, match="answered in a form unknown here"):
                ask("t1.dev")


def test_what_is_no_id_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidInput, match="no deliberation id"):
        status_service(pipeline).status("../../etc/passwd")


def test_a_client_submits_asks_and_gets_the_result(intakes: Intakes) -> None:
    with serving(intakes.pipeline, intakes.url), Client(intakes.url) as fleet:
        submitted = fleet.submit(line("t1", roles=["DEV", "QA"]))
        assert submitted.deliberation_ids == ("t1.dev", "t1.qa")
        assert not submitted.duplicate
        assert fleet.submit(line("t1", roles=["DEV", "QA"])).duplicate
        assert fleet.stats()["requests_waiting"] == 1
        intakes.launch(intakes.tick())
        assert fleet.status("t1.qa").status == "COMPLETED"
        result = fleet.wait("t1.dev")
        assert len(result.results) == 3
        assert result.results[0].proposal.content
        stats = fleet.stats()
        assert (stats["total_deliberations"], stats["completed"], stats["requests_waiting"]) == (2, 2, 0)
        with pytest.raises(InvalidInput, match="no deliberation id"):
            fleet.status("../etc")
        with pytest.raises(InvalidInput, match="task 't2': description: add this field"):
            fleet.submit({"task_id": "t2"})


def test_a_client_waits_for_its_own_request_and_not_for_an_earlier_one(intakes: Intakes) -> None:
    with serving(intakes.pipeline, intakes.url), Client(intakes.url) as fleet:
        first = fleet.submit(line("t1"))
        intakes.launch(intakes.tick())
        rerun, other = fleet.submit(line("t1", "second"), rerun=True), fleet.submit(line("t1", "third"))
        assert fleet.status("t1.dev").status == "COMPLETED"
        assert [fleet.status("t1.dev", one.request_id).status for one in (rerun, other)] == ["PENDING"] * 2
        intakes.launch(intakes.tick())
        assert fleet.wait("t1.dev", rerun.request_id).status == "COMPLETED"
        refused = fleet.wait("t1.dev", other.request_id)
        assert refused.status == "FAILED"
        assert "the request was refused: t1.dev has been requested already" in refused.error
        assert fleet.status("t1.dev", first.request_id).status == "COMPLETED"


def test_a_rerun_that_is_cancelled_leaves_the_earlier_result_standing(pipeline: Pipeline) -> None:
    keys = pipeline.put("t1")
    pipeline.run(keys)
    job = pipeline.definitions.resolve_job_def("deliberate")
    run = pipeline.instance.create_run_for_job(job, tags=register(pipeline.instance, keys))
    pipeline.instance.report_run_canceled(run)
    assert standing(pipeline, "t1.dev") == "COMPLETED"


def test_a_spec_that_no_run_was_asked_for_says_so(pipeline: Pipeline) -> None:
    pipeline.put("t1")
    assert "no run has been asked for" in status_service(pipeline).status("t1.dev").error


def test_what_waits_is_read_once_for_a_thousand_answers(intakes: Intakes, monkeypatch) -> None:
    """1,400 that waited took 161 s to count once: each answer read all of the pending batches."""
    intakes.send_all([json.dumps(line(f"t{n}")).encode() for n in range(1_000)])
    intakes.tick()
    reads = []
    read = status.pending_batches
    monkeypatch.setattr(status, "pending_batches", lambda *arguments: reads.append(1) or read(*arguments))
    assert status_service(intakes.pipeline).counts()["pending"] == 1_000
    assert len(reads) == 1


def test_the_async_client_submits_many_and_reruns_one(intakes: Intakes) -> None:
    async def submit() -> None:
        async with AsyncClient(intakes.url) as fleet:
            many = await fleet.submit_all([line(f"t{n}") for n in range(20)])
            assert [one.deliberation_ids[0] for one in many] == [f"t{n}.dev" for n in range(20)]
            again = [await fleet.submit(line("t3", "other"), rerun=True) for _ in range(2)]
            assert [one.duplicate for one in again] == [False, False]

    asyncio.run(submit())
    intakes.tick()
    assert len(intakes.partitions) == 20
    assert intakes.task("t3.dev").description == "other"


def test_without_the_service_or_the_broker_the_client_says_what_to_do(nats_url: str) -> None:
    with Client(nats_url) as fleet, pytest.raises(BrokerUnavailable, match="start `fleet serve`"):
        fleet.status("t1.dev")
    with (
        pytest.raises(BrokerUnavailable, match=r"NATS at nats://127\.0\.0\.1:1"),
        Client("nats://u:hunter2@127.0.0.1:1"),
    ):
        pass


TOO_LARGE = line(
    "t1",
    context="x" * 400_000,
    constraints={
        "requirements": ["é" * 2_000] * 100,
        "rubric": ["é" * 2_000] * 50,
        "cluster_spec": {"a": "x" * 19_000},
        "metadata": {"a": "x" * 19_000},
    },
) | {"description": "é" * 99_000}


def test_a_task_larger_than_the_broker_takes_is_refused_before_it_is_sent(nats_url: str) -> None:
    with Client(nats_url) as fleet, pytest.raises(InvalidInput, match="t1: 12.* bytes, and the broker takes 1048576"):
        fleet.submit(TOO_LARGE)


def test_of_a_backlog_with_a_task_too_large_for_the_broker_the_others_are_submitted(
    nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.jsonl").write_text(
        "\n".join(json.dumps(one, ensure_ascii=False) for one in (line("t0"), TOO_LARGE, line("t2")))
    )
    result = CliRunner().invoke(main, ["submit", "b.jsonl", "--nats", nats_url])
    assert result.exit_code == 3
    assert result.stdout.split() == ["t0.dev", "t2.dev"]
    assert "refused: t1: 12" in result.stderr


def test_the_service_answers_bad_questions_and_can_be_found(pipeline: Pipeline, nats_url: str) -> None:
    async def question(subject: str, data: bytes) -> Any:
        async with connect(NatsOptions(url=nats_url)) as connection:
            return await connection.request(subject, data, timeout=5)

    with serving(pipeline, nats_url):
        for data, said in [
            (b"{", "not valid JSON"), (b"", "name a deliberation"), (b'{"id": 5}', "name a deliberation"),
            (b"x" * 5_000, "at most 4096 fit"), (b'"\xff', "no deliberation id"), (b"{" * 4_000, "not valid JSON"),
        ]:  # fmt: skip
            reply = asyncio.run(question("fleet.status", data))
            assert reply.headers["Nats-Service-Error-Code"] == "400", data
            assert said in reply.headers["Nats-Service-Error"]
        pipeline.run(pipeline.put("t1"))
        (pipeline.storage / "deliberations/t1.dev.parquet").write_bytes(b"torn")
        reply = asyncio.run(question("fleet.status", b"t1.dev"))
        assert "is damaged" in reply.headers["Nats-Service-Error"]
        found = json.loads(asyncio.run(question("$SRV.INFO.fleet", b"")).data)
        assert {one["subject"] for one in found["endpoints"]} == {"fleet.status", "fleet.result", "fleet.stats"}


@pytest.fixture
def fleet(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    # The instance of the fixture has set DAGSTER_HOME.
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, text: str | None = None) -> Result:
        storage = () if arguments[0] == "--help" else ("--storage", str(pipeline.storage))
        return CliRunner().invoke(main, [*arguments, *storage], input=text)

    return call


def test_status_counts_and_lists_what_is_open(pipeline: Pipeline, fleet: Any) -> None:
    assert "no deliberations in" in fleet("status").stdout
    pipeline.run(pipeline.put("t1", "t2"))
    pipeline.put("t3")
    shown = fleet("status").stdout
    assert "3 deliberations: 2 COMPLETED  1 PENDING" in shown
    assert "t3.dev  PENDING" in shown
    assert "t1.dev" not in shown
    document = json.loads(fleet("status", "--json").stdout)
    assert document["counts"] == {"COMPLETED": 2, "PENDING": 1}
    named = fleet("status", "t1.dev", "t3.dev")
    assert named.exit_code == 3
    assert "3 of 3" in named.stdout
    assert fleet("status", "t1.dev").exit_code == 0
    assert json.loads(fleet("status", "t1.dev", "--json").stdout)[0]["results"][0]["proposal"]["content"]
    assert fleet("status", "nonsense").exit_code == 2


def test_a_request_that_no_sensor_has_taken_yet_is_pending(intakes: Intakes, fleet: Any, monkeypatch) -> None:
    monkeypatch.setenv("FLEET_NATS__URL", intakes.url)
    text = json.dumps(line("t1", roles=["QA"])) + "\n" + json.dumps(line("t2"))
    submitted = fleet("submit", "-", "--json", text=text)
    assert submitted.exit_code == 0, submitted.output
    assert json.loads(submitted.stdout)["submitted"][0]["deliberation_ids"] == ["t1.qa"]
    asked = json.loads(fleet("status", "t1.qa", "t2.dev", "t1.dev", "t9.dev", "--json").stdout)
    assert [answer["status"] for answer in asked] == ["PENDING", "PENDING", "UNKNOWN", "UNKNOWN"]
    assert "2 waiting to be taken, 0 refused" in fleet("status").stdout
    intakes.launch(intakes.tick())
    assert json.loads(fleet("status", "t1.qa", "--json").stdout)[0]["status"] == "COMPLETED"


def test_without_a_broker_submitting_goes_to_the_inbox(pipeline: Pipeline, fleet: Any) -> None:
    text = json.dumps(line("t1", roles=["DEV", "QA"])) + "\n{}\n"
    submitted = fleet("submit", "-", text=text)
    assert submitted.exit_code == 3
    assert submitted.stdout == "t1.dev  t1.qa\n"
    assert "refused: line 2: task_id: add this field" in submitted.stderr
    (file,) = (pipeline.storage / "inbox").iterdir()
    assert json.loads(file.read_text())["task_id"] == "t1"
    fleet("submit", "-", "--rerun", text=text)
    assert len(list((pipeline.storage / "inbox").glob("*.rerun.jsonl"))) == 1
    assert fleet("submit", "-", text="{}").exit_code == 2


def test_serving_survives_the_broker_and_ends_when_it_is_told(pipeline: Pipeline, tmp_path: Path) -> None:
    broker = Broker(tmp_path / "nats")
    pipeline.run(pipeline.put("t1"))
    environment = os.environ | {"DAGSTER_HOME": str(tmp_path / "dagster_home")}
    port = free_port()
    command = [Path(sys.executable).with_name("fleet"), "serve", "--nats", broker.url, "--storage", pipeline.storage]
    command += ["--health", f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert process.stderr is not None
        assert "answering on fleet.status" in process.stderr.readline()
        with Client(broker.url) as fleet:
            assert fleet.status("t1.dev").status == "COMPLETED"
            assert ask(port, "/healthz") == ask(port, "/readyz") == (200, "ok\n")
            assert ask(port, "/metrics")[0] == 404
            broker.kill()
            eventually(lambda: ask(port, "/readyz") == (503, "ConnectionError\n"), "the service not to be ready")
            assert ask(port, "/healthz") == (200, "ok\n")
            broker.start()
            eventually(lambda: ask(port, "/readyz")[0] == 200, "the service to be ready again")
            eventually(lambda: answers(fleet), "the service to be back")
        process.terminate()
        assert process.wait() == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        broker.kill()


def answers(fleet: Client) -> bool:
    try:
        return fleet.status("t1.dev").status == "COMPLETED"
    except BrokerUnavailable:
        return False


def test_a_service_asks_the_broker_on_the_connection_it_has(intakes: Intakes, monkeypatch) -> None:
    """Each question about what waits opened an event loop and a connection of its own."""
    from nats.aio.client import Client as NatsClient

    opened = []
    connect = NatsClient.connect

    async def counted(*arguments: Any, **named: Any) -> Any:
        opened.append(1)
        return await connect(*arguments, **named)

    intakes.send(line("t1"))
    monkeypatch.setattr(NatsClient, "connect", counted)
    with serving(intakes.pipeline, intakes.url), Client(intakes.url) as fleet:
        for _ in range(3):
            assert fleet.status("t1.dev").status == "PENDING"
            assert fleet.stats()["requests_waiting"] == 1
    assert len(opened) == 2  # the service's, and the client's
