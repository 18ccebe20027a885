"""Pipelines that look installed: packages in a folder on the path, announced by an entry point."""

import importlib
import json
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoints
from pathlib import Path
from typing import Any

import pytest

from components.labelling import installed

Install = Callable[..., None]


@pytest.fixture
def no_pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has installed."""
    monkeypatch.setattr(installed, "entry_points", lambda group: EntryPoints())


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """``install("en_x_sm", version="0.1.0", components=[...])``: a pipeline of rules, as `pip` would leave it."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(name: str, version: str = "0.1.0", components: list[str] | None = None) -> None:
        package = site / name
        package.mkdir()
        _pipeline(name, version).to_disk(package / f"{name}-{version}")
        meta = json.loads((package / f"{name}-{version}" / "meta.json").read_text())
        if components is not None:
            meta["components"] = components
        (package / "meta.json").write_text(json.dumps(meta))
        (package / "__init__.py").write_text(
            "from spacy.util import load_model_from_init_py\n\n\n"
            "def load(**overrides):\n    return load_model_from_init_py(__file__, **overrides)\n"
        )
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[spacy_models]\n{name} = {name}\n")
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)

    return install


def _pipeline(name: str, version: str) -> Any:
    import spacy

    language, _, rest = name.partition("_")
    nlp: Any = spacy.blank(language)
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "GPE", "pattern": "Łódź"}])
    ruler = nlp.add_pipe("attribute_ruler")
    ruler.add([[{"IS_TITLE": True}]], {"POS": "PROPN", "TAG": "NNP"})
    ruler.add([[{"IS_LOWER": True}]], {"POS": "X"})
    nlp.meta |= {"name": rest, "version": version}
    return nlp
