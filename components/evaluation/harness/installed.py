"""The one door to lm-eval: it is an extra, takes seconds to import, and must neither telephone nor keep pickles."""

import logging
import os
from pathlib import Path
from typing import Any

from components.core.errors import InputError


def harness() -> None:
    """Make ``lm_eval`` ready to be imported; raises ``InputError`` that says how to install it."""
    # What the Hugging Face libraries read when they are first imported: a person's own values stay.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        import lm_eval.api.task
        import lm_eval.tasks  # noqa: F401  (imported by name: a search by ``importlib`` would put all code into the key)
    except ImportError as error:
        raise InputError(
            f"the harness cannot be loaded ({error}): install it with `pip install 'lacewing[harness]'`, "
            "or leave its tasks out"
        ) from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every custom data set


def load_yaml(path: Path) -> dict[str, Any]:
    """A task file with lm-eval's tags and includes resolved."""
    harness()
    from lm_eval.tasks._yaml_loader import load_yaml as load

    fields: dict[str, Any] = load(path)
    return fields
