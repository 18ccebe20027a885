"""A bundle as it is served: the model, when it asks, and the helper that it asks."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from components.cascade.calibration import NEVER_CALLS, CallCalibration
from components.cascade.config import CascadeConfig
from components.cascade.decoding import Cascade
from components.core.errors import LacewingError, ServiceError
from components.delegation.bundled import DelegationRecord, open_bundled_helper
from components.model.bundle import Bundle

if TYPE_CHECKING:
    from components.cascade.helpers.base import Helper
    from components.data.tokenizer import TextTokenizer
    from components.model.transformer import Transformer


class HelperMissingError(ServiceError):
    """The helper of a bundle cannot be opened."""


@dataclass(frozen=True)
class ServedModel:
    """Ready to be asked."""

    model: "Transformer"
    tokenizer: "TextTokenizer"
    helper: "Helper | None"
    """``None``: a plain model, or one that was bundled to call no one."""
    calibration: CallCalibration
    config: CascadeConfig
    presence_penalty: float = 0.0
    """Against loops, in text that it writes."""

    @property
    def cascade(self) -> Cascade:
        """Decodes as the server does: the answer to a request does not depend on the others."""
        return Cascade(self.model, self.tokenizer, self.helper, self.calibration, self.config)


@contextmanager
def served(bundle: Bundle, device: torch.device) -> Iterator[ServedModel]:
    """Open ``bundle`` and its helper for the block.

    Raises ``ArtifactError`` if the bundle is damaged and ``HelperMissingError`` if its helper cannot be opened.
    """
    model, tokenizer = bundle.load(device), bundle.tokenizer()
    record = DelegationRecord.load(bundle.folder)
    if record is None or record.cascade.helper.kind == "none" or record.cascade.budget == 0:
        yield ServedModel(model, tokenizer, None, NEVER_CALLS, CascadeConfig(budget=0.0), bundle.presence_penalty)
        return
    try:
        helper = open_bundled_helper(record, bundle.folder, str(device))
    except LacewingError as error:
        raise HelperMissingError(f"the helper of {bundle.name} cannot be opened: {error}") from error
    with closing(helper):
        yield ServedModel(model, tokenizer, helper, record.calibration, record.cascade, bundle.presence_penalty)
