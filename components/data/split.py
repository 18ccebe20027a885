"""The split of a document: decided by its text alone, so that it never changes when data is added."""

import hashlib

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)


def position(text: bytes) -> float:
    """Where a document stands in ``[0, 1)``: uniform over texts, the same on every machine, equal for duplicates."""
    digest = hashlib.blake2b(text, digest_size=8, person=b"lacewing split").digest()
    # 53 bits are what a float in [0, 1) can hold exactly; all 64 could round up to 1.
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def split_of(position: float, validation_fraction: float, test_fraction: float) -> str:
    """Split of the document at ``position``: test lowest, then validation, so that neither moves the other's edge.

    Growing ``validation_fraction`` moves documents from train only; the test set stays what it was.
    """
    if position < test_fraction:
        return TEST
    if position < test_fraction + validation_fraction:
        return VALIDATION
    return TRAIN
