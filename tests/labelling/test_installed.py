"""Which installed pipeline is taken without being named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from components.labelling.annotators.choose import choose
from components.labelling.config import LabelConfig, RuleSet
from components.labelling.fingerprint import pipeline_fingerprint
from components.labelling.installed import installed_pipeline
from tests.labelling.conftest import Install

REAL = ["text.jsonl"]


def test_the_best_known_english_pipeline_is_taken(install: Install) -> None:
    install("xx_other_sm")
    install("de_other_sm")
    assert installed_pipeline("ner+pos") is None
    for name in ("en_core_web_trf", "en_zzz_sm", "en_aaa_sm", "en_core_web_sm", "en_core_web_md", "en_core_web_lg"):
        install(name, "3.8.0")
        found = installed_pipeline("ner+pos")
        assert found is not None
        assert found.name == name
        assert found.version == "3.8.0"


@pytest.mark.parametrize(
    ("components", "rules", "served"),
    [
        (["tok2vec", "tagger", "attribute_ruler", "ner"], "ner+pos", True),
        (["morphologizer", "ner"], "ner+pos", True),
        (["tagger", "ner"], "ner+pos", False),
        (["morphologizer"], "ner+pos", False),
        (["morphologizer"], "pos_only", True),
        (["morphologizer", "ner"], "ner+pos+attr", False),
        (["morphologizer", "ner", "parser"], "ner+pos+attr", True),
    ],
)
def test_it_must_have_the_components_that_the_rules_need(
    install: Install, components: list[str], rules: RuleSet, served: bool
) -> None:
    install("en_parts_sm", components=components)
    assert (installed_pipeline(rules) is not None) == served


def test_a_broken_package_is_passed_over(install: Install, tmp_path: Path) -> None:
    install("en_broken_sm")
    (tmp_path / "site-packages/en_broken_sm/meta.json").write_text("{")
    assert installed_pipeline("ner+pos") is None


def test_auto_takes_it_and_says_so(install: Install) -> None:
    install("en_core_web_sm", "3.8.0")
    choice = choose(LabelConfig(), None)
    assert (choice.name, choice.pipeline) == ("spacy", "en_core_web_sm")
    assert choice.reason == "en_core_web_sm 3.8.0 is installed; label.pipeline chooses another"
    assert choose(LabelConfig(pipeline="en_mine"), None).pipeline == "en_mine"
    assert choose(LabelConfig(annotator="capitals"), None).name == "capitals"
    asked = choose(LabelConfig(annotator="calculations"), None)
    assert (asked.name, asked.rules, asked.pipeline) == ("calculations", "results", "")
    assert choose(LabelConfig(), Path("documents.jsonl"), only_world=True).pipeline == ""
    mixed = choose(LabelConfig(), Path("documents.jsonl"))
    assert (mixed.name, mixed.others, mixed.pipeline) == ("world", "spacy", "en_core_web_sm")


def test_it_is_a_part_of_the_key_of_what_it_labels(install: Install) -> None:
    assert pipeline_fingerprint(LabelConfig(), REAL) == {}
    install("en_core_web_sm", "3.8.0")
    assert pipeline_fingerprint(LabelConfig(), REAL) == {"pipeline": "en_core_web_sm 3.8.0"}
    assert pipeline_fingerprint(LabelConfig(), ["world", *REAL]) == {"pipeline": "en_core_web_sm 3.8.0"}
    for cfg in (LabelConfig(annotator="capitals"), LabelConfig(rules="digits_only")):
        assert pipeline_fingerprint(cfg, REAL) == {}
    assert pipeline_fingerprint(LabelConfig(), ["world"]) == {}


def test_it_is_found_without_importing_spacy_or_the_package(install: Install, tmp_path: Path) -> None:
    install("en_core_web_sm")
    (tmp_path / "site-packages/en_core_web_sm/__init__.py").write_text("raise AssertionError('imported')")
    code = (
        "import json, sys\n"
        "from components.labelling.installed import installed_pipeline\n"
        "print(json.dumps([installed_pipeline('ner+pos').name, 'spacy' in sys.modules, 'numpy' in sys.modules]))"
    )
    path = f"import sys; sys.path.insert(0, {str(tmp_path / 'site-packages')!r})\n"
    told = subprocess.run([sys.executable, "-c", path + code], check=True, capture_output=True, text=True).stdout
    assert json.loads(told) == ["en_core_web_sm", False, False]
