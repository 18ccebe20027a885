"""Who answers a call: the fact table, a larger model, an endpoint, retrieval, a calculator, or no helper.

``open_helper`` makes the helper that the configuration names and wraps it in a resilient one: in any case, the cascade
gets a usable reply or an error within the timeout.
"""

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from components.cascade.config import HelperConfig
from components.cascade.helpers.base import Call, Helper, HelperError, Reply, StatelessHelper
from components.cascade.helpers.resilience import ResilientHelper
from components.core.errors import ArtifactError, InputError
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer

__all__ = ["Call", "Helper", "HelperError", "NullHelper", "Reply", "open_helper"]

logger = logging.getLogger(__name__)


class NullHelper(StatelessHelper):
    """No helper: its answer is always empty."""

    @property
    def name(self) -> str:
        return "nobody"

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        return [Reply("", 0, 0.0) for _ in calls]


def open_helper(
    config: HelperConfig,
    *,
    tokenizer: Path | None = None,
    facts: Path | None = None,
    corpus: Path | PreparedData | None = None,
    index: Path | None = None,
    device: str = "cpu",
) -> Helper:
    """The helper of ``config``, checked, with time-out, retries and circuit breaker.

    Raises ``HelperError`` if it cannot work now, ``ArtifactError`` if what it needs is damaged, ``InputError`` if what
    it needs was not given.

    Arguments:
        config: who answers; ``auto`` is the fact table if there is one, otherwise retrieval if there is a corpus.
        tokenizer: folder of the small model's tokenizer; ``model`` needs it, the others cut tokens with it.
        facts: the closed world's ``facts.jsonl``.
        corpus: folder of a retrieval index, or the data to make one from.
        index: folder for a new index; it is kept there and used again as long as it belongs to that corpus.
        device: where a local model computes.
    """
    helper = _opened(config, tokenizer, facts, corpus, index, device)
    if isinstance(helper, NullHelper):
        return helper
    try:
        helper.check()
    except BaseException:
        helper.close()
        raise
    logger.info("calls are answered by %s", helper.name)
    return ResilientHelper(helper, config)


def _opened(
    config: HelperConfig,
    tokenizer: Path | None,
    facts: Path | None,
    corpus: Path | PreparedData | None,
    index: Path | None,
    device: str,
) -> Helper:
    kind = config.kind
    if kind == "auto":
        if facts is None and corpus is None:
            raise InputError(
                "helper.kind=auto found neither a fact table nor a corpus to retrieve from; set helper.kind to model "
                "or endpoint, or to none for a model that never calls"
            )
        kind = "world" if facts is not None else "retrieval"
    if kind == "none":
        return NullHelper()
    if kind == "endpoint":
        from components.cascade.helpers.endpoint import EndpointHelper

        return EndpointHelper.from_config(config)
    if kind == "model":
        return _model(Path(config.model), tokenizer, device)
    known = TextTokenizer.load(tokenizer) if tokenizer is not None else None
    if kind == "calculator":
        from components.cascade.helpers.calculator import CalculatorHelper

        return CalculatorHelper(known)
    if kind == "world":
        from components.cascade.helpers.fact_table import FactTableHelper

        if facts is None:
            raise InputError(
                "helper.kind=world needs the fact table of the closed world, and this data has none: set data.sources "
                "to the closed world, or another helper.kind"
            )
        return FactTableHelper.load(facts, known)
    if corpus is None:
        raise InputError("helper.kind=retrieval needs a corpus: a prepare artifact or the folder of an index")
    return _retrieval(corpus, index, known, config)


def _model(folder: Path, tokenizer: Path | None, device: str) -> Helper:
    # Imported here: the other helpers need no torch.
    from components.cascade.helpers.hugging_face import HuggingFaceHelper
    from components.cascade.helpers.model import ModelHelper
    from components.model.families.hugging_face import has_own_tokens

    if tokenizer is None:
        raise InputError("helper.kind=model needs the folder of the small model's tokenizer")
    if has_own_tokens(folder):
        return ModelHelper.load(folder, tokenizer, device)
    return HuggingFaceHelper.load(folder, device)


def _retrieval(
    corpus: Path | PreparedData, index: Path | None, tokenizer: TextTokenizer | None, config: HelperConfig
) -> Helper:
    from components.cascade.helpers.retrieval import RetrievalHelper
    from components.retrieval.index import build_index, read_record
    from components.retrieval.library import corpus_name, documents_of, library_documents

    if isinstance(corpus, Path):
        return RetrievalHelper(corpus, tokenizer)
    if index is None:
        raise InputError("a retrieval index is made from a prepare artifact only if the folder to keep it in is given")
    made_from = corpus_name(corpus, config.library, config.corpus_megabytes)
    try:
        usable = read_record(index).corpus == made_from
    except ArtifactError:
        usable = False
    if not usable:
        logger.info("building the retrieval index of %s", corpus.folder)
        most_bytes = config.corpus_megabytes * 1_000_000
        with library_documents(config.library, index.parent, most_bytes) as library:
            build_index(chain(documents_of(corpus, most_bytes), library), index, made_from)
    return RetrievalHelper(index, tokenizer)
