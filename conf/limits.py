"""Bounds that hold for every number of a configuration, whoever gives it: the command line, a file or the form.

They refuse what no machine can do, not what this one cannot (``conf.form`` does that for runs from the form). They
stand here and not in the stages' own classes, because a stage's key holds the text of its class: a bound there would
train everybody's models again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, model_validator

# By the last part of the key. The largest machines have some 800 hardware threads.
LARGEST: Mapping[str, int] = {"threads": 1024, "processes": 1024, "devices": 1024, "parallel": 1024, "retries": 100}
SECONDS = "_seconds"
MOST_SECONDS = 1_000_000  # eleven days; the operating system counts time-outs in 31 bits of milliseconds
MOST = 2**63  # what databases and tensors hold


class Bounded(BaseModel):
    """A configuration whose numbers are finite, fit into 64 bits and do not ask for a million threads."""

    @model_validator(mode="after")
    def _numbers_are_bounded(self) -> "Bounded":
        if faults := list(number_faults(self)):
            raise ValueError("; ".join(faults))
        return self


def number_faults(config: Any, key: str = "") -> Iterator[str]:
    """Every number in ``config`` that is out of bounds: its key, its value and what is allowed."""
    if isinstance(config, BaseModel):
        for name in type(config).model_fields:
            yield from number_faults(getattr(config, name), f"{key}.{name}" if key else name)
    elif isinstance(config, Sequence) and not isinstance(config, str):
        for value in config:
            yield from number_faults(value, key)
    elif isinstance(config, int | float) and not isinstance(config, bool):
        yield from _number_fault(key, config)


def _number_fault(key: str, value: float) -> Iterator[str]:
    largest = LARGEST.get(key.rpartition(".")[2], MOST_SECONDS if key.endswith(SECONDS) else None)
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{key} = {value} is not a finite number"
    elif isinstance(value, int) and abs(value) >= MOST:
        yield f"{key} has {len(str(abs(value)))} digits; whole numbers must be below 2^63"
    elif largest is not None and value > largest:
        yield f"{key} = {value} is too large; {largest:,} at most"
