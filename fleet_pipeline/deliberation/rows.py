"""What is recorded of a deliberation: the rows of its tables, and the footers of their files.

Each class of a row declares one table: its columns in order, their types, and what each means. The Parquet schema is
made from it (`fleet_pipeline.storage.schemas`), and scores, events, pages and commands use the same objects.
A change of a row raises the table's version there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from fleet_pipeline.deliberation.answers import Shortened
from fleet_pipeline.deliberation.exchange import AgentError
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.transcript import Status

# What decides who wins among the candidates. "both" is the mean of score and judge, each 0 to 1; "consensus" is the mean
# similarity to the other proposals.
Method = Literal["score", "judge", "both", "consensus", "reward"]

# Since the epoch, up to the last moment that a `datetime` can hold.
Seconds = Annotated[float, Field(ge=0, le=253_402_300_799)]

DeliberationId = Annotated[str, "`<task_id>.<role in lower case>`: partition key and file name."]
TaskId = Annotated[str, "The task, as in the backlog."]
RoleName = Annotated[str, "The council's role."]
AgentId = Annotated[str, "The seat: `agent-<role>-<number from 001>`."]
Label = Annotated[str, "The letter by which peers know the seat."]
PerspectiveName = Annotated[str | None, "The seat's perspective; null when diversity is off."]
ErrorType = Annotated[
    AgentError | None,
    "overlong, empty, cut_off, looped, engine, deadline, cancelled or fatal; null when the answer counts.",
]
ErrorMessage = Annotated[str | None, "What went wrong and what to do about it."]
FinishReason = Annotated[
    str, "As vLLM says: stop, length or repetition; of an answer that was not finished: deadline, cancelled or crash."
]
ShortenedText = Annotated[
    Shortened | None,
    "truncated: the text was cut at its token limit, and its broken end is dropped; looped: it repeated itself, and all "
    "but the first time is dropped; null where its end is the model's.",
]
TimeoutSeconds = Annotated[
    float | None,
    "Deadline in force at its end, in seconds of running time: as asked for, or by the engine's measured speed.",
]
RoundsDone = Annotated[int | None, "Rounds of critique and revision that came to their end."]
PromptTokens = Annotated[int, "Tokens of the prompt."]
CachedTokens = Annotated[int, "Prompt tokens that came from the prefix cache."]
CompletionTokens = Annotated[int, "Tokens generated, reasoning included."]
Cost = Annotated[float | None, "What its tokens cost, by the model's price; null without one."]
Temperature = Annotated[float | None, "Sampling temperature used."]
Seed = Annotated[int, "Sampling seed used."]
PromptSha256 = Annotated[str, "Hash of the messages sent."]
StartedAt = Annotated[datetime, "When the request entered the engine."]
FinishedAt = Annotated[datetime, "When its answer was complete."]
NotChecked = Annotated[
    str | None,
    "What the engine could not check before it ran the prompt: length, control_tokens, or both with a comma; "
    "null where it checked all.",
]
Vendi = Annotated[float | None, "Vendi score of the final proposals: how many different ones there are in effect."]
MeanDistance = Annotated[float | None, "Mean pairwise lexical distance, 0 to 1; null without peers."]
Duplicates = Annotated[int | None, "Final proposals that repeat another one exactly."]
InitialVendi = Annotated[float | None, "Vendi score before revision."]
InitialMeanDistance = Annotated[float | None, "Mean distance before revision."]
Decision = Literal[Method, "tests"]
WonBy = Annotated[
    Decision | None,
    "Of the winner, what decided: score, judge, both (their mean), consensus, reward, or tests: of its change, or of the others'.",
]
Tested = Annotated[
    Literal["verified", "broken", "unverified"] | None,
    "What the pipeline's own tests say of the change that it comes with: verified (a test passes that did not before, and none was "
    "broken), broken, or unverified; null where nothing was changed.",
]
ByLot = Annotated[bool, "Of the winner: others had the same rank, and a lot decided between them."]
Confidence = Annotated[
    float | None,
    "Of the winner: the probability that it is better than the runner-up (docs/scores.md); null without one.",
]
Model = Annotated[str, "Model that spoke, as configured."]
_ENGINE = 'Its kind, such as vllm. It begins with "synthetic: " where a test made the row.'
EngineKind = Annotated[str, _ENGINE]
RunId = Annotated[str, "Dagster run that wrote the row."]
_FINGERPRINT = "Hash over all that decides what is said; see `fleet_pipeline.deliberation.council`."
Fingerprint = Annotated[str, _FINGERPRINT]


@dataclass(frozen=True, kw_only=True)
class UtteranceRow:
    """One answer of one seat."""

    deliberation_id: DeliberationId
    task_id: TaskId
    role: RoleName
    agent_id: AgentId
    label: Label
    perspective: PerspectiveName
    phase: Annotated[Phase, "propose, critique or revise."]
    round: Annotated[int, "0 for the opening proposals, then from 1."]
    attempt: Annotated[int, "From 1; further ones follow an answer that did not count."]
    about_agent_id: Annotated[str, "Author of the text under discussion."]
    self_critique: Annotated[bool, "An agent without peers criticised itself."]
    text: Annotated[str, "The answer without its reasoning; of an unfinished one, what had been generated."]
    reasoning: Annotated[str, "What the model thought aloud before answering."]
    raw_text: Annotated[str | None, "The answer as it came, where echoes of the prompt or its end were taken off."]
    shortened: ShortenedText
    error_type: ErrorType
    error_message: ErrorMessage
    finish_reason: FinishReason
    prompt_tokens: PromptTokens
    cached_tokens: CachedTokens
    completion_tokens: CompletionTokens
    temperature: Temperature
    mean_logprob: Annotated[
        float | None, "Mean log-probability of its tokens; null where `engine.certainty` is off, and before it was."
    ] = None
    self_certainty: Annotated[
        float | None, "How far the engine was from knowing nothing, in nats a token (arXiv:2502.18581); null as above."
    ] = None
    tested: Tested = None
    seed: Seed
    prompt_sha256: PromptSha256
    started_at: StartedAt
    finished_at: FinishedAt
    cost: Cost = None
    not_checked: NotChecked
    model: Model
    engine: EngineKind
    run_id: RunId
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Evidence:
    """The sentence, list item or line of a proposal that covers one requirement or criterion best."""

    point: str
    kind: str  # requirement or criterion
    share: float  # of the point's words that it takes up, 0 to 1
    covered: bool
    text: str  # empty where nothing takes up a word


@dataclass(frozen=True)
class CodeFinding:
    """A check of a proposal's code that passed, or one finding of a check that did not."""

    check: str
    passed: bool
    line: int | None  # in the proposal
    message: str | None


