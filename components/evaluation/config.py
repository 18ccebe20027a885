"""Settings of the two stages that judge a model: ``assess`` (how good is it?) and ``gate`` (may it replace another?).

Imports neither torch nor numpy: the flow's process reads these classes and must stay light.
"""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from components.cascade.config import CascadeConfig
from components.core.neutral import Neutral


class ScoringConfig(BaseModel):
    """Which held-out documents are scored, and how; the same for a report and for a decision."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_documents: PositiveInt = 1_000
    """At most this many documents of the test split, chosen by a fixed shuffle."""
    max_tokens: PositiveInt = 250_000
    """Choose no more documents than hold this many tokens together; one is always scored."""
    batch_tokens: PositiveInt = 8_192
    """Tokens in one forward pass, padding included; costs memory, changes no metric."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to score: `auto` takes the GPU if there is one."""
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """Arithmetic of the forward pass: `auto` takes bf16 where the hardware multiplies it natively."""


class BootstrapConfig(BaseModel):
    """How the uncertainty of a metric is estimated: by resampling documents (or questions) with replacement."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Share of the resamples that an interval covers."""
    resamples: int = Field(10_000, ge=100)
    """Number of resamples."""
    seed: NonNegativeInt = 0
    """Seed of the resampling: same scores and seed, same interval."""


class QuestionsConfig(BaseModel):
    """The closed world's questions, answered by continuing a prompt with the likeliest tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_questions: NonNegativeInt = 500
    """At most this many questions, chosen by a fixed shuffle; 0 asks none."""
    batch_questions: PositiveInt = 64
    """Questions answered together; costs memory, changes no answer."""


class SamplesConfig(BaseModel):
    """Continuations of held-out documents, shown in the report for people to read."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    count: NonNegativeInt = 3
    """Number of samples."""
    prompt_words: PositiveInt = 8
    """Words of the held-out document that the model is given."""
    max_tokens: PositiveInt = 48
    """Tokens generated per sample."""
    temperature: float = Field(0.8, ge=0.0, le=2.0)
    """0 takes the likeliest token; higher values vary more."""
    top_p: float = Field(0.95, gt=0.0, le=1.0)
    """Sample among the likeliest tokens that hold this share of the probability."""
    seed: NonNegativeInt = 0
    """Seed of the samples."""


class AssessConfig(ScoringConfig, BootstrapConfig):
    """How good is the model: likelihood of held-out text, answers to questions, samples, a one-page report."""

    questions: QuestionsConfig = QuestionsConfig()
    """Exact match on the closed world's questions, where the data has them."""
    samples: SamplesConfig = SamplesConfig()
    """Continuations for the report."""


