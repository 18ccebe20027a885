"""The artifact of the stage ``bundle``: a model folder with what a cascade needs beside it. Light: no torch."""

from typing import TYPE_CHECKING, ClassVar

from components.core.artifact import Artifact

if TYPE_CHECKING:
    import torch

    from components.data.tokenizer import TextTokenizer
    from components.model.transformer import Transformer


class Bundle(Artifact):
    """Everything needed to run a model, here or in any Llama runtime."""

    stages = ("bundle",)

    MANIFEST: ClassVar = "manifest.json"
    DELEGATION: ClassVar = "delegation.json"
    FACTS: ClassVar = "facts.jsonl"
    RETRIEVAL: ClassVar = "retrieval"
    PROMPTS: ClassVar = "prompts.json"
    """Texts to try, for the page of the server."""

    @property
    def name(self) -> str:
        """What the model is called."""
        return str(self.details["name"])

    @property
    def presence_penalty(self) -> float:
        """Against loops, where a request does not set its own."""
        return float(self.details.get("presence_penalty", 0.0))

    @property
    def asks(self) -> bool:
        """Whether the model has a helper to ask."""
        policy = self.details.get("delegation")
        return policy is not None and str(policy["helper"]) != "none"

    def load(self, device: "torch.device | str" = "cpu") -> "Transformer":
        """The model, its files checked against the record; raises ``ArtifactError`` if one was altered."""
        from components.model.checkpoint import load_model

        return load_model(self.verify().folder, device)

    def tokenizer(self) -> "TextTokenizer":
        """Raises ``ArtifactError`` if it is missing or damaged."""
        from components.data.tokenizer import TextTokenizer

        return TextTokenizer.load(self.folder)
