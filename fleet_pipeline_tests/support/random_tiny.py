"""A Qwen3 of under a million parameters with random weights: real vLLM mechanics, no sense.

What it says is word salad from its own tokenizer's pieces: nothing about quality, diversity or relevance can be
learnt from it.

Weights are random but for one thing: the end-of-turn token has a fixed logit, so that answers end
by themselves, with uneven lengths (mean about `MEAN_ANSWER_TOKENS`), as a real model's do.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from pathlib import Path

from fleet_pipeline.deliberation import prompts, roles
from fleet_pipeline.training import chatml
from fleet_pipeline.training.chatml import END_OF_TEXT, END_OF_TURN, SPECIAL_TOKENS, train_tokenizer

MEAN_ANSWER_TOKENS = 40
VOCABULARY = 2_048
HIDDEN = 64
CONTEXT = 16_384


def random_tiny() -> str:
    """Its folder. Built once for each version of what it is made from (about 5 s), in the user's cache."""
    sources = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (chatml, prompts, roles)]
    version = hashlib.sha256("".join([Path(__file__).read_text(encoding="utf-8"), *sources]).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fleet-pipeline/models"
    folder = cache / f"random-tiny-{version}"
    if not (folder / "config.json").exists():
        cache.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))
        try:
            build(building, sources[1:])
            building.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():  # else another process was faster: its build is as good
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return str(folder)


def build(folder: Path, corpus: list[str], seed: int = 0) -> None:
    """Write config, tokenizer (byte-level BPE trained on `corpus`) and weights into `folder`."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(corpus, VOCABULARY, CONTEXT).save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        eos_token_id=SPECIAL_TOKENS.index(END_OF_TURN),
        bos_token_id=None,
        pad_token_id=SPECIAL_TOKENS.index(END_OF_TEXT),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
        _give_answers_an_end(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    # vLLM takes a model's own sampling defaults from this file.
    (folder / "generation_config.json").write_text(
        json.dumps({"temperature": 1.0, "max_new_tokens": 8 * MEAN_ANSWER_TOKENS, "eos_token_id": config.eos_token_id})
    )


def _give_answers_an_end(model) -> None:  # type: ignore[no-untyped-def]
    """Dimension 0 of the residual stream is constant, and only the end token's logit reads it.

    After the final norm the state has unit mean square, so the other logits are N(0, s^2) and the
    logarithm of their partition function is log V + s^2 / 2.
    """
    import torch

    constant, spread = 2.0, 2.0
    with torch.no_grad():
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        embedding.normal_()
        embedding[:, 0] = constant * math.sqrt(HIDDEN / (HIDDEN - 1))
        head.normal_(std=spread / math.sqrt(HIDDEN))
        head[:, 0] = 0
        head[: len(SPECIAL_TOKENS)] = 0
        state = constant / math.sqrt(1 + constant**2 / HIDDEN)
        log_partition = math.log(VOCABULARY) + spread**2 / 2
        end = SPECIAL_TOKENS.index(END_OF_TURN)
        head[end, 0] = (log_partition - math.log(MEAN_ANSWER_TOKENS)) / state