class Criterion(BaseModel):
    """What the gate does with one metric. Margin and limits are in the unit of the metric; shares run from 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    role: Literal["decides", "guards", "reported"] = "reported"
    """`decides`: the challenger is promoted if one of these is shown to be better. `guards`: it is refused if this is
    shown to be worse. A metric that decides guards too."""
    margin: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    """How much worse is accepted. With a margin, a metric that decides need only be shown to stay within it."""
    at_most: float | None = Field(None, allow_inf_nan=False)
    """Refuse a challenger above this, whatever the champion does."""
    at_least: float | None = Field(None, allow_inf_nan=False)
    """Refuse a challenger below this."""


class Criteria(BaseModel):
    """The metrics of the gate, all of the model as it is served; presets: `gate=cascade`, `gate=plain`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    facts_right: Criterion = Criterion(role="decides")
    """Factual tokens of held-out text that the small model, or the helper where it is asked, gets right."""
    bits_per_byte_other: Criterion = Criterion(role="decides")
    """Bits per byte of the tokens that state no fact: the language, which no helper provides."""
    bits_per_byte: Criterion = Criterion(at_most=8.0)
    """Bits per byte of all tokens, written without a helper. No model at all needs 8."""
    written_facts_true: Criterion = Criterion(role="guards")
    """Share of the facts stated in texts that the model writes as it is served; the closed world knows each of them."""
    wasted_calls: Criterion = Criterion(role="guards", margin=0.05, at_most=0.9)
    """Share of the calls on tokens that state no fact."""
    calls: Criterion = Criterion()
    """Calls per decision on held-out text."""
    helper_failures: Criterion = Criterion(at_most=0.1)
    """Share of the questions to the helper that end in an error or in time-out."""
    leakage: Criterion = Criterion()
    """Share of the questions that the small model answers from memory when it may not call."""
    seconds_per_token: Criterion = Criterion()
    """Wall time per written token, measured on this machine while the gate runs, sixteen texts at a time."""
    price_per_1000_tokens: Criterion = Criterion()
    """What the helper costs per 1,000 decisions of the model, at `price_per_call`."""
    contaminated: Criterion = Criterion(at_most=0.05)
    """Share of the held-out documents that have a near-duplicate in the training text."""
    contaminated_questions: Criterion = Criterion(at_most=0.05)
    """Share of the questions for leakage that stand word for word in the training text."""

    @field_validator("seconds_per_token")
    @classmethod
    def _one_measurement_decides_nothing(cls, criterion: Criterion) -> Criterion:
        if criterion.role != "reported":
            raise ValueError(
                f"time is measured once, so it has no interval and cannot be given the role {criterion.role!r}; set "
                "at_most instead"
            )
        return criterion

    @field_validator("contaminated", "contaminated_questions")
    @classmethod
    def _data_cannot_be_better_than_a_champion(cls, criterion: Criterion) -> Criterion:
        if criterion.role != "reported":
            raise ValueError(
                f"contamination is a property of the data and no merit of a model, so it cannot be given the role "
                f"{criterion.role!r}; set at_most instead"
            )
        return criterion


class GateConfig(ScoringConfig, BootstrapConfig):
    """May the challenger take the champion's place: both as they are served, on the same held-out documents."""

    criteria: Criteria = Criteria()
    """What decides, what must not get worse, and limits."""
    other_corpus: Literal["refuse", "compare"] = "refuse"
    """What to do with a champion that learnt from other sources than the challenger: it does not know the text on which
    both are measured. A champion of the built-in demonstrations (`world`, `pydoc`) is always compared."""
    min_documents: PositiveInt = 10
    """With fewer held-out documents an interval cannot be trusted, and nothing is promoted over a champion."""
    fact_tokens: PositiveInt = 12_000
    """Tokens of the held-out documents, out of those that are scored, on which the model calls and the helper is
    asked."""
    texts: NonNegativeInt = 32
    """Texts that each model writes as it is served; 0 writes none."""
    text_tokens: PositiveInt = 96
    """Longest of them, in tokens."""
    questions: NonNegativeInt = 300
    """Questions for leakage, where the data has any."""
    price_per_call: NonNegativeFloat = 0.0
    """Price of one call to the helper, in any currency."""
    contamination_tokens: NonNegativeInt = 20_000_000
    """Tokens of the training text, whole documents by a fixed shuffle, in which held-out documents and questions are
    looked for; 0 looks for none."""


class ProbesConfig(BaseModel):
    """Questions about real entities, answered by continuing a text; any JSONL in the manner of EntityQuestions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    files: list[str] = []
    """.jsonl or .jsonl.gz files with subject, answers and prompt, relation or question on each line; none asks none."""
    per_file: PositiveInt = 300
    """At most this many of a file, by a fixed shuffle; half of them about subjects of the training text where the file
    tells (`in_pretrain`)."""
    max_tokens: PositiveInt = 24
    """Longest answer; the hard call budget of an answer is a share of it."""


class JudgeConfig(BaseModel):
    """Who decides whether an article supports a statement."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["local", "endpoint"] = "local"
    """`local` looks for the statement's numbers, names and words in the retrieved passages; `endpoint` asks any
    OpenAI-compatible server, also to split texts into facts."""
    url: str = ""
    """kind=endpoint: base URL, for example http://127.0.0.1:8001/v1. A key is read from LACEWING_JUDGE_API_KEY."""
    name: str = ""
    """kind=endpoint: the model to ask for."""
    timeout_seconds: PositiveFloat = 30.0
    """How long one answer may take, including retries."""
    retries: NonNegativeInt = 2
    """Retries after a failure, within the timeout."""
    parallel: PositiveInt = 4
    """Questions asked at the same time."""

    @model_validator(mode="after")
    def _endpoint_is_named(self) -> "JudgeConfig":
        if self.kind == "endpoint" and not self.url.startswith(("http://", "https://")):
            raise ValueError(
                f"judge.kind=endpoint needs judge.url, such as http://127.0.0.1:8001/v1; given {self.url!r}"
            )
        return self


