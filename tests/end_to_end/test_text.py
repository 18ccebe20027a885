"""The main job on real input: Wikipedia biographies to a served, registered model."""

import pytest

from tests.conftest import SHARED_DATA
from tests.end_to_end.conftest import Place

BIOGRAPHIES = SHARED_DATA / "pretrain" / "enwiki_bios" / "valid.jsonl.gz"
ARTICLES = SHARED_DATA / "pretrain" / "enwiki_general" / "valid.jsonl.gz"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.soak,
    pytest.mark.skipif(not BIOGRAPHIES.exists(), reason=f"needs {BIOGRAPHIES}"),
]


def test_real_text_becomes_a_served_registered_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("text")
    place = Place(folder / "workspace", folder / "sockets.log")
    done = place.run(
        "pipeline",
        "experiment=text",
        f"data.sources=[{BIOGRAPHIES},{ARTICLES}]",
        "data.vocab_size=4096",
        "delegation.max_steps=20",
        "facts.max_tokens=20000",
        "calibrate.max_tokens=20000",
        "trainer.max_steps=60",
        "trainer.validate_every_steps=30",
        "assess.max_documents=40",
    )
    assert done.returncode == 0, done.stderr
    assert "lacewing version 1, champion" in done.stdout
    # 7 bits per byte is a model that has learnt nothing but byte frequencies at best.
    bits = float(done.stdout.split("bits per byte")[1].split()[1])
    assert 1.0 < bits < 3.5
    # There is no parser and no fact table: capitals label the facts, and the corpus is the helper.
    assert "found by capitals" in done.stdout
    assert "retrieval" in done.stdout
    assert place.outside_connections() == []
