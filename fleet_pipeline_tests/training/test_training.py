"""The network and its tokenizer as training starts, and that training trains."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from fleet_pipeline.deliberation.protocol import deliberate
from fleet_pipeline.training import network, tokens, train
from fleet_pipeline.training.corpus import Pair, pairs
from fleet_pipeline_tests.helpers import a_deliberation


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tokens.train(text for pair in islice(pairs(1), 400) for text in (pair.prompt.user, pair.answer))


@pytest.fixture(scope="module")
def untrained(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    return network.build(tokenizer, 1_024, 0, tokens.marks(), tokens.DASH).eval()


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text)["input_ids"]


def test_a_word_is_the_same_tokens_wherever_it_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    word = ids(tokenizer, "prioritization")
    assert len(word) > 1
    for text in (
        "of prioritization",
        "a\nprioritization",
        "# Task\n<<<\nprioritization",
        "# Criteria\n- prioritization",
        "\n3. prioritization",
    ):
        assert ids(tokenizer, text)[-len(word) :] == word


def test_a_fixed_sentence_is_one_token_and_none_of_them_can_open_a_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in tokens.fixed_texts():
        assert len(ids(tokenizer, text)) == 1
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    assert special == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}


def test_any_text_survives_the_tokenizer_but_for_a_space_at_the_start_of_a_line(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for text in ("naïve 漢字 — 100 % of ½", "def f(x):\n    return x[0]['a']", "1. one\n2. two\n\n- three\tfour"):
        decoded = tokenizer.decode(ids(tokenizer, text))
        assert [line.strip() for line in decoded.splitlines()] == [line.strip() for line in text.splitlines()]


def test_a_prompt_is_mostly_fixed_sentences(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = next(deliberate(a_deliberation()))[0]
    assert len(train.encode(tokenizer, Pair(prompt, "")).ids) < len(prompt.system + prompt.user) / 20


def test_before_any_training_the_network_copies_what_was_there_before(untrained: Qwen3ForCausalLM) -> None:
    """The hand-set heads: without them the share is about 0."""
    text = torch.randint(10, 2_000, (4, 60), generator=torch.Generator().manual_seed(0))
    twice = torch.cat([text, text], dim=1)
    with torch.no_grad():
        guessed = untrained(twice).logits[:, 63:-1].argmax(-1)
    assert (guessed == twice[:, 64:]).float().mean() > 0.9


def test_it_goes_on_after_the_place_that_shares_the_longest_context(untrained: Qwen3ForCausalLM) -> None:
    """One token stands in two places; what comes before it tells which one is being copied."""
    generator, right = torch.Generator().manual_seed(0), 0
    for _ in range(40):
        a, b, c, d, e, *other = (torch.randperm(1_500, generator=generator)[:60] + 300).tolist()
        text = torch.tensor([[a, b, c, *other[:20], d, b, e, *other[20:], d, b]])
        with torch.no_grad():
            logits = untrained(text).logits[0, -1]
        right += int(logits[e] > logits[c])
    assert right >= 36


@pytest.mark.parametrize(("done", "following"), [("The cat sleeps", " A"), ("A dog barks", " Birds")])
def test_at_a_new_line_it_looks_at_the_sentence_after_the_one_dealt_with(
    tokenizer: PreTrainedTokenizerFast, untrained: Qwen3ForCausalLM, done: str, following: str
) -> None:
    text = ids(tokenizer, f"The cat sleeps. A dog barks. Birds sing.\n1. {done} — make it so.\n2.")
    untrained.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = untrained.model(torch.tensor([text]), output_attentions=True).attentions
    untrained.set_attn_implementation("sdpa")
    looked_at = attentions[2][0, 0, -1].argmax()
    assert tokenizer.decode(text[looked_at]) == following[: len(tokenizer.decode(text[looked_at]))]
    assert tokenizer.decode(text[looked_at - 1]) == "."


def test_a_few_steps_bring_the_loss_down(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "VALIDATION_PAIRS", 20)
    monkeypatch.setattr(train, "SORTED", 100)
    model = network.build(tokenizer, 1_024, 0, tokens.marks(), tokens.DASH)
    corpus = pairs(2, tokens.pieces(tokenizer))
    held_out = [train.encode(tokenizer, pair) for pair in islice(pairs(3), 20)]
    before = train.validate(model, held_out)
    (last,) = train.train(model.train(), tokenizer, corpus, tokens=40_000, seed=0)
    after = train.validate(model, held_out)
    assert after["validation_loss"] < 0.92 * before["validation_loss"]
    assert after["validation_accuracy"] > before["validation_accuracy"]
    assert 40_000 <= last["tokens"] < 50_000


def test_the_loss_is_on_the_answer_and_its_end_alone(untrained: Qwen3ForCausalLM) -> None:
    samples = [train.Sample(ids=[5, 6, 7, 8, 2], answer=3), train.Sample(ids=[5, 9, 2], answer=1)]
    _, targets = train._answers(untrained, samples)
    assert targets.tolist() == [8, 2, 9, 2]
