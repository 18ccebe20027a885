"""Labelled texts: a row for each, as it is read from files and as it lies in the artifact."""

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from components.core.errors import InputError


class LabelledText(BaseModel):
    """A text, its labels (exactly one for single-label data) and where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    text: str
    labels: list[str]


def label_set(texts: Sequence[LabelledText], given: Sequence[str]) -> list[str]:
    """All labels, in the order ``given`` or by the alphabet.

    Raises ``InputError`` for a training text with another label than those given, for a label without a text, and for
    fewer than two labels.
    """
    counts = Counter(label for text in texts for label in text.labels)
    labels = list(given) or sorted(counts)
    check_labels(texts, labels)
    if len(labels) < 2:
        raise InputError(
            f"the {len(texts)} training texts have {len(labels)} label(s) ({', '.join(labels)}): there is nothing to "
            "tell apart; give texts of at least two"
        )
    if missing := [label for label in labels if not counts[label]]:
        raise InputError(f"no training text has the label {missing[0]!r}: add some, or take it out of the labels")
    return labels


def check_labels(texts: Sequence[LabelledText], labels: Sequence[str]) -> None:
    """Raise ``InputError`` naming the first text that has a label outside the set."""
    known = set(labels)
    for text in texts:
        if unknown := [label for label in text.labels if label not in known]:
            raise InputError(
                f"{text.id} has the label {unknown[0]!r}, which is not in the set of {len(labels)}: "
                f"{', '.join(labels[:12])}{', ...' if len(labels) > 12 else ''}. Correct it, or add it to data.labels "
                "and give training texts of it"
            )
