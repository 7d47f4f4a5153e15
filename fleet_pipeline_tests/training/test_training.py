"""The network and its tokenizer as training starts, and that training trains."""

from itertools import islice

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from fleet_pipeline.training import network, tokens, train
from fleet_pipeline.training.corpus import Pair, pairs, play
from fleet_pipeline_tests.support.councils import a_deliberation

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tokens.train(
        text for pair in islice(pairs(1), 400) for text in (pair.turn.messages[-1].content, pair.answer)
    )


@pytest.fixture(scope="module")
def untrained(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    return network.build(tokenizer, 1_024, 0, tokens.new_lines(), tokens.names(), tokens.DASH, tokens.TASK).eval()


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text)["input_ids"]


def test_a_word_is_the_same_tokens_wherever_it_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    word = ids(tokenizer, "prioritization")
    assert len(word) > 1
    for text in (
        "of prioritization",
        "a\nprioritization",
        "<task>\nprioritization",
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
    turn = play(a_deliberation(), lambda _: "a")[0].turn
    assert len(train.encode(tokenizer, Pair(turn, "")).ids) < sum(len(told.content) for told in turn.messages) / 20


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


def looked_at(tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM, text: str, layer: int, head: int) -> int:
    """Where the head looks from the last token of `text`."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model.model(torch.tensor([ids(tokenizer, text)]), output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    return int(attentions[layer][0, head, -1].argmax())


TASKS = {
    "The cat sleeps. A dog barks. Birds sing.": 0,
    "The cat sleeps.\n- A dog barks.\n- Birds sing.": 1,
    "The cat sleeps.\n\nA dog barks.\n\nBirds sing.": 1,
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("done", "following"), [("The cat sleeps", "A dog"), ("A dog barks", "Birds sing")])
def test_at_a_new_line_it_looks_at_the_sentence_after_the_one_dealt_with(
    tokenizer: PreTrainedTokenizerFast, untrained: Qwen3ForCausalLM, task: str, done: str, following: str
) -> None:
    """One head for a full stop between, another for a full stop and a line break or a list mark."""
    beginning = f"<|im_start|>{task}\n1. {done} — make it so.\n2."
    text, first = ids(tokenizer, beginning), ids(tokenizer, following)
    place = looked_at(tokenizer, untrained, beginning, layer=2, head=TASKS[task])
    assert text[place : place + len(first)] == first


def test_it_knows_the_second_word_of_a_line_too(
    tokenizer: PreTrainedTokenizerFast, untrained: Qwen3ForCausalLM
) -> None:
    """Which would else be any word that follows the first one somewhere, such as "A" or "The"."""
    beginning = "<|im_start|>A bird sings. The cat sleeps. A dog barks.\n1. The cat sleeps — make it so.\n2. A"
    place = looked_at(tokenizer, untrained, beginning, layer=2, head=2)
    assert ids(tokenizer, beginning)[place] == ids(tokenizer, " dog")[0]


def test_at_the_end_of_a_line_it_sees_what_the_next_one_would_be_about(
    tokenizer: PreTrainedTokenizerFast, untrained: Qwen3ForCausalLM
) -> None:
    """So that it can tell whether there is one: half of all numbers after the last were wrong without."""
    beginning = "<|im_start|>A bird sings. The cat sleeps. A dog barks.\n1. The cat sleeps — make it so."
    place = looked_at(tokenizer, untrained, beginning, layer=2, head=3)
    assert ids(tokenizer, beginning)[place] == ids(tokenizer, " A")[0]


def test_no_two_tokens_are_alike_where_tokens_are_compared() -> None:
    code = network._golay_code() / network.CODE**0.5
    likeness = code @ code.T - torch.eye(len(code))
    assert code.shape == (4_096, 24)
    assert likeness.max() < 0.34


@pytest.mark.slow
def test_training_leaves_alone_what_the_hand_set_heads_look_for(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left free, they were gone after 2,900 steps: see `network._hold`."""
    monkeypatch.setattr(train, "VALIDATION_PAIRS", 1)
    monkeypatch.setattr(train, "SORTED", 50)
    model = network.build(tokenizer, 1_024, 0, tokens.new_lines(), tokens.names(), tokens.DASH, tokens.TASK)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (_,) = train.train(model.train(), tokenizer, pairs(2), tokens=8_000, seed=0)
    after, noting = model.state_dict(), slice(2 * network.HEAD, 3 * network.HEAD)
    moved = {name: (after[name] - before[name]).abs() for name in after}
    assert not moved["model.embed_tokens.weight"][:, network.IDENTITY].any()
    assert moved["model.embed_tokens.weight"][:, network.LEARNT].any()
    for layer, part in ((0, "q"), (0, "k"), (0, "v"), (0, "o"), (2, "q"), (2, "k")):
        assert not moved[f"model.layers.{layer}.self_attn.{part}_proj.weight"].any()
    attention = "model.layers.1.self_attn."
    for part in "qk":
        assert not moved[f"{attention}{part}_proj.weight"][: 3 * network.HEAD].any()
    assert not moved[f"{attention}v_proj.weight"][noting].any()
    assert not moved[f"{attention}o_proj.weight"][:, noting].any()
    kept = [i for i in range(network.HIDDEN) if i not in range(network.LEARNT.start, network.PREDICTED.stop)]
    for name in (f"{attention}o_proj.weight", "model.layers.0.mlp.down_proj.weight"):
        assert not moved[name][kept].any()
        assert moved[name].any()


@pytest.mark.slow
def test_a_few_steps_bring_the_loss_down(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "VALIDATION_PAIRS", 20)
    monkeypatch.setattr(train, "SORTED", 100)
    model = network.build(tokenizer, 1_024, 0, tokens.new_lines(), tokens.names(), tokens.DASH, tokens.TASK)
    corpus = pairs(2, tokens.pieces(tokenizer))
    held_out = [train.encode(tokenizer, pair) for pair in islice(pairs(3), 20)]
    before = train.validate(model, held_out)
    (last,) = train.train(model.train(), tokenizer, corpus, tokens=40_000, seed=0)
    after = train.validate(model, held_out)
    assert after["validation_loss"] < 0.8 * before["validation_loss"]
    assert 40_000 <= last["tokens"] < 50_000


def test_the_loss_is_on_the_answer_and_its_end_alone(untrained: Qwen3ForCausalLM) -> None:
    samples = [train.Sample(ids=[5, 6, 7, 8, 2], answer=3), train.Sample(ids=[5, 9, 2], answer=1)]
    _, targets = train._answers(untrained, samples)
    assert targets.tolist() == [8, 2, 9, 2]
