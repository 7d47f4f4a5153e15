"""The rules of a council, played by hand: no engine, no clock."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.deliberation.council import CouncilDefaults
from fleet_pipeline.deliberation.exchange import AgentError, Completion
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.protocol import deliberate
from fleet_pipeline.deliberation.transcript import Status, Utterance
from fleet_pipeline_tests.support.councils import (
    OVERLONG,
    Answer,
    a_deliberation,
    failing,
    opening,
    play,
    said,
    speak,
    texts,
)
from fleet_pipeline_tests.support.heard import Heard

pytestmark = pytest.mark.unit


def test_a_council_proposes_criticises_and_revises_in_that_order() -> None:
    transcript, batches = play(a_deliberation(num_agents=3, rounds=2))
    phases = [(batch[0].phase, batch[0].round, len(batch)) for batch in batches]
    assert phases == [
        (Phase.PROPOSE, 0, 3),
        (Phase.CRITIQUE, 1, 3),
        (Phase.REVISE, 1, 3),
        (Phase.CRITIQUE, 2, 3),
        (Phase.REVISE, 2, 3),
    ]
    assert transcript.status is Status.COMPLETED


def test_no_rounds_is_a_vote_only() -> None:
    transcript, batches = play(a_deliberation(num_agents=3, rounds=0))
    assert [batch[0].phase for batch in batches] == [Phase.PROPOSE]
    assert transcript.status is Status.COMPLETED


@given(agents=st.integers(1, 12), rounds=st.integers(0, 8))
def test_the_author_revises_its_own_proposal_with_the_critique_it_received(agents: int, rounds: int) -> None:
    _, batches = play(a_deliberation(num_agents=agents, rounds=rounds))
    assert len(batches) == 1 + 2 * rounds
    for before, critiques, revisions in zip(batches[0::2], batches[1::2], batches[2::2], strict=False):
        said_before = {prompt.seat.label: speak(prompt).text for prompt in before}
        critique_of = {prompt.about.label: prompt for prompt in critiques}
        for prompt in revisions:
            assert prompt.seat == prompt.about
            assert said_before[prompt.seat.label] in prompt.user
            assert speak(critique_of[prompt.seat.label]).text in prompt.user


@given(agents=st.integers(2, 64), round_=st.integers(1, 8))
def test_in_each_round_every_seat_criticises_exactly_one_other(agents: int, round_: int) -> None:
    deliberation = a_deliberation(num_agents=agents)
    critics = [deliberation.critic_of(seat, round_) for seat in deliberation.seats]
    assert Counter(critic.index for critic in critics) == Counter(range(agents))
    assert all(critic != author for critic, author in zip(critics, deliberation.seats, strict=True))


def test_critics_rotate_until_each_author_has_heard_every_peer() -> None:
    deliberation = a_deliberation(num_agents=5)
    author = deliberation.seats[2]
    heard = {deliberation.critic_of(author, round_).index for round_ in range(1, 5)}
    assert heard == {0, 1, 3, 4}


def test_an_agent_alone_criticises_itself_and_is_labelled_so() -> None:
    transcript, batches = play(a_deliberation(num_agents=1))
    critique = next(u for u in transcript.utterances if u.turn.phase is Phase.CRITIQUE)
    assert critique.self_critique
    assert "your own and you have no peers" in critique.request.messages[-1].content
    assert '<critique by="yourself" of="A">' in batches[2][0].user
    assert "Critique by" not in batches[2][0].user


def test_peers_criticising_each_other_are_not_labelled_self_critique() -> None:
    transcript, _ = play(a_deliberation(num_agents=2))
    assert not any(u.self_critique for u in transcript.utterances)


EMPTY = said("")
CUT_OFF = said("half a sent", finish_reason="length")
BROKEN = Completion(error=AgentError.ENGINE, error_message="boom")


@pytest.mark.parametrize(
    ("completion", "error"), [(EMPTY, AgentError.EMPTY), (CUT_OFF, AgentError.CUT_OFF), (BROKEN, AgentError.ENGINE)]
)
def test_an_answer_that_a_retry_can_mend_is_asked_again_under_a_fresh_seed(completion, error) -> None:
    transcript, batches = play(a_deliberation(num_agents=3), failing("B", Phase.PROPOSE, completion, times=1))
    assert [prompt.seat.label for prompt in batches[1]] == ["B"]
    first, second = batches[0][1], batches[1][0]
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.seed != second.seed
    assert first.request.messages == second.request.messages
    assert transcript.status is Status.COMPLETED
    assert [u.error for u in transcript.utterances if u.turn.seat.label == "B" and u.turn.round == 0] == [error, None]


def test_retries_are_bounded_and_the_seat_fails_without_its_deliberation() -> None:
    defaults = CouncilDefaults(model="m", retries=2)
    transcript, _ = play(a_deliberation(num_agents=3, defaults=defaults), failing("B", Phase.PROPOSE, EMPTY))
    attempts = [u.attempt for u in transcript.utterances if u.turn.seat.label == "B" and u.turn.round == 0]
    assert attempts == [1, 2, 3]
    assert transcript.status is Status.COMPLETED


def test_an_overlong_prompt_is_not_asked_again() -> None:
    transcript, batches = play(a_deliberation(num_agents=3), failing("B", Phase.PROPOSE, OVERLONG))
    assert batches[1][0].phase is Phase.CRITIQUE
    assert transcript.status is Status.COMPLETED


def test_a_seat_without_a_proposal_is_not_criticised_and_does_not_revise_but_still_criticises() -> None:
    _, batches = play(a_deliberation(num_agents=3), failing("B", Phase.PROPOSE, OVERLONG))
    critiques, revisions = batches[1], batches[2]
    assert sorted(prompt.about.label for prompt in critiques) == ["A", "C"]
    assert "B" in {prompt.seat.label for prompt in critiques}
    assert sorted(prompt.seat.label for prompt in revisions) == ["A", "C"]


def test_without_its_critique_an_author_keeps_its_proposal_as_it_was() -> None:
    # In round 1 B criticises A.
    _, batches = play(a_deliberation(num_agents=3, rounds=2), failing("B", Phase.CRITIQUE, OVERLONG, times=1))
    assert sorted(prompt.seat.label for prompt in batches[2]) == ["B", "C"]
    about_a = next(prompt for prompt in batches[3] if prompt.about.label == "A")
    assert "A propose 0 on A" in about_a.user


def test_a_failed_revision_leaves_the_proposal_as_it_was() -> None:
    _, batches = play(a_deliberation(num_agents=3, rounds=2), failing("C", Phase.REVISE, OVERLONG, times=1))
    about_c = next(prompt for prompt in batches[3] if prompt.about.label == "C")
    assert "C propose 0 on C" in about_c.user


def test_a_round_in_which_no_critic_answers_ends_without_revisions() -> None:
    def answer(prompt: Heard) -> Completion:
        return OVERLONG if prompt.phase is Phase.CRITIQUE else speak(prompt)

    transcript, batches = play(a_deliberation(num_agents=3), answer)
    assert [batch[0].phase for batch in batches] == [Phase.PROPOSE, Phase.CRITIQUE]
    assert transcript.status is Status.COMPLETED


@pytest.mark.parametrize(("agents", "quorum", "silent", "status"), [
    (3, None, 1, Status.COMPLETED),
    (3, None, 2, Status.FAILED),
    (3, 1, 2, Status.COMPLETED),
    (3, 3, 1, Status.FAILED),
    (4, None, 2, Status.FAILED),
    (1, None, 1, Status.FAILED),
])  # fmt: skip
def test_a_deliberation_fails_below_its_quorum_which_is_a_majority_by_default(agents, quorum, silent, status) -> None:
    def answer(prompt: Heard) -> Completion:
        return OVERLONG if prompt.seat.index < silent else speak(prompt)

    transcript, _ = play(a_deliberation(num_agents=agents, quorum=quorum, rounds=0), answer)
    assert transcript.status is status
    assert bool(transcript.error_message) is (status is Status.FAILED)


def test_a_failed_deliberation_says_how_many_answered_and_why_the_others_did_not() -> None:
    transcript, _ = play(a_deliberation(num_agents=2), lambda _: OVERLONG)
    assert "0 of 2 agents answered, the quorum is 2" in transcript.error_message
    assert "agent-dev-001: overlong: too long" in transcript.error_message


def late_in(phase: Phase, round_: int, labels: str = "ABC") -> Answer:
    def answer(prompt: Heard) -> Completion:
        if prompt.phase is phase and prompt.round == round_ and prompt.seat.label in labels:
            return said("half a sent", finish_reason="deadline", error=AgentError.DEADLINE, error_message="late")
        return speak(prompt)

    return answer


FAILS = CouncilDefaults(model="m", on_timeout="fail")


@pytest.mark.parametrize("phase", [Phase.CRITIQUE, Phase.REVISE])
def test_when_time_is_up_and_a_quorum_of_proposals_stands_the_council_completes_with_those(phase: Phase) -> None:
    transcript, batches = play(a_deliberation(num_agents=3, rounds=3), late_in(phase, 2))
    assert (transcript.status, transcript.rounds_done, transcript.error_message) == (Status.COMPLETED, 1, "")
    assert [u.text for u in transcript.utterances if u.error is AgentError.DEADLINE] == ["half a sent"] * 3
    assert len(transcript.utterances) == sum(map(len, batches))


def test_on_timeout_fail_counts_the_same_as_a_timeout() -> None:
    transcript, _ = play(a_deliberation(num_agents=3, rounds=3, defaults=FAILS), late_in(Phase.REVISE, 2))
    assert (transcript.status, transcript.rounds_done) == (Status.TIMEOUT, 1)
    assert transcript.error_message.startswith("late; give it more (constraints.timeout_seconds)")
    assert len(texts(transcript, Phase.REVISE)) == 6


def test_when_time_is_up_before_a_quorum_has_proposed_it_is_a_timeout_and_with_one_it_is_not() -> None:
    transcript, _ = play(a_deliberation(num_agents=3), late_in(Phase.PROPOSE, 0, "BC"))
    assert (transcript.status, transcript.rounds_done) == (Status.TIMEOUT, 0)
    transcript, _ = play(a_deliberation(num_agents=3), late_in(Phase.PROPOSE, 0, "C"))
    assert (transcript.status, transcript.rounds_done) == (Status.COMPLETED, 0)


@pytest.mark.parametrize("error", [AgentError.CANCELLED, AgentError.FATAL])
def test_what_was_said_until_the_run_was_stopped_or_the_engine_was_gone_is_kept(error: AgentError) -> None:
    def answer(prompt: Heard) -> Completion:
        stopped = prompt.phase is Phase.REVISE
        return said("half a sent", error=error, error_message="gone") if stopped else speak(prompt)

    transcript, batches = play(a_deliberation(num_agents=3), answer)
    assert (transcript.status, transcript.error_message) == (Status.FAILED, "gone")
    assert len(batches) == 3
    assert texts(transcript, Phase.REVISE) == ["half a sent"] * 3


LONG = "A sentence that says something of use to the reader. " * 5


def test_an_answer_cut_at_its_limit_counts_up_to_its_last_whole_sentence_and_is_asked_for_once() -> None:
    cut = said(LONG + "And then half a sent", finish_reason="length")
    transcript, batches = play(a_deliberation(num_agents=3, rounds=0), lambda _: cut)
    assert (transcript.status, len(batches)) == (Status.COMPLETED, 1)
    for utterance in transcript.utterances:
        assert (utterance.error, utterance.shortened, utterance.text) == (None, "truncated", LONG.strip())
        assert utterance.raw_text == cut.text


def test_under_truncated_refuse_it_never_counts_and_is_asked_for_again() -> None:
    cut = said(LONG + "And then half a sent", finish_reason="length")
    defaults = CouncilDefaults(model="m", truncated="refuse")
    transcript, batches = play(a_deliberation(num_agents=3, rounds=0, defaults=defaults), lambda _: cut)
    assert (transcript.status, len(batches)) == (Status.FAILED, 2)
    assert {u.error for u in transcript.utterances} == {AgentError.CUT_OFF}


LOOP = said(
    LONG.strip() + " To finish:" + " Say it again and again, until somebody stops me." * 4, finish_reason="repetition"
)


def test_a_seat_whose_answer_loops_is_asked_again_with_a_fresh_seed_and_a_penalty() -> None:
    answer = failing("B", Phase.PROPOSE, LOOP, times=1)
    transcript, batches = play(a_deliberation(num_agents=3, rounds=0), answer)
    (again,) = batches[1]
    first = next(prompt for prompt in batches[0] if prompt.seat.label == "B")
    assert (first.request.least_repetition_penalty, again.request.least_repetition_penalty) == (None, 1.1)
    assert first.seed != again.seed
    assert [u.error for u in transcript.utterances if u.turn.seat.label == "B"] == [AgentError.LOOPED, None]


def test_where_every_attempt_loops_the_longest_counts_up_to_its_loop() -> None:
    transcript, batches = play(a_deliberation(num_agents=3, rounds=0), failing("B", Phase.PROPOSE, LOOP))
    assert (transcript.status, len(batches)) == (Status.COMPLETED, 2)
    looped = [u for u in transcript.utterances if u.turn.seat.label == "B"]
    assert [(u.error, u.shortened) for u in looped] == [(None, "looped"), (AgentError.LOOPED, None)]
    assert looped[0].text == LONG.strip() + " To finish: Say it again and again, until somebody stops me."
    assert looped[0].raw_text == LOOP.text


def test_a_loop_with_nothing_before_it_does_not_count() -> None:
    loop = said("Again and again. " * 40, finish_reason="repetition")
    transcript, _ = play(a_deliberation(num_agents=3, rounds=0), failing("B", Phase.PROPOSE, loop))
    assert {u.error for u in transcript.utterances if u.turn.seat.label == "B"} == {AgentError.LOOPED}


def test_a_loop_that_only_its_token_limit_ended_is_told_from_a_cut() -> None:
    loop = replace(LOOP, finish_reason="length")
    transcript, _ = play(a_deliberation(num_agents=3, rounds=0), failing("B", Phase.PROPOSE, loop, times=1))
    assert AgentError.LOOPED in {u.error for u in transcript.utterances}


def test_prompts_name_a_length_that_fits_the_limit_of_their_phase() -> None:
    def lengths(**fields: Any) -> dict[Phase, set[str]]:
        _, batches = play(a_deliberation(num_agents=3, **fields))
        prompts = [prompt for batch in batches for prompt in batch]
        found = [
            (prompt.phase, re.search(r"in at most (\d+) words", prompt.user.replace("\n", " "))[1])
            for prompt in prompts
        ]
        return {phase: {words for of, words in found if of is phase} for phase, _ in found}

    assert lengths() == {Phase.PROPOSE: {"820"}, Phase.CRITIQUE: {"410"}, Phase.REVISE: {"820"}}
    assert set().union(*lengths(sampling={"max_tokens": 350}).values()) == {"140"}
    assert set().union(*lengths(sampling={"max_tokens": 1}).values()) == {"10"}


def test_everything_said_is_kept_reasoning_apart() -> None:
    transcript, batches = play(a_deliberation(num_agents=3, rounds=1), lambda p: said(f"<think>hm {p.seed}</think>yes"))
    assert len(transcript.utterances) == sum(map(len, batches))
    assert all(u.text == "yes" and u.reasoning.startswith("hm ") for u in transcript.utterances)


def test_reasoning_is_never_shown_to_a_peer_or_fed_back() -> None:
    _, batches = play(a_deliberation(num_agents=3), lambda p: said(f"<think>secret</think>{speak(p).text}"))
    assert not any("secret" in prompt.user for batch in batches for prompt in batch)


def test_every_utterance_of_a_deliberation_has_its_own_seed() -> None:
    _, batches = play(a_deliberation(num_agents=8, rounds=4))
    seeds = [prompt.seed for batch in batches for prompt in batch]
    assert len(set(seeds)) == len(seeds)


def test_seeds_repeat_and_change_with_the_run_seed_and_the_deliberation() -> None:
    def first_seed(task_id: str = "t1", seed: int = 0) -> int:
        return opening(deliberate(a_deliberation(task_id, defaults=CouncilDefaults(model="m", seed=seed))))[0].seed

    assert first_seed() == first_seed()
    assert len({first_seed(), first_seed(seed=1), first_seed("t2")}) == 3


def test_an_answer_belongs_to_the_seat_that_asked_in_whatever_order_the_seats_end() -> None:
    dialogue = deliberate(a_deliberation(num_agents=3, rounds=0))
    exchanges = next(dialogue)
    requests = [Heard(next(exchange)) for exchange in exchanges]
    results: list[list[Utterance]] = [[], [], []]
    for index in (2, 0, 1):
        with pytest.raises(StopIteration) as ended:
            exchanges[index].send(speak(requests[index]))
        results[index] = ended.value.value
    with pytest.raises(StopIteration) as stop:
        dialogue.send(results)
    for utterance in stop.value.value.utterances:
        assert utterance.text == f"{utterance.turn.seat.label} propose 0 on {utterance.turn.seat.label}"
