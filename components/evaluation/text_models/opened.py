"""The model that a person has named, opened. Which kind it is can be told without torch: the flow asks as well."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from components.core.artifact import Artifact
from components.core.errors import InputError
from components.core.inputs import folder_digest
from components.data.sources import is_url
from components.evaluation.evaluate_config import EvaluateConfig
from components.model.bundle import Bundle
from components.training.trained import TrainedModel

if TYPE_CHECKING:
    from components.evaluation.text_models.base import TextModel


def address(model: str) -> tuple[str, str] | None:
    """URL and name of a served model, from ``http://host/v1`` or ``http://host/v1#NAME``; ``None`` for all else."""
    if not is_url(model):
        return None
    url, _, name = model.partition("#")
    return url, name


@contextmanager
def opened(config: EvaluateConfig, bundle: Bundle | None, trained: TrainedModel | None) -> Iterator["TextModel"]:
    """The model of ``config``, or the artifact if there is one, for the block.

    Raises ``InputError`` for what names no model, ``ArtifactError`` for a damaged one, ``ServiceError`` for a helper
    that cannot be opened.
    """
    with closing(_open(config, bundle, trained)) as model:
        yield model


def _open(config: EvaluateConfig, bundle: Bundle | None, trained: TrainedModel | None) -> "TextModel":
    if (served := address(config.model)) is not None:
        from components.evaluation.text_models.endpoint import EndpointModel

        url, model = served[0], served[1] or config.endpoint.model
        return EndpointModel(config.name or model or url, url, model, config.endpoint)
    from components.evaluation.text_models.ours import LacewingModel

    if bundle is not None:
        return LacewingModel.of_bundle(bundle, config.name or title(bundle), config.device, config.batch_tokens)
    if trained is not None:
        return LacewingModel.of_training(trained, config.name or title(trained), config.device, config.batch_tokens)
    folder = Path(config.model)
    if not folder.is_dir():
        raise InputError(f"evaluate.model={config.model!r} is no folder")
    name, identity = config.name or folder.resolve().name, folder_digest(folder)
    from components.model.families.hugging_face import has_own_tokens

    if has_own_tokens(folder):
        return LacewingModel.of_folder(folder, name, identity, config.device, config.batch_tokens)
    from components.evaluation.text_models.hugging_face import HuggingFaceText

    return HuggingFaceText.of_folder(folder, name, identity, config.device)


def title(artifact: Artifact) -> str:
    """What the model of an artifact is called in tables: two of one name must differ."""
    return f"{artifact.stage} {artifact.key[:8]}"
