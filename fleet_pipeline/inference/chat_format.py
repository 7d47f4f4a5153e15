"""How one model's chats are written: messages to token ids, and its answers to reasoning and text.

What families of models differ in stays here. Gemma and early Mistral have no system role: the system text is put in
front of the first user message. Mistral, DeepSeek and Kimi have tokenizers of vLLM's own, with another interface
than Hugging Face's. Some write their marks of reasoning as special tokens, which must then be part of the text.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fleet_pipeline.common.errors import EngineError
from fleet_pipeline.deliberation.exchange import Message
from fleet_pipeline.deliberation.reasoning import HARMONY, MARKS
from fleet_pipeline.inference.engine import ALL_CHECKS, PromptCheck

# A word that no template writes: where it is missing, the template has dropped the system text.
PROBE = "Zwetschgenmus"
_OPENINGS = tuple(opening for opening, _ in MARKS)
_ALL_MARKS = frozenset({HARMONY, *(mark for pair in MARKS for mark in pair)})
_TAIL = 24  # tokens of a prompt in which a template may have opened the reasoning


class ChatFormat:
    """The format of one loaded model."""

    def __init__(
        self,
        tokenizer: Any,
        model: str,
        template: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
        reasoning_parser: str | None = None,
    ) -> None:
        """Raises `EngineError` if the template cannot render a chat, or the reasoning parser does not fit the model."""
        self.tokenizer = tokenizer
        self.model = model
        self._template = {"chat_template": template} if template else {}
        self._arguments = dict(template_arguments or {})
        known = control_tokens(tokenizer)
        self.control_tokens = known or []
        self.checks: frozenset[PromptCheck] = ALL_CHECKS if known is not None else ALL_CHECKS - {"control_tokens"}
        self.folds_system = False
        self.folds_system = self._drops_system()
        special = {*self.control_tokens, *getattr(tokenizer, "all_special_tokens", ())}
        # Otherwise the marks would be missing from the text, and reasoning would stay in the answer.
        self.shows_special_tokens = bool(special & _ALL_MARKS)
        self._hidden = sorted(special - _ALL_MARKS, key=len, reverse=True)
        self._parser = _reasoning_parser(reasoning_parser, tokenizer, model) if reasoning_parser else None
        if self._parser is not None:
            self.shows_special_tokens |= self._parser.shows_special_tokens

    def encode(self, messages: Sequence[Message], *, answer_follows: bool = True) -> list[int]:
        """The token ids of a prompt, or of a chat that has its answer. Control tokens in texts are broken up with a space.

        Otherwise a task or a peer's proposal could end its turn and open a system turn.
        """
        encoded = self.tokenizer.apply_chat_template(
            self.chat(messages),
            add_generation_prompt=answer_follows,
            tokenize=True,
            **self._template,
            **self._arguments,
        )
        if isinstance(encoded, str):
            encoded = self.tokenizer.encode(encoded, add_special_tokens=False)
        ids = encoded["input_ids"] if isinstance(encoded, Mapping) else encoded
        return [*(ids[0] if ids and isinstance(ids[0], (list, tuple)) else ids)]

    def chat(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """The messages as a template takes them: control tokens broken up, and no system message where it has no place."""
        return as_chat(messages, self.control_tokens, folds_system=self.folds_system)

    def opened(self, tokens: Sequence[int]) -> str:
        """The mark of reasoning with which a prompt ends, or ""."""
        return opening_at_end(self._decoded(tokens[-_TAIL:]))

    def read(self, text: str) -> tuple[str | None, str]:
        """(reasoning, or None where the marks in the text tell it, text) of an answer."""
        if self._parser is not None:
            return self._parser.split(text)
        if self.shows_special_tokens and HARMONY not in text:
            for token in self._hidden:
                text = text.replace(token, "")
        return None, text

    def _drops_system(self) -> bool:
        """Whether the template has no place for a system message: it refuses one, or leaves it out."""
        chat = [Message("system", PROBE), Message("user", "b")]
        try:
            if PROBE in self._decoded(self.encode(chat)):
                return False
        except Exception as error:  # noqa: BLE001 - templates raise what they like
            refusal: Exception | None = error
        else:
            refusal = None
        try:
            self.encode([Message("user", f"{PROBE}\n\nb")])
        except Exception as error:
            raise EngineError(f"model {self.model!r}: {_no_template(refusal or error)}") from error
        return True

    def _decoded(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))


def as_chat(messages: Sequence[Message], control: Iterable[str], *, folds_system: bool) -> list[dict[str, str]]:
    """The messages as chat templates and servers take them, with the `control` tokens in their texts broken up.

    With `folds_system` the system text is put in front of the first user message.
    """
    control = list(control)
    chat = [{"role": message.role, "content": _defused(message.content, control)} for message in messages]
    if folds_system and len(chat) > 1 and chat[0]["role"] == "system":
        system, first, *rest = chat
        chat = [{"role": first["role"], "content": f"{system['content']}\n\n{first['content']}"}, *rest]
    return chat


def opening_at_end(prompt: str) -> str:
    """The mark of reasoning with which a prompt ends, or ""."""
    return next((opening for opening in _OPENINGS if prompt.rstrip().endswith(opening)), "")


def _defused(text: str, control: Iterable[str]) -> str:
    for token in control:
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def control_tokens(tokenizer: Any) -> list[str] | None:
    """The texts of a model's control tokens, or None if its tokenizer does not tell.

    Hugging Face's tokenizers do. `all_special_tokens` is not enough: it holds only the named ones, such as the end of a
    turn. Mistral's never makes a control token of a text, so that there is none to break up.
    """
    if getattr(tokenizer, "IS_MISTRAL_TOKENIZER", False):
        return []
    added = getattr(tokenizer, "added_tokens_decoder", None)
    if added is None:
        return None
    return [str(token) for token in added.values() if token.special and len(str(token)) > 1]


def _no_template(error: Exception) -> str:
    remedy = "name a Jinja file in its options: chat_template, under [engine] or [models.NAME]"
    if "chat_template is not set" in str(error) or "chat template" in str(error).lower():
        return f"it has no chat template; {remedy} ({str(error).splitlines()[0][:200]})"
    return f"its chat template cannot render a chat: {str(error)[:300]}; {remedy}"


class _Parser:
    """One of vLLM's own reasoning parsers, by its name."""

    def __init__(self, parser: Any, model: str) -> None:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        self._parser = parser
        request = ChatCompletionRequest(model=model, messages=[])
        self._request = parser.adjust_request(request) or request
        self.shows_special_tokens = not self._request.skip_special_tokens

    def split(self, text: str) -> tuple[str | None, str]:
        try:
            reasoning, content = self._parser.extract_reasoning(text, self._request)
        except NotImplementedError:  # gpt-oss's: the channels in the text tell
            return None, text
        return reasoning or "", content or ""


def _reasoning_parser(name: str, tokenizer: Any, model: str) -> _Parser:
    from vllm.reasoning import ReasoningParserManager

    try:
        kind = ReasoningParserManager.get_reasoning_parser(name)
    except KeyError:
        known = ", ".join(ReasoningParserManager.list_registered())
        raise EngineError(f"reasoning_parser {name!r} of model {model!r} is none of vLLM's: {known}") from None
    try:
        return _Parser(kind(tokenizer), model)
    except Exception as error:
        raise EngineError(f"reasoning_parser {name!r} does not fit model {model!r}: {error}") from error
