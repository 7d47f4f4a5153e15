"""The figures of the model card, from the results of a real run of the pipeline.

Nothing is judged by eye here. Two measures are strict on purpose: a word counts as broken when it is
neither in the prompt nor one of the phrases that the model was taught, even if it is good English;
and a point of a proposal counts as exact only word for word.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import mean
from typing import Any

from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.training.speakers import phrases, points_of

Row = Mapping[str, Any]
# What counts of all that was said, by deliberation, whose proposal it is about, phase and round.
Said = Mapping[tuple[str, str, str, int], Row]
_MARK = r"(\d+\.|[CR]\d+\.|Given:) "
_POINT = re.compile(rf"^{_MARK}(.+?) — (.+)\.$", re.MULTILINE)
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
# The words of an answer's frame, beside phrases and prompt: see `speakers`.
_FRAME = (
    "As a I put the whole first and take up critique by my own Given Begin then Risk Seen for Proposal My proposal "
    "is strong here It weak because as asked"
)


@dataclass
class Figure:
    """One line of the table: a mean, the bar it has to reach, and what fell short."""

    name: str
    bar: str  # ">= 0.75", "<= 0.05", or nothing
    value: float
    count: int
    failures: list[str] = field(default_factory=list)

    @property
    def reached(self) -> bool:
        sign, _, limit = self.bar.partition(" ")
        return not self.bar or (self.value >= float(limit) if sign == ">=" else self.value <= float(limit))


def evaluate(
    tasks: Sequence[Task], utterances: Sequence[Row], proposals: Sequence[Row], trained: set[str]
) -> list[Figure]:
    """`utterances` and `proposals` are the rows of those tables; `trained` all words of the training."""
    by_id = {task.task_id: task for task in tasks}
    answered = [row for row in proposals if row["text"]]
    written = [row for row in utterances if row["phase"] in ("propose", "revise")]
    own, foreign = _unseen_words(by_id, answered, trained)
    said = {
        (row["deliberation_id"], row["about_agent_id"], row["phase"], row["round"]): row
        for row in utterances
        if not row["error_type"]
    }
    return [
        own,
        foreign,
        _share(
            "proposals (with revisions) without a broken word or a loop",
            ">= 0.95",
            written,
            lambda row: _faults(by_id[row["task_id"]], row),
        ),
        _share(
            "utterances that end by themselves and are not empty",
            ">= 1.00",
            utterances,
            lambda row: row["error_type"] or "",
        ),
        _share(
            "critiques that name a point of the proposal",
            ">= 0.90",
            _of("critique", utterances),
            lambda row: _names_nothing(row, said),
        ),
        _share(
            "revisions that take up a point and name their critic",
            ">= 0.90",
            _of("revise", utterances),
            lambda row: _ignores(row, said),
        ),
        _requirements(by_id, answered),
        _share(
            "proposals with every point of the task, word for word",
            "",
            answered,
            lambda row: _inexact(by_id[row["task_id"]], row["text"]),
        ),
        _classified("role told from a proposal without its first line", answered, "role", "text"),
        _classified(
            "perspective told from an opening proposal without its first line", answered, "perspective", "initial_text"
        ),
    ]


def words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def content_words(text: str) -> set[str]:
    """Words of three letters or more that are not function words."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return {word for word in words(text) if len(word) > 2 and not word.isdigit() and word not in ENGLISH_STOP_WORDS}


def task_text(task: Task) -> str:
    """All that a proposal is about. The context is background: of it a proposal takes up one sentence."""
    constraints = task.constraints
    return "\n".join([task.description, *constraints.rubric, *constraints.requirements])


def _unseen_words(tasks: Mapping[str, Task], proposals: Sequence[Row], trained: set[str]) -> tuple[Figure, Figure]:
    unseen = {task_id: content_words(task_text(task)) - trained for task_id, task in tasks.items()}
    said = [(row, set(words(row["text"]))) for row in proposals]
    own = Figure("a task's content words never met in training, present in its proposals", ">= 0.75", 0.0, 0)
    shares, foreign = [], []
    for row, present in said:
        for task_id, wanted in unseen.items():
            if not wanted:
                continue
            share = len(wanted & present) / len(wanted)
            if task_id == row["task_id"]:
                shares.append(share)
                if share < 0.75:
                    own.failures.append(
                        f"{row['deliberation_id']} {row['label']}: missing {', '.join(sorted(wanted - present))}"
                    )
            else:
                foreign.append(share)
    own.value, own.count = mean(shares), len(shares)
    return own, Figure("the same words in proposals for other tasks", "<= 0.05", mean(foreign), len(foreign))


def _share(name: str, bar: str, rows: Iterable[Row], fault: Callable[[Row], str]) -> Figure:
    """The share of rows in which `fault` finds nothing."""
    found = [(row, fault(row)) for row in rows]
    failures = [f"{row['deliberation_id']} {row['label']}: {text}" for row, text in found if text]
    return Figure(name, bar, 1 - len(failures) / len(found), len(found), failures)


def _of(phase: str, utterances: Iterable[Row]) -> list[Row]:
    return [row for row in utterances if row["phase"] == phase and not row["error_type"]]


