"""The network: stock Qwen3 of 5 million parameters, with copying set by hand at the start.

An answer is mostly copied from its prompt. A model this small does not find out how to copy in the
hour that it is trained on two cores (3 % of a task's words after the first minutes, against 78 %),
so its first two layers start as the circuit that interpretability research found in trained models
(induction heads: Olsson et al. 2022, arXiv:2209.11895):

    layer 0   three heads look 1, 2 and 3 tokens back and note what stands there
    layer 1   every head compares the present token and the two before it with those notes; where
              they agree, the text has been here before, and the next token is copied from there

Training moves all of it freely.

The residual stream of 256 numbers starts out divided: 0 is a constant, 1 to 127 the token itself,
128 to 223 the notes of the tokens before it, the rest free.
"""

from __future__ import annotations

import math

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

HIDDEN = 256
HEADS = 4
HEAD = HIDDEN // HEADS
LAYERS = 5
TOKEN = slice(1, 128)
NOTES = [slice(128 + 32 * back, 160 + 32 * back) for back in range(3)]
CODE = 32  # numbers that stand for a token where tokens are compared
THETA = 1e7

# Rotary pairs (i, i + 32) turn by THETA ** (-i / 32) radians a token. The first ones tell how far
# back a token is; from 16 on they turn by less than 1/3 over 1,000 tokens and only tell what it is.
NEAR = range(8)
FAR = [*range(16, 32), *range(48, 64)]


def build(vocabulary: int, context: int, end: int, pad: int, seed: int) -> Qwen3ForCausalLM:
    """The untrained network."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=640,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=True,
        eos_token_id=end,
        bos_token_id=None,
        pad_token_id=pad,
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        _divide_the_stream(model)
        code = torch.nn.init.orthogonal_(torch.empty(CODE, TOKEN.stop - TOKEN.start))
        for head, back in enumerate((1, 2, 3)):
            _look_back(model.model.layers[0].self_attn, head, back, code)
        turns = [torch.nn.init.orthogonal_(torch.empty(CODE, CODE)) for _ in range(3)]
        for head in range(HEADS):
            _continue_what_was_here(model.model.layers[1].self_attn, head, code, turns)
    return model


def _divide_the_stream(model: Qwen3ForCausalLM) -> None:
    embedding = model.model.embed_tokens.weight
    embedding.zero_()
    embedding[:, TOKEN].normal_(std=0.1)
    embedding[:, 0] = 0.6
    for layer in model.model.layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight.mul_(0.2)


def _look_back(attention: torch.nn.Module, head: int, back: int, code: torch.Tensor) -> None:
    """Query and key are constants whose angles agree at a distance of `back` tokens."""
    rows = slice(head * HEAD, (head + 1) * HEAD)
    query, key, value = (getattr(attention, f"{name}_proj").weight[rows] for name in "qkv")
    for tensor in (query, key, value):
        tensor.zero_()
    for i in NEAR:
        turn = back * THETA ** (-i / (HEAD // 2))
        query[i, 0] = 1
        key[i, 0], key[i + HEAD // 2, 0] = math.cos(turn), math.sin(turn)
    value[:CODE, TOKEN] = code
    out = attention.o_proj.weight
    out[:, rows] = 0
    out[NOTES[back - 1], head * HEAD : head * HEAD + CODE] = torch.eye(CODE) * 0.35
    attention.q_norm.weight[:] = attention.k_norm.weight[:] = 3.2


def _continue_what_was_here(
    attention: torch.nn.Module, head: int, code: torch.Tensor, turns: list[torch.Tensor]
) -> None:
    """The present token and two before it, against the three before each earlier one.

    Nearer tokens count more. Heads 0 and 1 copy one half of the token each, 2 and 3 add to that.
    """
    rows = slice(head * HEAD, (head + 1) * HEAD)
    query, key, value = (getattr(attention, f"{name}_proj").weight[rows] for name in "qkv")
    for tensor in (query, key, value):
        tensor.zero_()
    weights = (1.0, 0.8, 0.6)
    for turn, weight, asked, noted in zip(turns, weights, (None, *NOTES[:2]), NOTES, strict=True):
        if asked is None:
            query[FAR, TOKEN] = weight * turn @ code
        else:
            query[FAR, asked] = weight * turn * 3
        key[FAR, noted] = weight * turn * 3
    out = attention.o_proj.weight
    out[:, rows] = 0
    half = [slice(1, 64), slice(64, 128)][head % 2]
    size = half.stop - half.start
    value[:size, half] = torch.eye(size)
    out[half, head * HEAD : head * HEAD + size] = torch.eye(size) * 0.2
    attention.q_norm.weight[:] = attention.k_norm.weight[:] = 1.7
