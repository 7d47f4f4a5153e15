"""What goes to a server and what comes back, without a server."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.deliberation.exchange import AgentError, Message, Request
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.inference.chat_api import Busy, NoAccess, Refused, ServerFailed, Stream, body_of, failure_of
from fleet_pipeline.inference.options import Price, ServerOptions, VllmConfig

pytestmark = pytest.mark.unit

CONFIG = VllmConfig(model="m", stands_for="org/served", chat_template_kwargs={"enable_thinking": False})
CHAT = [{"role": "user", "content": "Hello"}]


def a_request(**fields: Any) -> Request:
    return Request(
        **{"name": "t.dev a", "model": "m", "messages": (Message("user", "Hello"),), "sampling": Sampling(), **fields}
    )


def line(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n"


def delta(**fields: Any) -> bytes:
    return line({"choices": [{"index": 0, "delta": fields}]})


END = line({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
USAGE = line(
    {
        "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}},
    }
)
DONE = b"data: [DONE]\n"


def fed(*lines: bytes) -> Stream:
    stream = Stream(temperature=0.7)
    for one in lines:
        stream.take(one)
    return stream


def test_a_stream_becomes_a_completion_with_the_tokens_that_the_server_counts() -> None:
    stream = fed(
        b": keep-alive\n",
        b"\n",
        delta(role="assistant", content=""),
        delta(content="He"),
        delta(content="llo"),
        END,
        USAGE,
        DONE,
    )
    answer = stream.completion()
    assert (answer.text, answer.finish_reason, answer.reasoning, answer.error) == ("Hello", "stop", None, None)
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (9, 8, 4)
    assert answer.mean_logprob is None


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_that_the_server_has_split_off_stays_apart(name: str) -> None:
    answer = fed(delta(**{name: "I think"}), delta(content="So"), END, DONE).completion()
    assert (answer.reasoning, answer.text) == ("I think", "So")


def test_of_a_server_that_counts_nothing_each_event_is_a_token() -> None:
    assert fed(delta(content="a"), delta(content="b")).partial().completion_tokens == 2


def test_the_mean_log_probability_is_that_of_all_tokens() -> None:
    with_logprobs = [
        line({"choices": [{"delta": {"content": "x"}, "logprobs": {"content": [{"token": "x", "logprob": value}]}}]})
        for value in (-1.0, -3.0)
    ]
    assert fed(*with_logprobs, END, DONE).completion().mean_logprob == -2.0


@pytest.mark.parametrize(
    "lines",
    [[], [delta(content="a")], [delta(content="a"), END], [delta(content="a"), END, USAGE], [delta(content="a"), DONE]],
)
def test_an_answer_that_ends_in_the_middle_is_a_failure_of_the_server(lines: list[bytes]) -> None:
    with pytest.raises(ServerFailed, match="ended in the middle"):
        fed(*lines).completion()


@pytest.mark.parametrize(
    "bad",
    [
        b"<html>It works</html>\n", b'data: {"choices": [{"del\n', b"data: 7\n", b"data: null\n", b"data: []\n",
        b'data: {"choices": 7}\n', b'data: {"choices": [7]}\n', b'data: {"choices": [{"delta": {"content": 7}}]}\n',
        b'data: {"choices": [], "usage": {"prompt_tokens": "many"}}\n', b'data: {"nothing": 1}\n', b"data: \xff\xfe\n",
    ],
)  # fmt: skip
def test_what_is_no_part_of_a_stream_is_a_failure_of_the_server(bad: bytes) -> None:
    with pytest.raises(ServerFailed):
        fed(delta(content="a"), bad)


@given(st.lists(st.binary(max_size=60) | st.binary(max_size=60).map(lambda rest: b"data: " + rest), max_size=6))
def test_no_bytes_of_a_server_raise_anything_else(lines: list[bytes]) -> None:
    stream = Stream(temperature=0.7)
    try:
        for one in lines:
            stream.take(one + b"\n")
        stream.completion()
    except (ServerFailed, Busy, Refused, NoAccess):
        pass


@given(st.lists(st.integers(0, 400), max_size=8))
def test_where_a_network_cuts_a_stream_makes_no_difference(cuts: list[int]) -> None:
    whole = b"".join([delta(content="Grüße, "), delta(content="Welt"), END, USAGE, DONE])
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    parts = [whole[start:end] for start, end in pairwise(places)]
    assert fed(*parts).completion() == fed(whole).completion()


def test_counts_that_no_answer_has_are_a_failure_and_more_cached_than_read_is_all() -> None:
    for count in (-1, 10**30, 1e999):
        usage = b'data: {"choices": [], "usage": {"prompt_tokens": %s}}\n' % json.dumps(count).encode()
        with pytest.raises(ServerFailed):
            fed(usage)
    usage = {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}}
    assert fed(line({"choices": [], "usage": usage})).partial().cached_tokens == 3


def test_half_a_character_is_replaced_and_one_in_two_events_is_whole() -> None:
    assert (
        fed(delta(content="a\ud83d"), delta(content="\ude00"), delta(content="\ud800!")).partial().text == "a😀\ufffd!"
    )


def test_an_answer_is_not_kept_without_end() -> None:
    with pytest.raises(ServerFailed, match="its answer has more than"):
        fed(*[b": keep-alive\n" * 80_000] * 100)


def test_reasoning_of_nothing_leaves_the_marks_in_the_text_to_tell() -> None:
    assert fed(delta(reasoning_content=""), delta(content="<think>x</think>y")).partial().reasoning is None


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    with pytest.raises(ServerFailed, match="a line of its answer"):
        fed(*[b"data: " + b"x" * 300_000] * 4)


def test_an_error_in_the_midst_of_a_stream_is_what_its_status_would_be() -> None:
    with pytest.raises(ServerFailed, match="500: out of memory"):
        fed(line({"error": {"message": "out of memory", "code": 500}}))
    with pytest.raises(Refused, match="bad schema"):
        fed(line({"error": {"message": "bad schema", "code": 400}}))


def test_an_end_that_is_neither_a_stop_nor_a_limit_is_an_error_of_the_answer() -> None:
    answer = fed(
        delta(content="a"), line({"choices": [{"delta": {}, "finish_reason": "content_filter"}]}), DONE
    ).completion()
    assert answer.error is AgentError.ENGINE
    assert "content_filter" in answer.error_message


@pytest.mark.parametrize("status", [408, 409, 425, 500, 502, 503, 504, 520])
def test_errors_of_a_server_are_worth_another_try(status: int) -> None:
    assert isinstance(failure_of(status, "", {}), ServerFailed)


@pytest.mark.parametrize("status", [301, 307, 401, 402, 403, 404])
def test_a_wrong_key_or_name_ends_the_run(status: int) -> None:
    assert isinstance(failure_of(status, "", {}), NoAccess)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, '{"error": {"message": "x", "code": "context_length_exceeded"}}', AgentError.OVERLONG),
        (400, '{"message": "This model\'s maximum context length is 4096 tokens"}', AgentError.OVERLONG),
        (400, '{"error": {"message": "temperature must be below 2"}}', AgentError.ENGINE),
        (422, "not JSON", AgentError.ENGINE),
    ],
)
def test_a_refused_prompt_costs_its_own_seat_and_says_why(status: int, body: str, error: AgentError) -> None:
    refused = failure_of(status, body, {})
    assert isinstance(refused, Refused)
    assert refused.error is error


def test_a_server_s_message_is_one_line_of_bounded_length_without_control_characters() -> None:
    refused = failure_of(400, json.dumps({"error": {"message": "a\n\x1b[31m" + "b" * 10_000}}), {})
    assert isinstance(refused, Refused)
    assert len(refused.message) < 600
    assert refused.message.isprintable()


def test_patience_is_asked_for_in_seconds_or_by_a_date_or_not_at_all() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    seconds = [
        failure_of(429, "", headers)
        for headers in ({"Retry-After": "3"}, {"Retry-After": later}, {}, {"Retry-After": "soon"})
    ]
    assert [type(one) for one in seconds] == [Busy] * 4
    after = [one.after_seconds for one in seconds if isinstance(one, Busy)]
    assert after[0] == 3.0
    assert after[1] is not None
    assert 90 < after[1] <= 100
    assert after[2:] == [None, None]
    assert isinstance(failure_of(503, "", {"Retry-After": "3"}), Busy)


def test_any_server_gets_the_parameters_of_the_api_alone_and_vllm_all_of_its_own() -> None:
    request = a_request(seed=7, temperature_scale=1.3, least_repetition_penalty=1.1)
    plain = body_of(request, CHAT, CONFIG, None, is_vllm=False)
    assert set(plain) == {"model", "messages", "seed", "stream", "stream_options", "temperature", "max_tokens"}
    assert (plain["model"], plain["seed"], plain["temperature"]) == ("org/served", 7, pytest.approx(0.91))
    own = body_of(request, CHAT, CONFIG, None, is_vllm=True)
    assert own["repetition_penalty"] == 1.1
    assert own["repetition_detection"]["min_count"] == 3
    assert own["chat_template_kwargs"] == {"enable_thinking": False}


def test_parameters_that_a_person_has_set_go_to_any_server() -> None:
    config = CONFIG.model_copy(update={"sampling": Sampling(top_k=20, repetition_penalty=1.05)})
    body = body_of(a_request(sampling=Sampling(min_p=0.1)), CHAT, config, None, is_vllm=False)
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (20, 0.1, 1.05)


def test_an_answer_is_as_long_as_the_prompt_leaves_room_and_no_hotter_than_the_api_allows() -> None:
    request = a_request(sampling=Sampling(max_tokens=500, temperature=1.9), temperature_scale=1.3)
    body = body_of(request, CHAT, CONFIG, 100, is_vllm=True)
    assert (body["max_tokens"], body["temperature"]) == (100, 2.0)


def test_a_schema_goes_as_structured_output() -> None:
    body = body_of(a_request(schema='{"type": "object"}'), CHAT, CONFIG, None, is_vllm=False)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_a_price_is_per_million_tokens_and_cached_ones_may_cost_less() -> None:
    assert Price(prompt=2, completion=6).of(1_000_000, 500_000, 100_000) == pytest.approx(2.6)
    assert Price(prompt=2, cached=0.5, completion=6).of(1_000_000, 500_000, 0) == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"urls": ["http://user:secret@host/v1"]}, "api_key_env"),
        ({"urls": ["http://host/v1?key=secret"]}, "api_key_env"),
        ({"urls": ["ftp://user:secret@host"]}, "api_key_env"),
        ({"urls": ["user:secret@host:8000"]}, "api_key_env"),
        ({"urls": ["ftp://host"]}, "expected a URL"),
        ({"urls": ["host:8000"]}, "expected a URL"),
        ({"urls": []}, "at least 1"),
        ({"urls": ["http://a/v1", "http://b/v1"], "weights": [1]}, "one above 0 for each"),
        ({"urls": ["http://a/v1"], "weights": [0]}, "one above 0 for each"),
        ({"urls": ["http://gpu:8000/v1"], "api_key_env": "KEY"}, "use https"),
        ({"urls": ["https://gpu/v1"], "api_key_env": "sk-secret"}, "pattern"),
        ({"urls": ["http://10.0.0.1/v1"], "api_key_env": "KEY"}, "use https"),
    ],
)
def test_wrong_options_of_a_server_are_refused_with_the_remedy(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        ServerOptions.model_validate(fields)
    assert "secret" not in str(caught.value).partition("input_value")[0]


@pytest.mark.parametrize(
    "url", ["https://gpu/v1", "http://localhost:8000/v1", "http://127.0.0.1/v1", "http://[::1]:8000/v1"]
)
def test_a_key_goes_over_an_encrypted_wire_or_stays_on_the_machine(url: str) -> None:
    assert ServerOptions(urls=(url,), api_key_env="KEY").urls == (url,)
