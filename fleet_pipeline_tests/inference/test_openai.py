"""The engine for servers, against a scripted server that is not vLLM's: faults, limits, secrets, cancels."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fleet_pipeline.common.errors import EngineError, ModelUnavailable
from fleet_pipeline.deliberation.council import CouncilDefaults
from fleet_pipeline.deliberation.exchange import AgentError, Completion, Message, Request
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.deliberation.transcript import Status, Transcript
from fleet_pipeline.inference import openai
from fleet_pipeline.inference.openai import OpenAIEngine
from fleet_pipeline.inference.options import ServerOptions, VllmConfig
from fleet_pipeline_tests.support.councils import a_deliberation, a_job
from fleet_pipeline_tests.support.credentials import certificates, server_context
from fleet_pipeline_tests.support.model_servers import ScriptedServer

pytestmark = pytest.mark.unit
KEY = "sk-very-secret-4711"
WORDS = ["Use ", "a ", "token ", "bucket."]


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(openai, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("fleet_pipeline.inference.servers.PAUSE_SECONDS", 0.2)
    monkeypatch.setattr("fleet_pipeline.inference.servers._LOOK_SECONDS", 0.05)


def config(*urls: str, model: str = "served", **options: Any) -> VllmConfig:
    return VllmConfig(model=model, server=ServerOptions(urls=urls, **options))


def deliberated(engine: OpenAIEngine, count: int = 3, **fields: Any) -> tuple[list[Transcript], list[Completion]]:
    """Of councils, and every answer that was counted."""
    defaults = CouncilDefaults(model="m", sampling=Sampling(max_tokens=50))
    jobs = [a_job(a_deliberation(f"t{n}", defaults=defaults, **fields)) for n in range(count)]
    counted: list[Completion] = []
    finished = list(engine.run(jobs, counted.append))
    assert [one.error for one in finished] == [None] * count
    return [one.result for one in finished], counted


def once_each(*answers: Callable[[], Any]) -> Callable[[dict[str, Any]], Any]:
    """A script that gives these, and then words for ever."""
    left = list(answers)
    return lambda body: left.pop(0)() if left else WORDS


def refusal(status: int, **headers: str) -> Callable[[], web.Response]:
    return lambda: web.json_response({"error": {"message": "no"}}, status=status, headers=headers)


def test_councils_deliberate_and_rows_say_what_a_server_without_a_tokenizer_could_not_check() -> None:
    with ScriptedServer(lambda body: WORDS) as server, OpenAIEngine.start(config(server.url)) as engine:
        transcripts, counted = deliberated(engine)
        assert engine.origin("served").not_checked == "length, control_tokens"
    assert {one.status for one in transcripts} == {Status.COMPLETED}
    assert {u.text for one in transcripts for u in one.utterances} == {"Use a token bucket."}
    assert len(counted) == 27
    assert {(c.prompt_tokens, c.cached_tokens, c.completion_tokens) for c in counted} == {(10, 4, 4)}


def test_seeds_go_with_requests_and_a_retry_has_the_same_one() -> None:
    server = ScriptedServer(once_each(refusal(500), refusal(502)))
    with server, OpenAIEngine.start(config(server.url)) as engine:
        deliberated(engine, 1, num_agents=1, rounds=0)
    assert len(server.requests) == 3
    assert len({request["seed"] for request in server.requests}) == 1
    assert server.requests[0] == server.requests[2]


def test_a_request_that_fails_at_every_try_is_an_error_of_its_own_seat_with_the_reason() -> None:
    def script(body: dict[str, Any]) -> Any:
        return refusal(500)() if "fewest moving parts" in str(body["messages"]) else WORDS

    with ScriptedServer(script) as server, OpenAIEngine.start(config(server.url, tries=3)) as engine:
        ((transcript,), _) = deliberated(engine, 1, rounds=0)
    assert transcript.status is Status.COMPLETED
    failed = [u for u in transcript.utterances if u.error]
    assert {u.error for u in failed} == {AgentError.ENGINE}
    assert "it was sent 3 times (server.tries), the last time to http://127.0.0.1" in failed[0].error_message
    assert "500: no" in failed[0].error_message


def test_a_server_that_asks_for_patience_gets_it_and_no_try_is_counted() -> None:
    server = ScriptedServer(once_each(refusal(429, **{"Retry-After": "0.6"}), *[refusal(429)] * 12))
    with server, OpenAIEngine.start(config(server.url, tries=1)) as engine:
        ((transcript,), _) = deliberated(engine, 1, num_agents=1, rounds=0)
    assert transcript.status is Status.COMPLETED
    assert server.arrived[1] - server.arrived[0] >= 0.6
    assert len(server.requests) == 14


def test_a_server_that_goes_away_and_comes_back_costs_nothing_but_time() -> None:
    opened = threading.Event()

    async def slow() -> AsyncIterator[str]:
        for word in WORDS:
            opened.set()
            await asyncio.sleep(0.05)
            yield word

    server = ScriptedServer(lambda body: slow())
    with server, OpenAIEngine.start(config(server.url, tries=20)) as engine:

        def interrupt() -> None:
            opened.wait(60)
            server.stop()
            while engine.servers.servers[0].opened_at is None:
                threading.Event().wait(0.02)
            server.start()

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        transcripts, counted = deliberated(engine, 4)
        interrupter.join()
        assert engine.servers.servers[0].opened == 1
        assert engine.down_seconds > 0
    assert {one.status for one in transcripts} == {Status.COMPLETED}
    assert len(counted) == 36


def test_a_server_that_stops_leaves_no_connection_open_that_it_had_just_accepted() -> None:
    for _ in range(20):
        with ScriptedServer(lambda body: WORDS) as server:
            server._loop.call_soon_threadsafe(time.sleep, 0.02)  # so that connections and the stop come together
            clients = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(5)]
            server.stop()
            for client in clients:
                with client, suppress(ConnectionResetError):
                    assert client.recv(1) == b""


def test_a_run_ends_with_the_reason_when_no_server_answers_for_too_long() -> None:
    server = ScriptedServer(lambda body: refusal(503)())
    with server, OpenAIEngine.start(config(server.url, tries=100, patience_seconds=0.5)) as engine:
        defaults = CouncilDefaults(model="m")
        stream: Generator[Any] = engine.run([a_job(a_deliberation("t", defaults=defaults))])
        stopped = next(stream)
        assert {u.error for u in stopped.result.utterances} == {AgentError.CANCELLED}
        with pytest.raises(EngineError, match=r"no server has answered for 0.5 s .*503: no"):
            next(stream)


def test_two_servers_share_the_councils_and_one_takes_over_when_the_other_is_gone() -> None:
    one, other = ScriptedServer(lambda body: WORDS), ScriptedServer(lambda body: WORDS)
    with one, other, OpenAIEngine.start(config(one.url, other.url)) as engine:
        deliberated(engine, 12)
        both = len(one.requests), len(other.requests)
        one.stop()
        transcripts, _ = deliberated(engine, 4)
    assert sum(both) == 108
    assert min(both) >= 9
    assert {t.status for t in transcripts} == {Status.COMPLETED}


def test_a_request_that_is_given_up_is_ended_at_the_server_and_what_had_arrived_is_kept() -> None:
    begun = threading.Event()

    async def endless() -> AsyncIterator[str]:
        while True:
            yield "word "
            begun.set()
            await asyncio.sleep(0.01)

    server = ScriptedServer(lambda body: endless())
    with server, OpenAIEngine.start(config(server.url)) as engine:
        defaults = CouncilDefaults(model="m", timeout_seconds=3_000)
        stream = engine.run([a_job(a_deliberation("t", defaults=defaults, num_agents=1))])

        def stop() -> None:
            begun.wait(60)
            engine._fatal = EngineError("stop")

        threading.Thread(target=stop).start()
        stopped = next(stream)
        (utterance,) = stopped.result.utterances
        assert utterance.error is AgentError.CANCELLED
        assert utterance.text.startswith("word word")
        assert utterance.completion.completion_tokens == utterance.text.count("word")
        assert server.given_up.wait(60)
        stream.close()


def test_a_deadline_keeps_what_had_arrived() -> None:
    async def endless() -> AsyncIterator[str]:
        while True:
            yield "word "
            await asyncio.sleep(0.01)

    with ScriptedServer(lambda body: endless()) as server, OpenAIEngine.start(config(server.url)) as engine:
        defaults = CouncilDefaults(model="m", timeout_seconds=1)
        (finished,) = engine.run([a_job(a_deliberation("t", defaults=defaults, num_agents=1))])
    assert finished.result.status is Status.TIMEOUT
    assert finished.result.utterances[0].text.startswith("word")


def test_the_key_goes_to_the_server_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("A_KEY", KEY)
    options = config("http://127.0.0.1:1/v1", api_key_env="A_KEY")
    with ScriptedServer(lambda body: WORDS, key=KEY) as server:
        with OpenAIEngine.start(config(server.url, api_key_env="A_KEY")) as engine:
            transcripts, _ = deliberated(engine, 1)
        assert transcripts[0].status is Status.COMPLETED
        monkeypatch.setenv("A_KEY", "sk-wrong-0815")
        with pytest.raises(EngineError, match=r"401.*the key in A_KEY") as refused:
            OpenAIEngine.start(config(server.url, api_key_env="A_KEY"))
        with pytest.raises(EngineError, match=r"401.*name the variable that holds one in server.api_key_env"):
            OpenAIEngine.start(config(server.url))
    monkeypatch.delenv("A_KEY")
    with pytest.raises(EngineError, match="A_KEY, which is not set"):
        OpenAIEngine.start(options)
    seen = caplog.text + str(refused.value) + repr(options) + options.output_options + repr(engine.__dict__)
    assert KEY not in seen
    assert "0815" not in seen


def test_a_server_that_sends_the_key_back_does_not_get_it_into_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    refused = web.json_response({"error": {"message": f"no such thing for Bearer {KEY}"}}, status=422)
    script = once_each(lambda: refused, lambda: ["Bearer ", KEY])
    with (
        ScriptedServer(script, key=KEY) as server,
        OpenAIEngine.start(config(server.url, api_key_env="A_KEY")) as engine,
    ):
        ((transcript,), _) = deliberated(engine, 1, num_agents=2, rounds=0, quorum=1)
    said = [u.text + (u.error_message or "") for u in transcript.utterances]
    assert any("Bearer ***" in one for one in said)
    assert not any(KEY in one for one in said)


def test_a_server_with_a_certificate_of_its_own_is_trusted_where_that_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificates(tmp_path)
    monkeypatch.setenv("SERVED_KEY", "a-key")
    with ScriptedServer(lambda body: WORDS, key="a-key", certificate=server_context(tmp_path)) as server:
        own = config(server.url, api_key_env="SERVED_KEY", ca_file=str(tmp_path / "ca.pem"))
        with OpenAIEngine.start(own) as engine:
            ((transcript,), _) = deliberated(engine, 1, rounds=0)
        assert transcript.status is Status.COMPLETED
        with pytest.raises(EngineError, match="certificate"):
            OpenAIEngine.start(config(server.url, api_key_env="SERVED_KEY"))
        for wrong in (tmp_path / "none.pem", tmp_path / "server.key"):
            with pytest.raises(EngineError, match="server.ca_file .* cannot be read as certificates"):
                OpenAIEngine.start(config(server.url, ca_file=str(wrong)))


def test_no_redirect_takes_a_prompt_to_another_place() -> None:
    other = ScriptedServer(lambda body: WORDS)
    moved = lambda: web.Response(status=307, headers={"Location": f"{other.url}/chat/completions"})  # noqa: E731
    with other, ScriptedServer(lambda body: moved()) as server, OpenAIEngine.start(config(server.url)) as engine:
        stream = engine.run([a_job(a_deliberation("t"))])
        next(stream)
        with pytest.raises(EngineError, match="307"):
            next(stream)
    assert other.requests == []


def test_a_prompt_that_a_server_forbids_costs_its_own_seat_where_others_were_answered() -> None:
    script = once_each(lambda: WORDS, refusal(403))
    with ScriptedServer(script) as server, OpenAIEngine.start(config(server.url, max_in_flight=1)) as engine:
        ((transcript,), _) = deliberated(engine, 1, rounds=0)
    assert transcript.status is Status.COMPLETED
    assert [u.error for u in transcript.utterances if u.error] == [AgentError.ENGINE]


def test_an_outage_costs_no_tries_and_no_answer() -> None:
    script = once_each(*[refusal(503)] * 25)
    with ScriptedServer(script) as server, OpenAIEngine.start(config(server.url, tries=6, max_in_flight=1)) as engine:
        ((transcript,), _) = deliberated(engine, 1, num_agents=1, rounds=0)
        assert engine.servers.servers[0].opened == 1
    assert transcript.status is Status.COMPLETED
    assert len(server.requests) == 26


def test_an_answer_that_came_while_nobody_asked_is_kept_when_the_run_is_stopped() -> None:
    with ScriptedServer(lambda body: WORDS) as server, OpenAIEngine.start(config(server.url)) as engine:
        engine.submit("1", Request("t a", "served", (Message("user", "Hello"),), Sampling()))
        while engine._answers.empty():
            threading.Event().wait(0.01)
        assert engine.abort(["1"])["1"].text == "Use a token bucket."
        assert engine.step(0.0) == []


def test_a_list_of_models_that_arrives_in_parts_is_read_to_its_end() -> None:
    class Many(ScriptedServer):
        async def _models(self, request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            names = ["x" * 50] * 3_000 + [self.model]
            text = json.dumps({"data": [{"id": name} for name in names]}).encode()
            for start in range(0, len(text), 4_096):
                await response.write(text[start : start + 4_096])
            return response

    with Many(lambda body: WORDS) as server, OpenAIEngine.start(config(server.url)) as engine:
        deliberated(engine, 1, rounds=0)


def test_a_key_with_a_line_break_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", f"{KEY}\nX-Other: header")
    with pytest.raises(EngineError, match="A_KEY holds characters") as refused:
        OpenAIEngine.start(config("http://127.0.0.1:1/v1", api_key_env="A_KEY"))
    assert KEY not in str(refused.value)


def test_a_key_that_is_refused_in_the_midst_of_a_run_ends_it() -> None:
    with ScriptedServer(lambda body: refusal(401)()) as server, OpenAIEngine.start(config(server.url)) as engine:
        stream = engine.run([a_job(a_deliberation("t"))])
        next(stream)
        with pytest.raises(EngineError, match="401"):
            next(stream)


def test_a_key_that_the_tokenizer_of_a_server_refuses_in_a_run_ends_it_and_fails_no_council() -> None:
    class Tokenizing(ScriptedServer):
        left = 3

        def _app(self) -> web.Application:
            app = super()._app()
            app.router.add_post("/tokenize", self._tokenize)
            return app

        async def _tokenize(self, _: web.Request) -> web.Response:
            self.left -= 1
            if self.left < 0:
                return web.json_response({"error": {"message": "key revoked"}}, status=401)
            return web.json_response({"count": 9, "max_model_len": 4_096, "token_strs": ["Zwetschgenmus"]})

    with Tokenizing(lambda body: WORDS) as server, OpenAIEngine.start(config(server.url)) as engine:
        assert engine.origin("served").not_checked is None
        stream = engine.run([a_job(a_deliberation("t"))])
        assert {u.error for u in next(stream).result.utterances if u.error} == {AgentError.CANCELLED}
        with pytest.raises(EngineError, match="key revoked"):
            next(stream)


def test_a_model_that_the_server_does_not_have_is_named_beside_those_it_has() -> None:
    with (
        ScriptedServer(lambda body: WORDS, model="org/other") as server,
        pytest.raises(ModelUnavailable, match="no model 'served'; it has org/other"),
    ):
        OpenAIEngine.start(config(server.url))


def test_a_server_that_is_not_there_at_the_start_is_named_with_the_reason() -> None:
    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:1/v1: Cannot connect"):
        OpenAIEngine.start(config("http://127.0.0.1:1/v1"))


def test_a_prompt_that_the_server_finds_too_long_is_overlong_and_its_neighbours_go_on() -> None:
    def script(body: dict[str, Any]) -> Any:
        if "fewest moving parts" in str(body["messages"]):
            return web.json_response({"error": {"message": "maximum context length is 9 tokens"}}, status=400)
        return WORDS

    with ScriptedServer(script) as server, OpenAIEngine.start(config(server.url)) as engine:
        ((transcript,), _) = deliberated(engine, 1, rounds=0)
    assert transcript.status is Status.COMPLETED
    assert [u.error for u in transcript.utterances if u.error] == [AgentError.OVERLONG]


def test_no_more_requests_are_at_a_server_than_it_takes() -> None:
    at_once, most = 0, 0

    async def counted() -> AsyncIterator[str]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        yield "Enough."

    with (
        ScriptedServer(lambda body: counted()) as server,
        OpenAIEngine.start(config(server.url, max_in_flight=5)) as engine,
    ):
        deliberated(engine, 6, rounds=0)
    assert most == 5


def test_an_engine_that_is_closed_leaves_no_thread_and_no_task() -> None:
    before = {thread.name for thread in threading.enumerate()}
    with ScriptedServer(lambda body: WORDS) as server:
        engine = OpenAIEngine.start(config(server.url))
        engine.submit("1", Request("t a", "m", (Message("user", "Hello"),), Sampling()))
        engine.close()
        engine.close()
        assert not engine._thread.is_alive()
    assert "fleet-openai" not in {thread.name for thread in threading.enumerate()} - before
