"""Made-up tasks to train on: software English around words that mean nothing.

Half of the words are made up, so that the model cannot learn words and has to learn to copy them.
Every task draws its words from a small pool of its own, so that they come back in different places.
"""

import random
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES, Perspective, Role
from fleet_pipeline.deliberation.task import Task

MADE_UP_WORDS = 0.6
OF_PIECES = 0.7  # of the made-up words, where the pieces are known
MADE_UP_ROLES = 0.1


@cache
def _lists() -> dict[str, list[str]]:
    lists = tomllib.loads(Path(__file__).with_name("tasks.toml").read_text(encoding="utf-8"))
    return {name: value.split() if isinstance(value, str) else value for name, value in lists.items()}


class Pieces(NamedTuple):
    """The tokenizer's word pieces: those that begin a word and those within one."""

    first: list[str]
    further: list[str]


class TaskWriter:
    """Writes one task after another. `pieces` is None while there is no tokenizer."""

    def __init__(self, rng: random.Random, pieces: Pieces | None = None) -> None:
        self.rng = rng
        self.pieces = pieces
        self.pools: dict[str, list[str]] = {}
        self.written = 0

    def task(self) -> Task:
        rng, self.written = self.rng, self.written + 1
        self.pools = {
            kind: [self._fresh(kind) for _ in range(rng.randint(*size))]
            for kind, size in {"nouns": (2, 14), "verbs": (2, 8), "adjectives": (1, 6), "technologies": (1, 4)}.items()
        }
        constraints: dict[str, Any] = {"timeout_seconds": 3600}
        if rng.random() < 0.5:
            constraints["requirements"] = self._points("requirements", rng.randint(1, 5))
        if rng.random() < 0.45:
            rubric = self._points("criteria", rng.randint(1, 4))
            named = rng.random() < 0.35
            constraints["rubric"] = {self._word(): point for point in rubric} if named else rubric
        if rng.random() < 0.12:
            constraints["cluster_spec"] = self._facts()
        if rng.random() < 0.12:
            constraints["metadata"] = self._facts()
        return Task.model_validate(
            {
                "task_id": f"T{self.written}",
                "description": self._description(),
                "context": self._prose("contexts", rng.randint(1, 3)) if rng.random() < 0.35 else "",
                "num_agents": rng.choices([1, 2, 3, 4, 5, 7], [10, 15, 45, 15, 12, 3])[0],
                "rounds": rng.choices([1, 2], [70, 30])[0],
                "diversity": rng.random() < 0.93,
                "constraints": constraints,
            }
        )

    def role(self) -> Role:
        if self.rng.random() >= MADE_UP_ROLES:
            return self.rng.choice(list(BUILT_IN_ROLES.values()))
        perspectives = [
            Perspective(name=self._plain_words(self.rng.randint(1, 2)), focus=self._sentence("contexts") + ".")
            for _ in range(self.rng.randint(1, 5))
        ]
        return Role(
            name="MADE_UP",
            title=self._plain_words(self.rng.randint(1, 3)),
            expertise=self._prose("frames", self.rng.randint(1, 2)),
            perspectives=tuple(perspectives),
        )

    def _description(self) -> str:
        rng = self.rng
        kind = rng.random()
        if kind < 0.12:  # a title
            return self._sentence("frames")
        if kind < 0.75:
            return self._prose("frames", rng.choices(range(1, 11), [16, 22, 22, 16, 11, 6, 3, 2, 1, 1])[0])
        if kind < 0.8:
            return f"{self._sentence('frames')}:\n\n{self._listing()}"
        bullet = rng.choice(["- ", "- ", "* ", "{n}. "])
        lines = [
            bullet.format(n=n) + self._sentence("frames") + rng.choice([".", ""]) for n in range(1, rng.randint(3, 6))
        ]
        head = self._sentence(rng.choice(["frames", "requirements"])) + rng.choice([":", ".", ":"])
        return "\n".join([rng.choice(["", "", "## "]) + head, *lines])

    def _listing(self) -> str:
        """Some lines of code."""
        a, b, c = (self._made_up() for _ in range(3))
        lines = [
            f"def {a}({b}):", f"    {b} = {self.rng.randint(0, 9)}", f"    for {c} in range(len({b})):", f"        {a} = {a} + {b}[{c}]['{c}']",
            f"    return {c}", f"    if not {b}:", f"        raise ValueError('{a} {c}')", f"{a} = {b}({c}, {c}={self.rng.randint(1, 500)})",
            f"SELECT {a}, {b} FROM {c} WHERE {a} = {self.rng.randint(1, 99)};", f"    {a}: {b}", f"{a} --{b} {c} | {b}",
        ]  # fmt: skip
        return "\n".join(self.rng.sample(lines, self.rng.randint(2, 5)))

    def _prose(self, kind: str, count: int) -> str:
        sentences = [self._sentence(kind) + self.rng.choices([".", "!", "?"], [94, 3, 3])[0] for _ in range(count)]
        if self.rng.random() < 0.2:
            sentences[-1] = sentences[-1][:-1]
        separators = self.rng.choices([" ", "\n", "\n\n"], [90, 6, 4], k=count)
        return "".join(a + b for a, b in zip(sentences, separators, strict=True)).strip()

    def _points(self, kind: str, count: int) -> list[str]:
        return [self._sentence(kind) + self.rng.choice(["", "", "", "."]) for _ in range(count)]

    def _facts(self) -> dict[str, str]:
        return {self._word(): self.rng.choice([self._number(), self._word()]) for _ in range(self.rng.randint(1, 3))}

    def _sentence(self, kind: str) -> str:
        sentence = self._clause(kind)
        if kind == "frames" and self.rng.random() < 0.12:
            second = self._clause(kind)
            sentence += (
                self.rng.choice([", and ", "; ", ", because ", " so that ", ", but ", " - "])
                + second[0].lower()
                + second[1:]
            )
        return sentence

    def _clause(self, kind: str) -> str:
        if self.rng.random() < 0.15:  # no grammar at all: nothing but copying helps
            words = [self._word() for _ in range(self.rng.randint(2, 12))]
            if len(words) > 5 and self.rng.random() < 0.4:
                words[self.rng.randrange(2, len(words))] += ","
            sentence = " ".join(words)
        else:
            sentence = re.sub(r"\{(\w+)\}", lambda slot: self._fill(slot[1]), self.rng.choice(_lists()[kind]))
        return sentence[0].upper() + sentence[1:] if self.rng.random() < 0.95 else sentence

    def _fill(self, slot: str) -> str:
        match slot.lower():
            case "num":
                return self._number()
            case "unit":
                return self.rng.choice(_lists()["units"])
            case "code":
                return self._code()
            case "w":
                word = self._word()
            case "n":
                word = self._noun_phrase()
            case kind:
                word = self.rng.choice(self.pools[{"v": "verbs", "a": "adjectives", "t": "technologies"}[kind]])
        return word[0].upper() + word[1:] if slot[0].isupper() else word

    def _noun_phrase(self) -> str:
        words = [self.rng.choice(self.pools["nouns"])]
        while len(words) < 3 and self.rng.random() < 0.3:
            words.insert(0, self.rng.choice(self.pools[self.rng.choice(["nouns", "adjectives"])]))
        return " ".join(words)

    def _word(self) -> str:
        return self.rng.choice(self.pools[self.rng.choice(list(self.pools))])

    def _plain_words(self, count: int) -> str:
        words = " ".join(self._fresh(self.rng.choice(["nouns", "adjectives"])).lower() for _ in range(count))
        return re.sub(r"[^a-z ]", "", words)[:36].strip() or "plain"

    def _fresh(self, kind: str) -> str:
        if self.rng.random() >= MADE_UP_WORDS:
            word = self.rng.choice(_lists()[kind])
            return f"{self.rng.choice(_lists()['nouns'])}-{word}" if self.rng.random() < 0.05 else word
        word = self._made_up()
        match kind:
            case "technologies":
                return self.rng.choice(
                    [word.capitalize(), word.upper()[:8], word.capitalize() + self._number(), word.capitalize()]
                )
            case "nouns":
                style = self.rng.random()
                if style < 0.06:
                    return f"{word}{self.rng.choice('-_/.')}{self._made_up()}"
                if style < 0.1:
                    return word.capitalize() + self._made_up().capitalize()
                if style < 0.16:
                    return word.capitalize()
        return word

    def _made_up(self) -> str:
        rng, lists = self.rng, _lists()
        if self.pieces and rng.random() < OF_PIECES:
            further = rng.choices([0, 1, 2, 3], [25, 45, 20, 10])[0]
            return (rng.choice(self.pieces.first) + "".join(rng.choices(self.pieces.further, k=further)))[:24]
        word = rng.choice(lists["stems"]) + rng.choice(lists["endings"])
        if rng.random() < 0.03:
            word = word.translate(str.maketrans("aeou", rng.choice(["äéöü", "àèôù", "áëøñ", "яёюи"])))
        return rng.choice(lists["stems"]) + word if rng.random() < 0.15 else word

    def _number(self) -> str:
        rng = self.rng
        number = rng.choice(
            [
                rng.randint(1, 12),
                rng.randint(1, 100),
                rng.randint(100, 9_999),
                rng.randint(1, 99) * 10 ** rng.randint(1, 6),
            ]
        )
        return rng.choices(
            [
                f"{number}",
                f"{number:,}",
                f"{number / 10:.1f}",
                f"{number}%",
                rng.choice(["two", "three", "five", "ten", "twenty"]),
            ],
            [60, 12, 8, 8, 12],
        )[0]

    def _code(self) -> str:
        rng, a, b = self.rng, self._made_up(), self.rng.choice(_lists()["nouns"])
        return rng.choice(
            [
                f"{a}_{b}", f"{a}_{b}()", f"`{a}`", f"/{a}/{b}", f"{a}={b}", f"{a}.{b}", f"--{a}-{b}", f"X-{a.capitalize()}-{b.capitalize()}",
                str(rng.randint(200, 599)), f"{a.upper()}_{b.upper()}", f"{a}{b.capitalize()}", f"{a}:{rng.randint(1, 65535)}", f"v{rng.randint(1, 20)}.{rng.randint(0, 20)}",
                f"({a})", f"'{a}'", f"\"{a} {b}\"", f"#{rng.randint(1, 9999)}", f"{a}@{b}", f"<{a}>", f"[{a}]", f"{a[:4].upper()}-{rng.randint(1, 9999)}",
            ]
        )  # fmt: skip
