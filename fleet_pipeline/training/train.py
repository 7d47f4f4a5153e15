"""The training loop: next-token loss on the answers, batches of pairs of like length."""

import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from fleet_pipeline.training.corpus import Pair

# Tokens of a batch, padding included, and how many pairs are sorted by length at a time.
BATCH_TOKENS = 3_072
SORTED = 2_000
MUON_RATE, ADAM_RATE = 5e-3, 3e-3
WARM_UP = 0.02  # of the steps; then half a cosine down to nothing
VALIDATION_PAIRS = 200


@dataclass(frozen=True)
class Sample:
    """Token ids, prompt first; the loss is on those from `answer` on."""

    ids: list[int]
    answer: int


def encode(tokenizer: Any, pair: Pair) -> Sample:
    """As the engine will send it, and with the end of the turn behind it."""
    prompt = tokenizer.apply_chat_template(
        [asdict(message) for message in pair.turn.messages], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]
    return Sample(ids=[*prompt, *tokenizer(pair.answer)["input_ids"], tokenizer.eos_token_id], answer=len(prompt))


def train(model: Any, tokenizer: Any, corpus: Iterator[Pair], tokens: int, seed: int) -> Iterator[dict[str, float]]:
    """Train in place on about `tokens` tokens; yields progress every hundred steps."""
    held_out = [encode(tokenizer, pair) for pair in islice(corpus, VALIDATION_PAIRS)]
    rng = random.Random(seed)
    optimizers = _optimizers(model)
    began, seen, step, losses = time.monotonic(), 0, 0, []
    for batch in _batches(tokenizer, corpus, rng):
        done = seen / tokens
        if done >= 1:
            break
        rate = min(1.0, done / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * done))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            optimizer.zero_grad()
        loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        seen += sum(len(sample.ids) for sample in batch)
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            seconds = time.monotonic() - began
            yield {"step": step, "tokens": seen, "loss": sum(losses) / len(losses), "tokens_per_second": seen / seconds}
            losses = []
    model.eval()
    yield {
        "step": step,
        "tokens": seen,
        **validate(model, held_out),
        "tokens_per_second": seen / (time.monotonic() - began),
    }


@torch.no_grad()
def validate(model: Any, samples: list[Sample]) -> dict[str, float]:
    """Mean loss and accuracy over the answers' tokens."""
    loss = right = count = 0.0
    for sample in samples:
        logits, targets = _answers(model, [sample])
        loss += cross_entropy(logits, targets, reduction="sum").item()
        right += (logits.argmax(-1) == targets).sum().item()
        count += len(targets)
    return {"validation_loss": loss / count, "validation_accuracy": right / count}


def _optimizers(model: Any) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024) for matrices within the layers, AdamW for what holds tokens and for the norms."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    inner = [p for name, p in trained if p.ndim == 2 and ".layers." in name]
    outer = [p for name, p in trained if p.ndim != 2 or ".layers." not in name]
    optimizers = [
        torch.optim.Muon(inner, lr=MUON_RATE, weight_decay=0.0),
        torch.optim.AdamW(outer, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def _batches(tokenizer: Any, corpus: Iterator[Pair], rng: random.Random) -> Iterator[list[Sample]]:
    while True:
        samples = sorted((encode(tokenizer, pair) for pair in islice(corpus, SORTED)), key=lambda s: len(s.ids))
        batches: list[list[Sample]] = [[]]
        for sample in samples:
            if (len(batches[-1]) + 1) * len(sample.ids) > BATCH_TOKENS and batches[-1]:
                batches.append([])
            batches[-1].append(sample)
        rng.shuffle(batches)
        yield from batches


def _loss(model: Any, batch: list[Sample]) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return cross_entropy(*_answers(model, batch))


def _answers(model: Any, batch: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of the answers' tokens. Padding stands behind, where no token looks."""
    longest = max(len(sample.ids) for sample in batch)
    ids = torch.tensor([sample.ids + [0] * (longest - len(sample.ids)) for sample in batch])
    wanted = torch.tensor([[sample.answer <= i + 1 < len(sample.ids) for i in range(longest)] for sample in batch])
    states = model.model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model.lm_head(states[wanted])
    return logits.float(), ids.roll(-1, dims=1)[wanted]