@dataclass(frozen=True, kw_only=True)
class ProposalRow:
    """One seat's proposal, before and after revision, with its scores and its rank."""

    # A score whose column is misspelt, or declared nowhere, is an error and not lost.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    deliberation_id: DeliberationId
    task_id: TaskId
    role: RoleName
    agent_id: AgentId
    label: Label
    perspective: PerspectiveName
    text: Annotated[str | None, "The proposal after its last revision; null when the seat never answered."]
    initial_text: Annotated[str | None, "The proposal before any critique."]
    shortened: ShortenedText = None
    unfinished_text: Annotated[
        str | None, "What the seat was saying of its proposal when its time was up or its run was stopped."
    ] = None
    revisions: Annotated[int, "How many revisions counted."]
    tested: Tested = None
    error_type: Annotated[AgentError | None, "Why the seat has no proposal; null when it has one."]
    error_message: Annotated[str | None, "The same in words."]
    fit: Annotated[float | None, "How much better it fits its task than the wrong tasks of its batch, 0 to 1."] = None
    own_share: Annotated[float | None, "Share of its task's words that it takes up: what fit is made of."] = None
    wrong_share: Annotated[float | None, "The largest such share of a wrong task."] = None
    coverage: Annotated[
        float | None, "Mean share of each requirement and criterion taken up, 0 to 1; null without any."
    ] = None
    relevance: Annotated[float | None, "Mean of fit and coverage, 0 to 1."] = None
    novelty: Annotated[float | None, "Lexical distance to the nearest peer, 0 to 1; null without peers."] = None
    initial_novelty: Annotated[float | None, "The same before revision."] = None
    consensus: Annotated[
        float | None, "Mean lexical similarity to its peers, 0 to 1; null with fewer than two of them."
    ] = None
    checks: Annotated[
        float | None, "Share of the checks on its code that passed, 0 to 1; null where there was nothing to check."
    ] = None
    form: Annotated[float | None, "How much it says beyond its task, and how it is laid out, 0 to 1."] = None
    judge: Annotated[
        float | None, "Chance to win against an average peer by the judge's verdicts; null without any."
    ] = None
    judge_low: Annotated[float | None, "Lower end of its 95 % bootstrap interval."] = None
    judge_high: Annotated[float | None, "Upper end."] = None
    reward: Annotated[
        float | None, "What the reward model gives it; null without one, or where the text exceeds its context."
    ] = None
    preferred: Annotated[float | None, "Mean chance by the rewards to be preferred to another proposal."] = None
    score: Annotated[float | None, "Weighted mean of fit, coverage, novelty, checks and form, 0 to 1."] = None
    candidate: Annotated[bool | None, "Among the best by score from whom the winner is chosen."] = None
    choice: Annotated[float | None, "What the candidates were ordered by, as `won_by` of the winner says; 0 to 1."] = (
        None
    )
    rank: Annotated[int | None, "From 1 without gaps; equals share a rank. Null without a proposal."] = None
    tied: Annotated[bool | None, "Another proposal has the same rank."] = None
    winner: Annotated[bool, "The council's answer."] = False
    won_by: WonBy = None
    by_lot: ByLot = False
    confidence: Confidence = None
    evidence: Annotated[
        list[Evidence], "For each requirement and criterion the sentence that covers it best, if any."
    ] = field(default_factory=list)
    findings: Annotated[
        list[CodeFinding], "What checks looked at its code: each that passed, and each finding of the others."
    ] = field(default_factory=list)
    completion_tokens: Annotated[int, "Tokens this seat generated, all phases and attempts."]
    model: Model
    engine: EngineKind
    run_id: RunId
    fingerprint: Fingerprint

    @property
    def place(self) -> tuple[bool, int, bool]:
        """Sorts seats for people: the winner first, then by rank, then those without a proposal."""
        return self.rank is None, self.rank or 0, not self.winner


