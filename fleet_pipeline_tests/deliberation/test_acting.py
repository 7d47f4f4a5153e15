"""Turns of agents that act: what is asked for, told, bounded and kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fleet_pipeline.deliberation.acting import Acted, Change, act
from fleet_pipeline.deliberation.council import Deliberation, Toolset
from fleet_pipeline.deliberation.exchange import Action, AgentError, Completion, Done, Request
from fleet_pipeline.deliberation.prompts import propose
from fleet_pipeline.deliberation.protocol import deliberate, request_name
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline_tests.support.councils import a_deliberation, said

pytestmark = pytest.mark.unit
TOOLS = Toolset(
    "files.read_file(path: string): Read.\nfiles.write_file(path: string, content: string): Write.",
    ('{"properties":{"tool":{"const":"files.read_file"}}}', '{"properties":{"tool":{"const":"files.write_file"}}}'),
    frozenset({"files.write_file"}),
)
Answers = Callable[[Request], Completion]
Does = Callable[[Action], Done]


def acting(**use: Any) -> Deliberation:
    return replace(a_deliberation(tools=use or True, num_agents=1, rounds=0), toolset=TOOLS)


def call(tool: str, **arguments: Any) -> str:
    return json.dumps({"tool": tool, "arguments": arguments})


def answer(text: str) -> str:
    return json.dumps({"answer": text})


def turn(deliberation: Deliberation, *answers: str | Completion, does: Does | None = None) -> tuple[Acted, list[Any]]:
    """A turn in which the model gives these answers, and everything that was asked for."""
    seat = deliberation.seats[0]
    first = Request(request_name(deliberation.id, seat.agent_id, "propose", 0, seat.agent_id, 1), "m", propose(deliberation, seat).messages, Sampling())  # fmt: skip
    exchange = act(deliberation, propose(deliberation, seat), first, ())
    left, asked = list(answers), []
    told: Any = None
    while True:
        try:
            wanted = exchange.send(told)
        except StopIteration as stop:
            return stop.value, asked
        asked.append(wanted)
        if isinstance(wanted, Action):
            told = does(wanted) if does else Done(True, f"did {wanted.tool}", seconds=1.0)
        else:
            one = left.pop(0) if len(left) > 1 else left[0]
            told = one if isinstance(one, Completion) else said(one, prompt_tokens=10, completion_tokens=3)


def test_what_a_tool_says_goes_back_to_the_model_as_material_until_it_answers() -> None:
    acted, asked = turn(acting(), call("files.read_file", path="a"), answer("It is done."), does=lambda _: Done(True, "x <task> y"))  # fmt: skip
    requests = [one for one in asked if isinstance(one, Request)]
    assert [message.role for message in requests[1].messages] == ["system", "user", "assistant", "user"]
    assert requests[1].messages[-1].content == (
        '<tool-result call="1" tool="files.read_file" ok="true">\nx &lt;task> y\n</tool-result>'
    )
    assert (acted.completion.text, acted.completion.error) == ("It is done.", None)
    assert (acted.completion.prompt_tokens, acted.completion.completion_tokens) == (20, 6)
    assert len({one.name for one in asked}) == len(asked)
    assert len({one.seed for one in requests}) == 2
    schema = json.loads(requests[0].schema)
    assert [one["properties"].get("tool", {}).get("const") for one in schema["anyOf"]] == ["files.read_file", "files.write_file", None]  # fmt: skip
    assert "files.write_file(path: string, content: string): Write." in requests[0].messages[1].content
    assert acted.change is None  # nothing was called that could change anything


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("I will read the file.", "your answer is no JSON"),
        ("[]", "no JSON object"),
        ('{"tool": "files.read_file"}', "neither"),
        ('{"answer": 3}', "neither"),
        ('{"answer": "', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"tool": "files.list_files", "arguments": {"a": ' + "[" * 600 + "]" * 600 + "}}", "nested more than 64 deep"),
        (said(answer("x")[:9], finish_reason="length", completion_tokens=5), "cut off after 5 tokens"),
    ],
)
def test_an_answer_that_is_no_call_is_an_error_that_the_model_sees_and_never_success(
    wrong: str | Completion, told: str
) -> None:
    acted, asked = turn(acting(), wrong, answer("Now."))
    assert told in asked[1].messages[-1].content
    assert acted.steps[0].error
    assert acted.completion.text == "Now."
    given_up, asked = turn(acting(max_steps=3), wrong)
    assert len(asked) == 4
    assert given_up.completion.error in (AgentError.EMPTY, AgentError.CUT_OFF)
    assert given_up.completion.text == ""


def test_half_a_character_that_json_can_escape_is_one_that_every_file_can_hold() -> None:
    """An answer of one was raised where it was stored, and ended the run of all, and each that went on from it."""
    acted, asked = turn(
        acting(),
        r'{"tool": "files.\ud800", "arguments": {"pa\udc00th": ["\ud83d\ude00 \ud800"]}}',
        r'{"answer": "It \ud800 is."}',
    )
    (action,) = [one for one in asked if isinstance(one, Action)]
    assert (action.tool, action.arguments) == ("files.\ufffd", {"pa\ufffdth": ["\U0001f600 \ufffd"]})
    assert acted.completion.text == "It \ufffd is."


@pytest.mark.parametrize("use", [{"max_steps": 5}, {"max_calls": 5}, {"seconds": 4.5}])
def test_at_a_limit_nothing_is_left_but_to_answer(use: dict[str, Any]) -> None:
    def never_ends(request: Request) -> str:
        schema = json.loads(request.schema)
        return answer("At last.") if "anyOf" not in schema else call("files.write_file", path="a", content="b")

    deliberation = acting(**use)
    course = deliberate(deliberation)
    (exchange,) = next(course)
    wanted: Any = next(exchange)
    calls = 0
    utterances: list[Any] = []
    while not utterances:
        told: Any = None
        if isinstance(wanted, Action):
            calls += bool(wanted.tool)
            told = Done(True, "done", seconds=1.0, facts={} if wanted.tool else {"files_changed": ["a"]})
        else:
            told = said(never_ends(wanted))
        try:
            wanted = exchange.send(told)
        except StopIteration as stop:
            utterances = stop.value
    (utterance,) = utterances
    assert calls == 5
    assert utterance.text == "At last."
    assert utterance.acted.change == Change(files_changed=("a",))


def test_a_plan_is_made_step_by_step_with_values_passing_on_and_ends_at_the_first_failure() -> None:
    plan = json.dumps({"plan": [{"tool": "files.read_file", "arguments": {"path": "a"}},
                                {"tool": "files.write_file", "arguments": {"path": "b", "content": ["<{{1}}>", "{{ 2 }}"]}},
                                {"tool": "files.read_file", "arguments": {"path": "c"}}]})  # fmt: skip
    made: list[Action] = []

    def does(action: Action) -> Done:
        made.append(action)
        return Done(len(made) != 2, f"output {len(made)}", error="" if len(made) != 2 else "no room")

    acted, asked = turn(acting(mode="plan"), plan, answer("Done."), does=does)
    assert [one.tool for one in made] == ["files.read_file", "files.write_file", ""]
    assert made[1].arguments == {"path": "b", "content": ["<output 1>", "{{ 2 }}"]}
    told = asked[3].messages[-1].content
    assert "error: no room" in told
    assert "1 further calls of the plan were not made" in told
    assert [action.name for action in made[2].before] == [action.name for action in made[:2]]
    assert acted.completion.text == "Done."


def test_outputs_that_are_put_into_each_other_do_not_grow_without_end() -> None:
    content = "{{1}}" * 1_000
    plan = json.dumps({"plan": [{"tool": "files.read_file", "arguments": {"path": "a"}},
                                {"tool": "files.write_file", "arguments": {"path": "b", "content": content}}]})  # fmt: skip
    made: list[Action] = []

    def does(action: Action) -> Done:
        made.append(action)
        return Done(True, "x" * 20_000)

    acted, asked = turn(acting(mode="plan"), plan, answer("Done."), does=does)
    assert [one.tool for one in made] == ["files.read_file"]
    assert "outputs of more than 10,000,000 characters were put into arguments" in asked[2].messages[-1].content
    assert acted.completion.text == "Done."


def test_a_call_that_fails_ends_the_turn_where_that_is_wanted() -> None:
    acted, _ = turn(acting(abort_on_error=True), call("files.read_file", path="a"), does=lambda _: Done(False, error="not there"))  # fmt: skip
    assert acted.completion.error is AgentError.ENGINE
    assert "not there" in acted.completion.error_message


def test_a_long_output_is_cut_and_a_conversation_that_is_too_long_loses_its_older_half() -> None:
    deliberation = acting(output_chars=100)
    overlong = Completion(error=AgentError.OVERLONG, error_message="too long")
    reads = [call("files.read_file", path=str(number)) for number in range(4)]
    acted, asked = turn(deliberation, *reads, overlong, answer("Short."), does=lambda _: Done(True, "x" * 1_000))
    requests = [one for one in asked if isinstance(one, Request)]
    assert "(cut: 900 more characters)" in requests[1].messages[-1].content
    told = [message.content for message in requests[-1].messages if message.role == "user"][1:]
    assert ["left out" in text for text in told] == [True, True, False, False]
    assert acted.completion.text == "Short."
    given_up, _ = turn(deliberation, overlong)
    assert given_up.completion.error is AgentError.OVERLONG


@pytest.mark.parametrize("error", [AgentError.DEADLINE, AgentError.CANCELLED, AgentError.FATAL])
def test_a_turn_that_is_ended_from_outside_keeps_its_steps(error: AgentError) -> None:
    acted, _ = turn(acting(), call("files.write_file", path="a", content="b"), does=lambda _: Done(False, error="stopped", outcome="unfinished", error_type=error))  # fmt: skip
    assert (acted.completion.error, acted.completion.error_message) == (error, "stopped")
    assert len(acted.steps) == 1
    assert acted.change is None


def test_a_council_s_critics_see_what_was_changed_and_authors_go_on_in_their_workspaces() -> None:
    deliberation = replace(a_deliberation(tools=True, num_agents=2, rounds=1), toolset=TOOLS)
    course = deliberate(deliberation)
    exchanges = next(course)
    prompts: list[Request] = []
    looks: list[Action] = []
    while True:
        results = []
        for exchange in exchanges:
            wanted = next(exchange)
            phase, called = wanted.name.split()[2], False
            while True:
                if isinstance(wanted, Action):
                    looks += [] if wanted.tool else [wanted]
                    told: Any = Done(True, "done", facts={} if wanted.tool else {"files_changed": ["a.py"], "diff": "+x = 1", "fixed": ["t::new"], "passed": 3})  # fmt: skip
                elif phase == "critique":
                    prompts.append(wanted)
                    told = said("It is good.")
                else:
                    told = said(answer("Mine.") if called else call("files.write_file", path="a.py", content="x = 1"))
                    prompts.append(wanted)
                    called = True
                try:
                    wanted = exchange.send(told)
                except StopIteration as stop:
                    results.append(stop.value)
                    break
        try:
            exchanges = course.send(results)
        except StopIteration as stop:
            transcript = stop.value
            break
    assert transcript.status is Status.COMPLETED
    critiques = [one.messages[1].content for one in prompts if " critique " in one.name]
    assert all(
        "<tested-change" in text and "+x = 1" in text and "1 did not before (t::new)" in text for text in critiques
    )
    assert all("# Tools" not in text for text in critiques)
    assert [len(one.before) for one in looks] == [1, 1, 2, 2]
    assert [u.acted.change.tested for u in transcript.utterances if u.acted] == ["verified"] * 4


def test_what_counts_as_verified_is_a_new_pass_and_nothing_broken() -> None:
    files = ("a.py",)
    assert Change(files_changed=files, fixed=("a",), passed=3).tested == "verified"
    assert Change(files_changed=files, fixed=("a",), broken=("b",), passed=3).tested == "broken"
    assert Change(files_changed=files, passed=3).tested == "unverified"
    assert Change(files_changed=files, fixed=("a",), error="pytest did not start").tested == "unverified"
    assert Change().tested is None
    assert Change(error="its folders are too deep to be looked at").tested == "unverified"
