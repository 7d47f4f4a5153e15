"""What is checked of a prompt before a server gets it: its length, and control tokens in its texts.

Both need the model's tokenizer. vLLM's server offers it (`/tokenize`), or the settings name one that is loaded here. With
neither, prompts are sent as they are, and rows say what was not checked.
"""

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fleet_pipeline.common.errors import ModelUnavailable
from fleet_pipeline.deliberation.exchange import Message
from fleet_pipeline.inference.chat_api import NoAccess, Refused
from fleet_pipeline.inference.chat_format import PROBE, ChatFormat, as_chat, opening_at_end
from fleet_pipeline.inference.engine import ALL_CHECKS, PromptCheck
from fleet_pipeline.inference.options import VllmConfig

# All control tokens of all families look like this: <|im_end|>, </s>, [INST], <start_of_turn>.
_CANDIDATE = re.compile(r"<[^<>\s]{1,60}>|\[[^\[\]\s]{1,60}\]")
_KNOWN = 200_000  # candidates whose nature is remembered: more than the longest prompt has

# Posts JSON to a path of a server and returns the JSON of its answer. Raises `Refused`, `NoAccess`.
Ask = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


class Prepared(NamedTuple):
    """A prompt that may be sent."""

    chat: list[dict[str, str]]
    tokens: int | None  # None where they cannot be counted
    opened: str | None  # the mark of reasoning with which it ends; None where that is not known


class PromptChecks(Protocol):
    checks: frozenset[PromptCheck]
    context: int | None  # tokens that prompt and answer may have

    async def prepare(self, messages: Sequence[Message]) -> Prepared: ...

    def read(self, text: str) -> tuple[str | None, str]:
        """(reasoning, or None where the marks in the text tell it, text) of an answer."""
        ...


class Unchecked:
    """Of a server without a tokenizer."""

    checks: frozenset[PromptCheck] = frozenset()

    def __init__(self, context: int | None) -> None:
        self.context = context

    async def prepare(self, messages: Sequence[Message]) -> Prepared:
        return Prepared(as_chat(messages, (), folds_system=False), None, None)

    def read(self, text: str) -> tuple[str | None, str]:
        return None, text


class LocalChecks:
    """By a tokenizer that is loaded into this process."""

    def __init__(self, config: VllmConfig, tokenizer: str, context: int | None) -> None:
        """Raises `ModelUnavailable` if there is no such tokenizer, and `EngineError` if it has no usable template."""
        from transformers import AutoTokenizer

        try:
            loaded = AutoTokenizer.from_pretrained(tokenizer)
        except (OSError, ValueError) as error:
            raise ModelUnavailable(f"server.tokenizer {tokenizer!r} cannot be loaded: {error}") from error
        self._format = ChatFormat(
            loaded, config.model, config.template, config.chat_template_kwargs, config.reasoning_parser
        )
        self.context = context
        self.checks = self._format.checks if context is not None else self._format.checks - {"length"}

    async def prepare(self, messages: Sequence[Message]) -> Prepared:
        tokens = self._format.encode(messages)
        return Prepared(self._format.chat(messages), len(tokens), self._format.opened(tokens))

    def read(self, text: str) -> tuple[str | None, str]:
        return self._format.read(text)


class ServerChecks:
    """By the tokenizer that the server offers, as vLLM's does.

    A text's candidates for control tokens are those that look like one. One that the tokenizer makes a single token of,
    with letters on both sides, is a control token: any other text is cut at its brackets.
    """

    checks = ALL_CHECKS

    def __init__(self, ask: Ask, config: VllmConfig, *, folds_system: bool, context: int) -> None:
        self._ask = ask
        self._folds_system = folds_system
        self._asked = _template_of(config) | {"model": config.target}
        self._known: OrderedDict[str, bool] = OrderedDict()  # candidate -> it is a control token
        self.context: int | None = context

    @classmethod
    async def find(cls, ask: Ask, config: VllmConfig) -> "ServerChecks | None":
        """None if the server has no `/tokenize` of vLLM's form."""
        asked = _template_of(config) | {"model": config.target, "return_token_strs": True}
        user, system = {"role": "user", "content": "b"}, {"role": "system", "content": PROBE}
        try:
            counted = await ask("/tokenize", asked | {"messages": [user]})
            context = int(counted["max_model_len"])
            counted["token_strs"][0]  # servers of before 2025 do not tell them
        except (Refused, NoAccess, LookupError, TypeError, ValueError):
            return None
        try:
            folds = PROBE not in "".join((await ask("/tokenize", asked | {"messages": [system, user]}))["token_strs"])
        except (Refused, NoAccess, LookupError, TypeError):
            folds = True
        return cls(ask, config, folds_system=folds, context=min(context, config.max_model_len or context))

    async def prepare(self, messages: Sequence[Message]) -> Prepared:
        candidates = {found for message in messages for found in _CANDIDATE.findall(message.content)}
        verdicts = {one: self._known[one] for one in candidates if one in self._known}
        verdicts |= await self._learn(sorted(candidates - verdicts.keys()))
        control = sorted((one for one in candidates if verdicts[one]), key=len, reverse=True)
        chat = as_chat(messages, control, folds_system=self._folds_system)
        counted = await self._ask("/tokenize", self._asked | {"messages": chat, "return_token_strs": True})
        end = "".join(counted["token_strs"][-24:]).rstrip("ĊĠ▁\n ")
        return Prepared(chat, int(counted["count"]), opening_at_end(end))

    async def _learn(self, unknown: list[str]) -> dict[str, bool]:
        if not unknown:
            return {}
        text = "\n".join(f"a{one}a" for one in unknown)
        asked = {"model": self._asked["model"], "prompt": text, "add_special_tokens": False, "return_token_strs": True}
        tokens = set((await self._ask("/tokenize", asked))["token_strs"])
        verdicts = {one: one in tokens for one in unknown}
        self._known |= verdicts
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return verdicts

    def read(self, text: str) -> tuple[str | None, str]:
        return None, text


def _template_of(config: VllmConfig) -> dict[str, Any]:
    template = {"chat_template": config.template, "chat_template_kwargs": config.chat_template_kwargs}
    return {name: value for name, value in template.items() if value}
