"""Which trained pipeline ``label.annotator=auto`` takes. Light: the flow's process asks too, and must not import spaCy.

spaCy's packages announce themselves as entry points of the group ``spacy_models``, and say in ``meta.json`` which
components they have.
"""

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from components.labelling.config import RuleSet

# Best first. Other packages come after these, by name; the transformer is last, being far too slow without a GPU.
_KNOWN = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm")
_LAST = "en_core_web_trf"

_ENTITIES = {"ner", "entity_ruler"}
_PARTS_OF_SPEECH = {"morphologizer", "attribute_ruler"}  # the latter maps what a tagger finds


class InstalledPipeline(NamedTuple):
    name: str
    version: str


def installed_pipeline(rules: RuleSet) -> InstalledPipeline | None:
    """The best installed English pipeline that has the components for ``rules``, if there is one."""
    found = sorted((_rank(point.name), point.name, point) for point in _english())
    for _, name, point in found:
        if point.dist is not None and _serves(_components(point), rules):
            return InstalledPipeline(name, point.dist.version)
    return None


def _english() -> Iterator[EntryPoint]:
    return (point for point in entry_points(group="spacy_models") if point.name.startswith("en_"))


def _rank(name: str) -> int:
    if name in _KNOWN:
        return _KNOWN.index(name)
    return len(_KNOWN) + (name == _LAST)


def _components(package: EntryPoint) -> set[str]:
    spec = find_spec(package.module)
    if spec is None or spec.origin is None:
        return set()
    try:
        meta = json.loads((Path(spec.origin).parent / "meta.json").read_text(encoding="utf-8"))
        return set(meta["components"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()  # a broken package cannot be used


def _serves(components: set[str], rules: RuleSet) -> bool:
    return (
        bool(components & _PARTS_OF_SPEECH)
        and (rules == "pos_only" or bool(components & _ENTITIES))
        and (rules != "ner+pos+attr" or "parser" in components)
    )