class FactScoreConfig(BaseModel):
    """FActScore of biographies of real people (Min et al. 2023)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    entities: str = ""
    """.jsonl or .jsonl.gz file with `entity` and `article` (the id of an article) on each line; empty: not measured."""
    knowledge: list[str] = []
    """.jsonl or .jsonl.gz files with `id`, `title` and `text` on each line, in which the articles are found."""
    max_entities: PositiveInt = 100
    """At most this many, by a fixed shuffle."""
    instruction: str = "Tell me a bio of {entity}. "
    """Instruction before the text; not judged."""
    opening: str = "{entity} is"
    """First words of the text; judged together with the continuation."""
    max_tokens: PositiveInt = 256
    """Longest biography."""
    passages: PositiveInt = 5
    """Passages of the article that the judge sees."""
    gamma: NonNegativeInt = 10
    """Responses with fewer facts than this are penalised in the second score; 0 penalises none."""
    pipeline: str = ""
    """judge.kind=local: spaCy package or path, to split sentences into clauses; empty: one sentence is one fact."""
    judge: JudgeConfig = JudgeConfig()
    """Who judges."""

    @model_validator(mode="after")
    def _prompts_name_the_entity(self) -> "FactScoreConfig":
        if "{entity}" not in self.opening:
            raise ValueError(f"factscore.opening must hold {{entity}}; given {self.opening!r}")
        if self.entities and not self.knowledge:
            raise ValueError("factscore.entities needs factscore.knowledge, the files that hold the entities' articles")
        return self


class CalculationsConfig(BaseModel):
    """Solutions of word problems whose calculations are written out, as in GSM8K: are the results right?"""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    file: str = ""
    """.jsonl or .jsonl.gz file with `question` and `answer` on each line, the answer with calculations such as
    `<<48/2=24>>`; empty: not measured."""
    problems: PositiveInt = 2000
    """At most this many, by a fixed shuffle."""
    written: NonNegativeInt = 100
    """Of these, the model solves so many itself."""
    written_tokens: PositiveInt = 256
    """Longest solution that it writes, in tokens."""


class FactsConfig(BootstrapConfig):
    """Are the facts right, alone and as a cascade? On held-out text, and in biographies that the model writes."""

    budgets: list[float] = [0.0, 0.05, 0.1, 0.15, 0.22, 0.4, 0.6, 0.8, 1.0]
    """Call budgets of the curve: shares of the tokens that become calls."""
    max_tokens: PositiveInt = 60_000
    """Held-out tokens on which every call is tried against the gold text."""
    batch_tokens: PositiveInt = 8_192
    """Tokens in one forward pass."""
    biographies: NonNegativeInt = 24
    """Documents to write from their first words and to check fact by fact, where the data is the closed world."""
    biography_tokens: PositiveInt = 96
    """Longest of them, in tokens."""
    probes: ProbesConfig = ProbesConfig()
    """Questions about real entities."""
    factscore: FactScoreConfig = FactScoreConfig()
    """Biographies of real people."""
    calculations: Annotated[CalculationsConfig, Neutral(CalculationsConfig())] = CalculationsConfig()
    """Results of calculations in solutions of word problems."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: `auto` takes the GPU if there is one."""
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """Arithmetic of the forward pass on held-out text."""

    @field_validator("budgets")
    @classmethod
    def _shares_in_order(cls, budgets: list[float]) -> list[float]:
        if not budgets or budgets != sorted(set(budgets)) or not 0.0 <= budgets[0] <= budgets[-1] <= 1.0:
            raise ValueError(f"call budgets are shares between 0 and 1, each once and in order; given {budgets}")
        return budgets


class CascadeAssessConfig(BaseModel):
    """What the stage `cascade` reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    facts: FactsConfig = FactsConfig()
    """What is measured."""
    cascade: CascadeConfig = CascadeConfig()
    """Who answers with the model, and how."""
