"""When an example of a task counts as seen in training. Imports neither torch nor numpy."""

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class ContaminationConfig(BaseModel):
    """Which overlap between an example and the training text counts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    run_words: PositiveInt = 13
    """An example is contaminated if it shares a run of this many words with the training text."""
    shortest_words: PositiveInt = 8
    """An example with fewer words than `run_words` is looked for as a whole if it has at least this many."""
    shingle_words: PositiveInt = 5
    """Two paragraphs are compared by their runs of this many words."""
    similarity: float = Field(0.7, gt=0.0, le=1.0)
    """A paragraph of an example is a near-duplicate from this resemblance on: shared runs by all runs of both."""
    paragraph_words: PositiveInt = 20
    """Shorter paragraphs have no near-duplicates: too much of them is common language."""

    @model_validator(mode="after")
    def _the_shortest_is_no_longer_than_a_run(self) -> "ContaminationConfig":
        if self.shortest_words > self.run_words:
            raise ValueError(
                f"shortest_words={self.shortest_words} must be at most run_words={self.run_words}: longer examples are "
                "compared by their runs"
            )
        return self
