"""Settings of classification. Imports neither torch nor numpy: the flow process reads them too."""

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from components.evaluation.config import BootstrapConfig
from components.model.adapters.config import AdapterConfig
from components.training.config import TrainerConfig

Kind = Literal["single", "multi"]
Pooling = Literal["last", "mean"]


class LabelledTextsConfig(BaseModel):
    """Texts and their labels, from files of .jsonl, .ndjson, .csv (these also as .gz) or .parquet."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    train: list[str] = Field(default=["world"], min_length=1)
    """Paths or globs of labelled texts, or `world`: the articles of the closed world, by the kind of their subject."""
    test: list[str] = []
    """Texts to measure with; empty: the share test_fraction of `train`."""
    text_field: str = Field(default="text", min_length=1)
    """Field or column that holds the text."""
    label_field: str = Field(default="label", min_length=1)
    """Field or column that holds the label, or with kind=multi a list of labels."""
    label_separator: str = Field(default="|", min_length=1)
    """What stands between the labels of a text in CSV, with kind=multi."""
    kind: Kind = "single"
    """Whether a text has exactly one label, or any number of them."""
    labels: list[str] = []
    """All labels there are; others are refused. Empty: those of the training texts."""
    per_class: NonNegativeInt = 0
    """Train on so many texts of each label, chosen by seed; 0: all. Only with kind=single."""
    seed: NonNegativeInt = 0
    """Decides which texts of a label are chosen, and which are held out."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the training texts of each label, at least one, that is held out for validation."""
    test_fraction: float = Field(default=0.2, gt=0, lt=0.5)
    """Share of the texts of `train` that is held out if there are no `test` files."""
    shingle_words: PositiveInt = 3
    """Test texts are compared with training texts by their runs of this many words; shorter ones as a whole."""
    similarity: float = Field(default=0.7, gt=0.0, le=1.0)
    """A test text is left out from this resemblance to a training text on: shared runs by all runs of both."""


class NgramConfig(BaseModel):
    """A linear classifier of runs of 2 to 5 characters, words and pairs of words, added to the network."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    weight: NonNegativeFloat = 1.0
    """How much its scores count beside those of the network; 0: the network alone."""
    strength: PositiveFloat = 100.0
    """Inverse of its L2 regularisation, as C of scikit-learn."""
    most: PositiveInt = 200_000
    """At most so many n-grams are known, those that most texts have."""


class HeadConfig(BaseModel):
    """What reads the hidden states of a text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    pooling: Pooling = "mean"
    """Read the mean of all hidden states of the text, or that of its last token."""
    class_weights: Literal["equal", "balanced"] | dict[str, PositiveFloat] = "equal"
    """How much a text of each label counts: equally, inversely to how many there are, or as given for every label.
    With kind=multi the weight is that of the texts that have the label against those that do not."""
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Share of what is pooled that is set to zero in training."""
    label_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the probability that is wanted for all labels alike, or with kind=multi for yes and no alike."""
    ngrams: NgramConfig = NgramConfig()
    """What a text is made of, beside what the network makes of it."""


class ClassifyReportConfig(BootstrapConfig):
    """How the classifier is measured, and what stands beside it."""

    resamples: int = Field(2_000, ge=100)
    """Number of resamples."""
    prompted_texts: NonNegativeInt = 300
    """Ask the base, without training, for the labels of so many test texts; 0: do not ask."""
    shots: PositiveInt = 8
    """Examples in a prompt with examples; those at its beginning are cut if the context is too short."""
    mistakes: NonNegativeInt = 10
    """Mistakes that the report shows."""


class ClassifyStageConfig(BaseModel):
    """What the training of a classifier reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    head: HeadConfig = HeadConfig()
    """What reads the hidden states of a text."""
    trainer: TrainerConfig = TrainerConfig()
    """How to train it."""
    adapter: AdapterConfig = AdapterConfig()
    """Whether all weights are trained, or an adapter."""


class ClassifyConfig(BaseModel):
    """A classifier: its texts, its head, its report."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    data: LabelledTextsConfig = LabelledTextsConfig()
    """Texts and their labels."""
    head: HeadConfig = HeadConfig()
    """What reads the hidden states of a text."""
    report: ClassifyReportConfig = ClassifyReportConfig()
    """How the classifier is measured."""

    @model_validator(mode="after")
    def _single_labels_where_they_are_needed(self) -> "ClassifyConfig":
        if self.data.kind == "multi" and self.data.per_class:
            raise ValueError("data.per_class is for one label a text: use data.kind=single")
        return self