@dataclass(frozen=True, kw_only=True)
class CouncilFigures:
    """How different the proposals of one council are. Null where a council has too few of them."""

    vendi: Vendi = None
    mean_distance: MeanDistance = None
    duplicates: Duplicates = None
    initial_vendi: InitialVendi = None
    initial_mean_distance: InitialMeanDistance = None


@dataclass(frozen=True, kw_only=True)
class OutcomeRow:
    """The outcome of a deliberation: its status, its winner and its figures."""

    deliberation_id: DeliberationId
    task_id: TaskId
    role: RoleName
    status: Annotated[Status, "completed, failed or timeout."]
    error_message: Annotated[str | None, "Why it failed or timed out."] = None
    attempt: Annotated[
        int | None, "From 1; what earlier attempts said is in `attempts/<deliberation_id>.<number>.parquet`."
    ] = None
    description: Annotated[str | None, "The task's description."] = None
    story_id: Annotated[str | None, "The story that the task belongs to, where its metadata says so."] = None
    winner_agent_id: Annotated[str | None, "Author of the winning proposal."] = None
    winner_score: Annotated[float | None, "Its score."] = None
    winner_text: Annotated[str | None, "The winning proposal."] = None
    won_by: WonBy = None
    by_lot: ByLot = False
    confidence: Confidence = None
    clear_winner: Annotated[
        bool | None, "Its confidence is at least `scoring.clear_from`. False: the ranks are an order, and no verdict."
    ] = None
    num_agents: Annotated[int | None, "Seats on the council."] = None
    answered: Annotated[int, "Seats with a proposal."] = 0
    rounds: Annotated[int | None, "Rounds of critique and revision asked for."] = None
    rounds_done: RoundsDone = None
    agent_errors: Annotated[int, "Utterances that did not count, failed attempts included."] = 0
    truncated: Annotated[int, "Answers that count without the end that was cut at a token limit."] = 0
    looped: Annotated[int, "Answers that count up to where they began to repeat themselves."] = 0
    vendi: Vendi = None
    mean_distance: MeanDistance = None
    duplicates: Duplicates = None
    initial_vendi: InitialVendi = None
    initial_mean_distance: InitialMeanDistance = None
    mean_relevance: Annotated[float | None, "Mean relevance of the final proposals."] = None
    prompt_tokens: Annotated[int, "Tokens of all prompts."] = 0
    cached_tokens: Annotated[int, "Of those, tokens from the prefix cache."] = 0
    completion_tokens: Annotated[int, "Tokens generated."] = 0
    cost: Annotated[
        float | None, "What they cost, by the prices of the models; null without any. A judge's are not in it."
    ] = None
    started_at: Annotated[datetime | None, "When its first request entered the engine."] = None
    finished_at: Annotated[datetime | None, "When its last answer was complete."] = None
    wall_s: Annotated[float | None, "Seconds between the two."] = None
    timeout_seconds: TimeoutSeconds = None
    tools: Annotated[bool, "Whether its agents worked with tools: see operations and artifacts."] = False
    model: Annotated[str | None, "Model that spoke, as configured; several with commas."] = None
    engine: Annotated[str | None, _ENGINE] = None
    run_id: RunId
    fingerprint: Annotated[str | None, _FINGERPRINT] = None


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One figure of a council or of one of its seats."""

    deliberation_id: DeliberationId
    task_id: TaskId
    role: RoleName
    agent_id: Annotated[str | None, "The seat; null for a figure of the whole council."]
    peer_id: Annotated[str | None, "The other seat, of a figure that concerns two."]
    phase: Annotated[str, "initial, final, or revision for what lies between."]
    metric: Annotated[str, "Its name; docs/scores.md says what each means."]
    version: Annotated[str, "Version of the metric, or of the representation it was made from."]
    value: Annotated[float, "The figure."]
    n: Annotated[int, "Of how many things: proposals, points, checks, comparisons."]
    run_id: RunId
    fingerprint: Fingerprint


@dataclass(frozen=True, kw_only=True)
class JudgementRow:
    """The judge's answer to one question: which of two proposals is better."""

    deliberation_id: DeliberationId
    task_id: TaskId
    role: RoleName
    first_agent_id: Annotated[str, "Author of the proposal that was shown first."]
    second_agent_id: Annotated[str, "Author of the other."]
    repeat: Annotated[int, "From 1; the same question is asked several times."]
    better: Annotated[
        Literal["first", "second", "equal"] | None,
        "first, second or equal; null where the answer could not be read as a verdict.",
    ]
    criteria: Annotated[list[str], "What was to be marked, in order; none in files of before."]
    first_marks: Annotated[list[int] | None, "One for each of them, 1 (fails) to 5 (meets it)."]
    second_marks: Annotated[list[int] | None, "The same for the other."]
    reason: Annotated[str | None, "The judge's reason."]
    raw_text: Annotated[str, "The answer as it came."]
    error_type: ErrorType
    error_message: ErrorMessage
    finish_reason: FinishReason
    prompt_tokens: PromptTokens
    cached_tokens: CachedTokens
    completion_tokens: CompletionTokens
    temperature: Temperature
    seed: Seed
    prompt_sha256: PromptSha256
    started_at: StartedAt
    finished_at: FinishedAt
    cost: Cost = None
    not_checked: NotChecked
    model: Model
    engine: EngineKind
    run_id: RunId
    fingerprint: Fingerprint


