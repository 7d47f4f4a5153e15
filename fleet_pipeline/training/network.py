"""The network: stock Qwen3 of 5.9 million parameters, with copying set by hand at the start.

An answer is mostly copied from its prompt. A model this small does not find out how to copy in the
hour that it is trained on two cores (3 % of a task's words after the first minutes, against 78 %),
so its first four layers start as the circuit that interpretability research found in trained models
(induction heads: Olsson et al. 2022, arXiv:2209.11895):

    layer 0   four heads look 1 to 4 tokens back and note what stands there
    layer 1   two heads compare the present token and the three before it with those notes; where
              they agree, the text has been here before, and the next token is copied from there;
              one of the two prefers the latest such place, where a critique speaks of a proposal;
              a third takes the notes of the last dash: the words a line of a proposal left off at;
              the fourth goes on after the same mark ("R2."), whatever stood before it
    layer 2   where a line without such a mark begins, two heads look for those words with a full stop or a list mark
              behind them, and copy what comes then; the third does so for the word after that; the
              fourth looks there at the end of the line before, to see whether there is more
    layer 3   in line 1, two heads copy the task's first word and the one after it; two are free

The last is what a line of a proposal needs to go on with the sentence after the one it has dealt
with. Without it a model of the same training found every word within a sentence (99 %), and one
beginning of a sentence in six not.

Tokens have identities that training may not move, and neither may it move what the heads look for
(see `_hold`). The residual stream of 256 numbers is divided: see below.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import Qwen3Config, Qwen3ForCausalLM

HIDDEN = 256
HEADS = 4
HEAD = HIDDEN // HEADS
LAYERS = 5
HELD = 4  # layers with heads set by hand
BEGINNERS = 2  # heads of layer 3 that are
CODE = 24  # numbers that stand for a token where tokens are compared
CONSTANT = 0
IDENTITY = slice(1, 25)  # of the present token: drawn once, never learnt
LEARNT = slice(25, 102)  # all else there is to know of it
PREDICTED = slice(102, 126)  # the identity of the next token, as the copying heads see it; the output reads it
BEGINNING = 126  # of a prompt: where heads look that have nothing to look for
NOTES = [slice(128 + CODE * back, 128 + CODE * (back + 1)) for back in range(4)]
LEFT_OFF = slice(224, 248)
AS_LEFT_OFF = 248  # a constant as large as what is noted there
NEW_LINES = (127, 249, 250)  # whether this token, the last, or the one before it begins a line
FULL_STOP = 251
NAMED = 252  # whether this token is a mark that names one line of the prompt
NOTING = 2  # a head of layer 1
THETA = 1e9

# Rotary pairs (i, i + 32) turn by THETA ** (-i / 32) radians a token. The first ones tell how far
# back a token is; from 12 on they turn by less than 1/20 over 100 tokens and only tell what it is.
NEAR = range(8)
RECENT = (5, 6, 7, 8, 9)  # the slow ones lest a place further back look like a near one
LATER = 11  # a quarter turn in 2,000 tokens
FAR = [*range(12, 30), *range(44, 62)]
AVOID, REST = 30, 31
# Layers see numbers scaled to a mean square of 1: by about 13 and 10 at the start. What is noted
# is as large as what it is a note of.
NOTED, NOTED_AGAIN = 0.0875, 0.095
# Length of what is learnt of a token; that of its identity is 0.5, and 1.2 in the output.
MOST_LEARNT, MOST_SAID = 1.0, 0.7
NEARER_COUNTS_MORE = (1.0, 0.7, 0.55, 0.45)


def build(
    tokenizer: Any, context: int, seed: int, new_lines: Sequence[str], names: Sequence[str], dash: str, task: str
) -> Qwen3ForCausalLM:
    """The untrained network. `new_lines` are the tokens that begin a line, `names` those that begin a line of
    the prompt by its name, `dash` ends what is copied to a line, `task` stands before the task.
    """
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=640,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    token = tokenizer.convert_tokens_to_ids
    with torch.no_grad():
        lines, named = ([token(mark) for mark in marks] for marks in (new_lines, names))
        _divide_the_stream(model, token("<|im_start|>"), lines, named, token("."))
        of_dash = normalize(model.model.embed_tokens.weight[token(dash), IDENTITY], dim=0)
        turns = [torch.nn.init.orthogonal_(torch.empty(len(FAR), CODE)) for _ in range(4)]
        in_notes = [torch.nn.init.orthogonal_(torch.empty(CODE, CODE)) for _ in range(3)]
        of_line, of_task = (
            normalize(model.model.embed_tokens.weight[token(of), IDENTITY], dim=0) for of in ("\n1.", task)
        )
        first, second, third, fourth = (layer.self_attn for layer in model.model.layers[:HELD])
        for head in range(HEADS):
            _look_back(first, head, head + 1)
        _widen(first, 3.2)
        _go_on(second, 0, turns, later=0.0)
        _go_on(second, 1, turns, later=0.6)
        _note_where_left_off(second, NOTING, of_dash, in_notes)
        _go_on_after_name(second, 3)
        _widen(second, 2.2)
        _go_on_after(third, 0, of_dash, in_notes, skipped=1)
        _go_on_after(third, 1, of_dash, in_notes, skipped=2)
        _go_on_after(third, 2, of_dash, in_notes, skipped=1, word=1)
        _see_what_comes(third, 3, of_dash, in_notes)
        _widen(third, 2.2)
        for word in range(2):
            _begin_with_the_task(fourth, word, of_line, of_task, word)
        _widen(fourth, 2.2)
        _hold(model)
    return model


def _hold(model: Qwen3ForCausalLM) -> None:
    """Keep training from where the heads set by hand look, and from what they read there.

    Left free, 2,900 steps took the heads of layer 2 off the right place altogether (0.70 of their
    attention at the start, 0.00 at the end), because what they find is of use only to a network that
    already does the rest. With the attention alone held, tokens moved away from what is looked for,
    to the same effect. With the whole embedding held too, the heads stayed (0.54), but all else was
    learnt half as fast. So a token has an identity, which is never learnt, and numbers that are.
    """
    learnt, later = torch.zeros(HIDDEN, 1), torch.zeros(HIDDEN, 1)
    learnt[LEARNT], later[LEARNT], later[PREDICTED] = 1, 1, 1
    read = torch.zeros(HIDDEN, 1)
    read[PREDICTED] = 1
    _keep_identities(model.model.embed_tokens, learnt.T, MOST_LEARNT)
    _keep_identities(model.lm_head, 1 - read.T, MOST_SAID)
    layers = model.model.layers
    for number, layer in enumerate(layers[:HELD]):
        attention = layer.self_attn
        layer.input_layernorm.requires_grad_(False)
        attention.q_norm.requires_grad_(False)
        attention.k_norm.requires_grad_(False)
        if number == 0:
            attention.requires_grad_(False)
        elif number < 3:
            attention.q_proj.requires_grad_(False)
            attention.k_proj.requires_grad_(False)
    _write_only(layers[0].mlp.down_proj.weight, learnt)
    for layer in layers[1:3]:
        _write_only(layer.mlp.down_proj.weight, later)
    _leave_alone(layers[1].self_attn, slice(NOTING * HEAD, (NOTING + 1) * HEAD), later)
    layers[2].self_attn.o_proj.weight.register_hook(lambda gradient: gradient * later)
    beginners = torch.ones(HIDDEN, 1)
    beginners[: BEGINNERS * HEAD] = 0
    for projection in (layers[3].self_attn.q_proj, layers[3].self_attn.k_proj):
        _write_only(projection.weight, beginners)


def _leave_alone(attention: torch.nn.Module, rows: slice, numbers: torch.Tensor) -> None:
    """Keep what one head copies as it is; the others learn, but write `numbers` only."""
    others = torch.ones(HIDDEN, 1)
    others[rows] = 0
    attention.v_proj.weight.register_hook(lambda gradient: gradient * others)
    attention.o_proj.weight.register_hook(lambda gradient: gradient * others.T * numbers)


def _keep_identities(tokens: torch.nn.Module, learnt: torch.Tensor, most: float) -> None:
    """Learn only these numbers of a token, and not so much of them that they drown its identity.

    Where they could, tokens that are rarely said were unlearnt: " mon" was copied as " any".
    """
    tokens.weight.register_hook(lambda gradient: gradient * learnt)
    numbers = learnt[0].bool()

    def keep_small(_: torch.nn.Module, __: Any) -> None:
        with torch.no_grad():
            tokens.weight[:, numbers] = torch.renorm(tokens.weight[:, numbers], 2, 0, most)

    tokens.register_forward_pre_hook(keep_small)


def _write_only(weight: torch.Tensor, numbers: torch.Tensor) -> None:
    """Let a projection write some numbers of the stream and no others."""
    weight.register_hook(lambda gradient: gradient * numbers)


def _divide_the_stream(
    model: Qwen3ForCausalLM, beginning: int, new_lines: Sequence[int], named: Sequence[int], full_stop: int
) -> None:
    embedding, output = model.model.embed_tokens.weight, model.lm_head.weight
    embedding.zero_()
    output.zero_()
    embedding[:, IDENTITY] = 0.1 * _golay_code()[: len(embedding)]
    output[:, PREDICTED] = 0.25 * _golay_code()[: len(embedding)]
    embedding[:, LEARNT].normal_(std=0.1)
    embedding[:, CONSTANT] = 0.6
    embedding[beginning, IDENTITY] = 0  # so that resting there copies nothing
    embedding[beginning, BEGINNING] = 1.0
    embedding[new_lines, NEW_LINES[0]] = 0.6
    embedding[full_stop, FULL_STOP] = 0.6
    embedding[named, NAMED] = 0.6
    for layer in model.model.layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight.zero_()


def _golay_code() -> torch.Tensor:
    """4,096 vectors of 24 signs, any two of which differ in 8 or more places: cosines of 1/3 at most.

    The extended binary Golay code (Golay 1949): multiples of a polynomial over GF(2), and a parity bit.
    """
    polynomial = sum(1 << power for power in (0, 2, 4, 5, 6, 10, 11))
    words = []
    for message in range(1 << 12):
        word = 0
        for power in range(12):
            if message >> power & 1:
                word ^= polynomial << power
        words.append(word | (word.bit_count() & 1) << 23)
    return torch.tensor([[1.0 if word >> bit & 1 else -1.0 for bit in range(CODE)] for word in words])


def _widen(attention: torch.nn.Module, factor: float) -> None:
    """Scale queries and keys, which are normed: how sharply heads choose."""
    attention.q_norm.weight[:] = attention.k_norm.weight[:] = factor


def _clear(attention: torch.nn.Module, head: int) -> tuple[torch.Tensor, ...]:
    """The head's rows of the query, key and value projections and its columns of the output's.

    All zero but for what a value may be made of later, which nothing writes yet.
    """
    rows = slice(head * HEAD, (head + 1) * HEAD)
    query, key, value = (getattr(attention, f"{name}_proj").weight[rows] for name in "qkv")
    out = attention.o_proj.weight[:, rows]
    for part in (query, key, value[:CODE], out):
        part.zero_()
    return query, key, value, out


def _look_back(attention: torch.nn.Module, head: int, back: int) -> None:
    """Query and key are constants whose angles agree at a distance of `back` tokens."""
    query, key, value, out = _clear(attention, head)
    for i in NEAR:
        turn = back * THETA ** (-i / (HEAD // 2))
        query[i, CONSTANT] = 1
        key[i, CONSTANT], key[i + HEAD // 2, CONSTANT] = math.cos(turn), math.sin(turn)
    value[:CODE, IDENTITY] = torch.eye(CODE)
    out[NOTES[back - 1], :CODE] = torch.eye(CODE) * NOTED
    if back < len(NEW_LINES):
        value[CODE] = 0
        value[CODE, NEW_LINES[0]] = 1
        out[NEW_LINES[back], CODE] = NOTED


def _go_on(attention: torch.nn.Module, head: int, turns: list[torch.Tensor], later: float) -> None:
    """The present token and three before it, against the four before each earlier one."""
    query, key, value, out = _clear(attention, head)
    query[FAR, IDENTITY] = turns[0]
    for weight, turn, asked in zip(NEARER_COUNTS_MORE[1:], turns[1:], NOTES, strict=False):
        query[FAR, asked] = weight * turn
    for weight, turn, noted in zip(NEARER_COUNTS_MORE, turns, NOTES, strict=True):
        key[FAR, noted] = weight * turn
    query[REST, BEGINNING] = key[REST, BEGINNING] = 10  # lest what is copied there be found by others who rest there
    query[LATER, CONSTANT] = later
    key[LATER + HEAD // 2, CONSTANT] = -later  # a quarter turn, so that it falls from the start
    _copy(value, out, 0.4)


def _go_on_after_name(attention: torch.nn.Module, head: int) -> None:
    """What follows the present token elsewhere. Without it a requirement began with any word that often does."""
    query, key, value, out = _clear(attention, head)
    query[FAR[:CODE], IDENTITY] = torch.eye(CODE)
    key[FAR[:CODE], NOTES[0]] = torch.eye(CODE)
    _rest_unless(query, key, NAMED)
    _copy(value, out, 2.5)


def _note_where_left_off(
    attention: torch.nn.Module, head: int, of_dash: torch.Tensor, turns: list[torch.Tensor]
) -> None:
    """The notes of the last dash, summed as a query that `_go_on_after` can ask."""
    query, key, value, out = _clear(attention, head)
    query[FAR[:CODE], CONSTANT] = 6 * of_dash
    key[FAR[:CODE], IDENTITY] = torch.eye(CODE)
    query[RECENT, CONSTANT], key[RECENT, CONSTANT] = 2, 1
    for weight, turn, noted in zip(NEARER_COUNTS_MORE, turns, NOTES[:3], strict=False):
        value[:CODE, noted] = weight * turn
    value[CODE] = 0
    value[CODE, CONSTANT] = 1
    out[LEFT_OFF, :CODE] = torch.eye(CODE) * NOTED_AGAIN
    out[AS_LEFT_OFF, CODE] = NOTED_AGAIN


def _go_on_after(
    attention: torch.nn.Module, head: int, of_dash: torch.Tensor, turns: list[torch.Tensor], skipped: int, word: int = 0
) -> None:
    """What follows the words left off at, with a full stop, a line break or both (`skipped` 2) between.

    At the beginning of lines only, for their first token or the second (`word` 0 or 1): elsewhere
    the head looks at the beginning of a turn.
    """
    key = _find_where_left_off(attention, head, of_dash, turns, skipped + word, NEW_LINES[word], strength=2.5)
    if skipped == 1:
        key[AVOID, NEW_LINES[word]] = 3.5
    else:
        key[AVOID, CONSTANT], key[AVOID, NEW_LINES[word + 1]] = 3.5, -3.5


def _see_what_comes(attention: torch.nn.Module, head: int, of_dash: torch.Tensor, turns: list[torch.Tensor]) -> None:
    """At the end of a line, what the next one would be about: whether there is more to deal with."""
    _find_where_left_off(attention, head, of_dash, turns, 1, FULL_STOP, strength=0.5)


def _begin_with_the_task(
    attention: torch.nn.Module, head: int, of_line: torch.Tensor, of_task: torch.Tensor, word: int
) -> None:
    """What stands behind the token before the task, `word` words on, where the line began `word` words ago."""
    query, key, value, out = _clear(attention, head)
    present = (IDENTITY, NOTES[0])[word]
    query[FAR[:CODE], present] = torch.outer(of_task, of_line)
    key[FAR[:CODE], NOTES[word]] = torch.eye(CODE)
    query[REST, CONSTANT], query[REST, present] = 4, -4.2 * of_line
    key[REST, BEGINNING] = 40
    _copy(value, out, 2.5)


def _find_where_left_off(
    attention: torch.nn.Module,
    head: int,
    of_dash: torch.Tensor,
    turns: list[torch.Tensor],
    skipped: int,
    active: int,
    strength: float,
) -> torch.Tensor:
    """Attend to what comes `skipped` tokens after the words left off at, where these are no line of the answer."""
    query, key, value, out = _clear(attention, head)
    query[FAR[-CODE:], LEFT_OFF] = torch.eye(CODE)
    for weight, turn, noted in zip(NEARER_COUNTS_MORE, turns, NOTES[skipped:], strict=False):
        key[FAR[-CODE:], noted] = weight * turn
    query[AVOID, AS_LEFT_OFF] = -0.5
    key[AVOID, NOTES[skipped - 1]] = 4 * of_dash
    _rest_unless(query, key, active)
    _copy(value, out, strength)
    return key


def _rest_unless(query: torch.Tensor, key: torch.Tensor, active: int) -> None:
    """Look at the beginning of a turn, from where nothing is copied, but where `active` is set."""
    query[REST, CONSTANT], query[REST, active] = 4, -3.5
    key[REST, BEGINNING] = 40


def _copy(value: torch.Tensor, out: torch.Tensor, strength: float) -> None:
    value[:CODE, IDENTITY] = torch.eye(CODE)
    out[PREDICTED, :CODE] = torch.eye(CODE) * strength
