"""What was measured of a classifier, ready for the report. Light: no torch, no numpy."""

from dataclasses import dataclass

from components.evaluation.results import Interval

FINETUNED = "finetuned model"
NETWORK = "its network alone"
NGRAMS = "its n-grams alone"
TFIDF = "TF-IDF with logistic regression"


@dataclass(frozen=True)
class Contender:
    """Something that tells labels, on the texts that it was given."""

    name: str
    about: str
    """What else there is to say of it, such as settings that were chosen."""
    texts: int
    accuracy: Interval
    macro_f1: Interval
    behind: Interval | None = None
    """Macro-F1 of the finetuned model less its own, on the same texts; ``None`` for the finetuned model itself."""

    @property
    def verdict(self) -> str:
        """What the finetuned model is, as far as the interval tells; the name of the contender follows."""
        assert self.behind is not None
        if self.behind.low > 0:
            return "better than"
        return "worse than" if self.behind.high < 0 else "not told apart from"


@dataclass(frozen=True)
class Mistake:
    """A text whose labels were not told."""

    text: str
    true: str
    said: str
