"""A model whose output is no number is refused by name, and never scored."""

import numpy as np
from jaxtyping import Float

from components.core.errors import ArtifactError


def check_finite(name: str, nats: Float[np.ndarray, " tokens"]) -> None:
    """Raise ``ArtifactError`` if the model called ``name`` gives a likelihood that is NaN or infinite."""
    if not np.isfinite(nats).all():
        raise ArtifactError(
            f"the model {name} gives a likelihood that is not finite ({nats[~np.isfinite(nats)][0]}): its training "
            "diverged, or its weights are damaged. Train it again with a lower trainer.learning_rate, or give another "
            "model"
        )