@cache
def known_words() -> set[str]:
    """What the model was taught to say of its own."""
    banks = [phrases()["COUNCIL"], phrases()["ANY"]]
    banks += [bank for name, role in phrases().items() if name not in ("COUNCIL", "ANY") for bank in role.values()]
    return set(words(" ".join([_FRAME, *(text for bank in banks for texts in bank.values() for text in texts)])))


def _faults(task: Task, row: Row) -> str:
    from fleet_pipeline.deliberation.prompts import task_brief
    from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES

    if row["error_type"]:
        return str(row["error_type"])
    role = BUILT_IN_ROLES[row["role"]]
    letters = {chr(ord("a") + index) for index in range(26)}
    allowed = known_words() | set(words(f"{task_brief(task)} {role.title} {row['perspective']}")) | letters
    lines = [re.sub(f"^{_MARK}", "", line) for line in row["text"].splitlines()]
    broken = [word for line in lines for word in words(line) if word not in allowed and not word.isdigit()]
    if broken:
        return f"broken: {', '.join(broken)}"
    said = Counter(line.split(" — ")[0] for line in lines)
    expected = Counter(about for _, about in points_of(task))
    looped = [line for line, count in said.items() if count > max(1, expected[line])]
    return f"said twice: {looped[0]}" if looped else ""


def _points(text: str) -> dict[str, tuple[str, str]]:
    """Mark -> (about, plan)."""
    return {match[1]: (match[2], match[3]) for match in _POINT.finditer(text)}


def _inexact(task: Task, text: str) -> str:
    expected = dict(points_of(task))
    found = {mark: about for mark, (about, _) in _points(text).items()}
    wrong = [mark for mark in expected | found if expected.get(mark) != found.get(mark)]
    return f"{wrong[0]} is {found.get(wrong[0])!r}" if wrong else ""


def _names_nothing(row: Row, said: Said) -> str:
    author = row["deliberation_id"], row["about_agent_id"]
    revised = (said.get((*author, "revise", round_)) for round_ in range(row["round"] - 1, 0, -1))
    before = next(filter(None, revised), None) or said[*author, "propose", 0]
    proposed = _points(before["text"])
    named = [line for line in row["text"].splitlines() if re.match(_MARK, line)]
    wrong = [line for line in named if not _quotes(line, proposed)]
    return "" if named and not wrong else f"quotes {wrong or 'nothing'}"


def _quotes(line: str, proposed: Mapping[str, tuple[str, str]]) -> bool:
    mark, _, rest = line.partition(" ")
    about = proposed.get(mark, ("",))[0]
    return bool(about) and rest.startswith((f"{about}: ", f"{about} — "))


def _ignores(row: Row, said: Said) -> str:
    critique = said[row["deliberation_id"], row["agent_id"], "critique", row["round"]]
    remedies = [plan.partition(", because ")[0] for _, plan in _points(critique["text"]).values()]
    own = critique["self_critique"]
    whose, who = (
        ("my own critique", "my critique") if own else (f"the critique by {critique['label']}", critique["label"])
    )
    if f"and take up {whose}." not in row["text"]:
        return f"does not name {whose}"
    return "" if any(f"{remedy}, as {who} asked" in row["text"] for remedy in remedies) else "takes up no remedy"


def _requirements(tasks: Mapping[str, Task], proposals: Sequence[Row]) -> Figure:
    asked = [
        (row, requirement)
        for row in proposals
        for requirement in tasks[row["task_id"]].constraints.requirements
        if content_words(requirement)
    ]
    failures = [
        f"{row['deliberation_id']} {row['label']}: {requirement}"
        for row, requirement in asked
        if not content_words(requirement) <= set(words(row["text"]))
    ]
    return Figure(
        "stated requirements mentioned, with all their content words",
        ">= 0.80",
        1 - len(failures) / len(asked),
        len(asked),
        failures,
    )


def _classified(name: str, proposals: Sequence[Row], target: str, column: str) -> Figure:
    """Accuracy of logistic regression on TF-IDF, each task's proposals judged by the other tasks'."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline

    rows = [row for row in proposals if row["perspective"]]
    labels = [row["role"] if target == "role" else f"{row['role']} {row['perspective']}" for row in rows]
    texts = [row[column].partition("\n")[2] for row in rows]
    classifier = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=30, max_iter=1000))
    told = cross_val_predict(classifier, texts, labels, groups=[row["task_id"] for row in rows], cv=LeaveOneGroupOut())
    wrong = [
        f"{row['deliberation_id']} {row['label']}: {label} taken for {guess}"
        for row, label, guess in zip(rows, labels, told, strict=True)
        if label != guess
    ]
    return Figure(f"{name} ({len(set(labels))} kinds)", "", 1 - len(wrong) / len(rows), len(rows), wrong)


def table(figures: Iterable[Figure]) -> str:
    """As Markdown."""
    lines = ["| measure | bar | figure | of | fell short |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {f.name} | {f.bar} | {f.value:.3f} | {f.count} | {len(f.failures)} |" for f in figures]
    return "\n".join(lines)
