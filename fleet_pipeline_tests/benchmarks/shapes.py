"""Models of a real model's shape with random weights: what computing costs, without a download. What they say is noise."""

import shutil
from pathlib import Path

from fleet_pipeline.models.registry import FLEET_TINY, resolve

# Layers, width, inner width, heads, key-value heads and head size, from the models' own config.json.
SHAPES = {
    "qwen3-0.6b": (28, 1024, 3072, 16, 8, 128),
    "qwen3-4b": (36, 2560, 9728, 32, 8, 128),
    "qwen3-8b": (36, 4096, 12288, 32, 8, 128),
}


def random_model(folder: Path, shape: str) -> str:
    """A Qwen3 of this shape in `folder`, with fleet-tiny's tokenizer. Returns its path. Its answers end at their limit."""
    target = folder / shape
    if target.exists():
        return str(target)
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    source = Path(resolve(FLEET_TINY))
    tokenizer = AutoTokenizer.from_pretrained(source)
    layers, width, inner, heads, kv_heads, head_size = SHAPES[shape]
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_size, max_position_embeddings=4_096,
        tie_word_embeddings=False, eos_token_id=tokenizer.eos_token_id, dtype="bfloat16",
    )  # fmt: skip
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen3ForCausalLM(config)
    torch.set_default_dtype(usual)
    model.save_pretrained(target)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for file in [*source.glob("*token*"), *source.glob("*.jinja")]:
        shutil.copy(file, target)
    return str(target)