@dataclass(frozen=True, kw_only=True)
class RewardRow:
    """What a reward model gives one final proposal."""

    deliberation_id: DeliberationId
    task_id: TaskId
    role: RoleName
    agent_id: AgentId
    reward: Annotated[
        float | None,
        "Only differences within a council mean something; null where the text exceeds the model's context.",
    ]
    prompt_tokens: PromptTokens
    model: Model
    engine: EngineKind
    run_id: RunId
    fingerprint: Fingerprint


@dataclass(frozen=True, kw_only=True)
class TranscriptFooter:
    """The state of a transcript, readable without its rows. Times are seconds since the epoch.

    Files of before have no `rounds`, no `rounds_done` (a completed one did all) and no `timeout_seconds`.
    """

    status: Status
    error_message: str
    fingerprint: str
    started_at: Seconds
    finished_at: Seconds
    run_id: str
    attempt: int
    rounds: int | None = None  # asked for
    rounds_done: int | None = None
    timeout_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class ProposalsFooter:
    """How the proposals of a council were scored."""

    fingerprint: str
    scores_version: str
    weights: Mapping[str, float]  # of the parts of a score, by name
    method: Method
    diversity: CouncilFigures
    clear_from: float | None = None  # of files of before there was a confidence


@dataclass(frozen=True, kw_only=True)
class OutcomeFooter:
    """The end of a deliberation, readable without its row."""

    status: Status
    fingerprint: str | None


@dataclass(frozen=True, kw_only=True)
class JudgementsFooter:
    """`judged` is the fingerprint of what was judged and how; empty where the judge is to be asked again. `identity` is that
    of a judge that is not the council's own model: its options, and its commit or weights."""

    judged: str
    identity: str = ""


@dataclass(frozen=True, kw_only=True)
class RewardsFooter:
    """`rated` is the fingerprint of what was rated, and by which model; `identity` is that of the model: its options, and its
    commit or weights."""

    rated: str
    identity: str


@dataclass(frozen=True, kw_only=True)
class NoFooter:
    """A table whose files say nothing besides their rows."""
