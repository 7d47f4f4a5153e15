# ruff: noqa: RUF001  (DeepSeek's control tokens have wide bars)
"""Tiny models of many families with random weights: the mechanics of each family's architecture, tokens and chats.

Each has its family's configuration class at a few thousand parameters, a tokenizer trained small with the family's control tokens, and a chat
template that writes the format which the family documents. The templates are written for these tests, by the page that each
names; they are shorter than the makers' own, and have their traits: whether there is a system role, what opens and ends a turn.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VOCABULARY = 1_024
CONTEXT = 8_192
_TINY: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Family:
    """`config` names transformers' class; `tokens` are its control tokens, the one that ends an answer last."""

    name: str
    config: str
    tokens: tuple[str, ...]
    template: str
    source: str  # of the format
    options: Mapping[str, Any] = field(default_factory=dict)
    has_system: bool = True
    native: bool = False  # in Mistral's own format


def _turns(begin: str, end: str, answer: str, first: str = "") -> str:
    """A template whose turns all look alike; `begin` may use `message.role`."""
    return (
        f"{first}{{%- for message in messages -%}}{begin}{{{{ message.content }}}}{end}{{%- endfor -%}}"
        f"{{%- if add_generation_prompt -%}}{answer}{{%- endif -%}}"
    )


_ROLE = "{{ message.role }}"
_NO_SYSTEM = "{%- if messages[0].role == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}"
_GEMMA = (
    "{{ bos_token }}" + _NO_SYSTEM + "{%- for message in messages -%}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\n' + message.content + '<end_of_turn>\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
_INST = (
    "{{ bos_token }}{%- if messages[0].role == 'system' -%}{%- set system = messages[0].content -%}{%- set messages = messages[1:] -%}"
    "{%- endif -%}{%- for message in messages -%}{%- if message.role == 'user' -%}"
    "{{ '[INST] ' + (OPEN + system + CLOSE if loop.first and system is defined else '') + message.content + ' [/INST]' }}"
    "{%- else -%}{{ ' ' + message.content + eos_token }}{%- endif -%}{%- endfor -%}"
)
_LLAMA_2 = _INST.replace("OPEN", "'<<SYS>>\n'").replace("CLOSE", "'\n<</SYS>>\n\n'")
_MISTRAL = _INST.replace("OPEN", "''").replace("CLOSE", "'\n\n'")
_CHATML = _turns(f"<|im_start|>{_ROLE}\n", "<|im_end|>\n", "<|im_start|>assistant\n")

FAMILIES = (
    Family(
        "llama-2",
        "LlamaConfig",
        ("<s>", "<unk>", "</s>"),
        _LLAMA_2,
        "https://huggingface.co/blog/llama2#how-to-prompt-llama-2",
    ),
    Family(
        "llama-3",
        "LlamaConfig",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>", "<|eot_id|>"),
        _turns(
            f"<|start_header_id|>{_ROLE}<|end_header_id|>\n\n",
            "<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "{{ bos_token }}",
        ),
        "https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/",
    ),
    Family(
        "mistral",
        "MistralConfig",
        ("<s>", "[INST]", "[/INST]", "</s>"),
        _MISTRAL,
        "https://docs.mistral.ai/guides/tokenization/",
    ),
    Family("mistral-native", "MistralConfig", (), "", "mistral_common, whose tokenizer it has", native=True),
    Family(
        "mixtral",
        "MixtralConfig",
        ("<s>", "[INST]", "[/INST]", "</s>"),
        _MISTRAL,
        "https://docs.mistral.ai/guides/tokenization/",
        {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    Family(
        "gemma-2",
        "Gemma2Config",
        ("<pad>", "<bos>", "<start_of_turn>", "<eos>", "<end_of_turn>"),
        _GEMMA,
        "https://ai.google.dev/gemma/docs/core/prompt-structure",
        {"head_dim": 32, "tie_word_embeddings": True},
        has_system=False,
    ),
    Family(
        "gemma-3",
        "Gemma3TextConfig",
        ("<pad>", "<bos>", "<start_of_turn>", "<eos>", "<end_of_turn>"),
        _GEMMA,
        "https://ai.google.dev/gemma/docs/core/prompt-structure",
        {"head_dim": 32, "tie_word_embeddings": True},
        has_system=False,
    ),
    Family(
        "qwen-2",
        "Qwen2Config",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        _CHATML,
        "https://qwen.readthedocs.io/en/latest/getting_started/concepts.html",
    ),
    Family(
        "qwen-3",
        "Qwen3Config",
        ("<|endoftext|>", "<|im_start|>", "<think>", "</think>", "<|im_end|>"),
        _CHATML,
        "https://qwen.readthedocs.io/en/latest/getting_started/concepts.html",
        {"head_dim": 32},
    ),
    Family(
        "phi-3",
        "Phi3Config",
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        _turns(f"<|{_ROLE}|>\n", "<|end|>\n", "<|assistant|>\n"),
        "https://huggingface.co/microsoft/Phi-3-mini-4k-instruct#chat-format",
        {"pad_token_id": 0},
    ),
    Family(
        "gpt-oss",
        "GptOssConfig",
        ("<|endoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|return|>"),
        _turns(f"<|start|>{_ROLE}<|message|>", "<|end|>", "<|start|>assistant"),
        "https://cookbook.openai.com/articles/openai-harmony",
        {
            "head_dim": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 128,
        },
    ),
    Family(
        "deepseek",
        "DeepseekV2Config",
        ("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        "{{ bos_token }}{%- for message in messages -%}{%- if message.role == 'system' -%}{{ message.content }}"
        "{%- elif message.role == 'user' -%}{{ '<｜User｜>' + message.content }}"
        "{%- else -%}{{ '<｜Assistant｜>' + message.content + eos_token }}{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<｜Assistant｜>' }}{%- endif -%}",
        "https://huggingface.co/deepseek-ai/DeepSeek-V3 (tokenizer_config.json)",
        {
            "num_key_value_heads": 2,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "topk_method": "greedy",
            "kv_lora_rank": 512,
            "q_lora_rank": None,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 64,
            "v_head_dim": 64,
        },
    ),
    Family(
        "granite",
        "GraniteConfig",
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
        _turns(
            f"<|start_of_role|>{_ROLE}<|end_of_role|>", "<|end_of_text|>\n", "<|start_of_role|>assistant<|end_of_role|>"
        ),
        "https://www.ibm.com/granite/docs/models/granite/",
        {"logits_scaling": 1.0},
    ),
    Family(
        "olmo",
        "Olmo2Config",
        ("<|pad|>", "<|endoftext|>"),
        _turns(f"<|{_ROLE}|>\n", "\n", "<|assistant|>\n", "{{ bos_token }}"),
        "https://huggingface.co/allenai/OLMo-2-1124-7B-Instruct#chat-template",
    ),
)


def build(family: Family, folder: Path, corpus: list[str]) -> None:
    """Write configuration, tokenizer and random weights into `folder`."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    end = _native_tokenizer(folder) if family.native else _tokenizer(family, folder, corpus)
    size = {"vocab_size": 131_072} if family.native else {}
    config = getattr(transformers, family.config)(
        **{**_TINY, **size, **family.options, "eos_token_id": end, "bos_token_id": None}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 1.0, "eos_token_id": end}))


def _tokenizer(family: Family, folder: Path, corpus: list[str]) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(family.tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=family.tokens[0],
        eos_token=family.tokens[-1],
        chat_template=family.template,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    return len(family.tokens) - 1


def _native_tokenizer(folder: Path) -> int:
    """Mistral's own, which `mistral_common` brings."""
    import mistral_common

    shutil.copy(Path(mistral_common.__file__).parent / "data/tekken_240911.json", folder / "tekken.json")
    return 2
