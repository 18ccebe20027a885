"""The view of a bundle: its name, and whether there is somebody to ask."""

from pathlib import Path

import pytest

from components.core.errors import ArtifactError
from components.core.run import Run
from components.model.bundle import Bundle


@pytest.mark.parametrize(
    ("delegation", "asks"), [({}, False), ({"delegation": None}, False), ({"delegation": {"helper": "none"}}, False),
                             ({"delegation": {"helper": "world"}}, True)]
)  # fmt: skip
def test_it_says_whether_it_has_a_helper(tmp_path: Path, delegation: dict[str, object], asks: bool) -> None:
    bundle = Run.local(tmp_path, "bundle").seal({}, {"name": "tiny", **delegation}, view=Bundle)
    assert (bundle.name, bundle.asks) == ("tiny", asks)


def test_a_bundle_without_weights_or_tokenizer_is_refused(tmp_path: Path) -> None:
    bundle = Run.local(tmp_path, "bundle").seal({}, {"name": "tiny"}, view=Bundle)
    with pytest.raises(ArtifactError, match=r"has no config\.json"):
        bundle.load()
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        bundle.tokenizer()
