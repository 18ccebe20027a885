"""The configuration names a helper; it is opened, checked and guarded."""

from pathlib import Path

import pytest

from components.cascade.config import HelperConfig
from components.cascade.helpers import HelperError, Reply, open_helper
from components.cascade.helpers.base import Helper
from components.core.errors import ArtifactError, InputError
from components.data.prepared import PreparedData
from components.data.world.comprehension import World
from tests.cascade.helpers.conftest import call


def test_auto_takes_the_fact_table_of_the_closed_world(facts: Path, prepared: PreparedData) -> None:
    helper = open_helper(HelperConfig(), facts=facts, corpus=prepared, tokenizer=prepared.tokenizer_folder)
    assert isinstance(helper, Helper)
    assert helper.name == "fact table"
    place = next(e for e in World.load(facts).table.entities.values() if e.kind == "place")
    (reply,) = helper.answer([call(f"{place.name} stands on the river")])
    assert isinstance(reply, Reply)
    assert reply.text == f" {place.values['river']}"
    helper.close()


def test_auto_retrieves_where_there_is_only_a_corpus_and_builds_the_index_once(
    prepared: PreparedData, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    helper = open_helper(HelperConfig(), corpus=prepared, index=index, tokenizer=prepared.tokenizer_folder)
    assert helper.name == "retrieval"
    built = (index / "index.json").stat().st_mtime_ns
    open_helper(HelperConfig(kind="retrieval"), corpus=prepared, index=index)
    open_helper(HelperConfig(kind="retrieval"), corpus=index)
    assert (index / "index.json").stat().st_mtime_ns == built
    record = (index / "index.json").read_text()
    (index / "index.json").write_text(record.replace('"corpus": "', '"corpus": "another '))
    open_helper(HelperConfig(kind="retrieval"), corpus=prepared, index=index)
    assert (index / "index.json").read_text() == record  # made from another corpus: built again


def test_no_helper_answers_with_nothing() -> None:
    helper = open_helper(HelperConfig(kind="none"))
    assert isinstance(helper, Helper)
    assert helper.answer([call("a"), call("b")]) == [Reply("", 0, 0.0)] * 2


@pytest.mark.parametrize(
    ("kind", "said"),
    [("auto", "helper.kind"), ("world", "data.sources"), ("retrieval", "prepare artifact"), ("model", "tokenizer")],
)
def test_what_is_not_given_is_asked_for(kind: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        open_helper(HelperConfig(kind=kind, model="somewhere"))  # type: ignore[arg-type]


def test_a_helper_that_cannot_work_is_refused_at_once(tmp_path: Path, prepared: PreparedData) -> None:
    with pytest.raises(HelperError, match=r"127\.0\.0\.1:9/v1 cannot be reached"):
        open_helper(HelperConfig(kind="endpoint", url="http://127.0.0.1:9/v1"))
    with pytest.raises(ArtifactError, match="fact table"):
        open_helper(HelperConfig(kind="world"), facts=tmp_path / "facts.jsonl")
    with pytest.raises(ArtifactError, match="tokenizer"):
        open_helper(HelperConfig(kind="model", model=str(tmp_path)), tokenizer=prepared.tokenizer_folder)
    with pytest.raises(InputError, match="folder to keep it"):
        open_helper(HelperConfig(kind="retrieval"), corpus=prepared)
