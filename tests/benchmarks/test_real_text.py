"""Who is asked about has no article in what the model learns from."""

from pathlib import Path

from benchmarks.real_text import read, write, written


def test_no_probe_is_about_somebody_whose_article_the_model_learns_from(tmp_path: Path) -> None:
    articles = [{"id": f"enwiki-{number}", "text": f"Person {number} was born."} for number in range(100, 130)]
    probes = [{"article": row["id"], "entity": row["text"][:10], "birth_year": "1900"} for row in articles[:20]]
    for name, rows in (("pretrain/enwiki_bios/train", articles), ("eval/bio_probes/birth_year_train_entities", probes)):
        path = tmp_path / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, rows)
    found = [list(read(path)) for path in written(tmp_path, tmp_path)]
    learnt, asked = ({row.get("article", row.get("id")) for row in rows} for rows in found)
    assert len(learnt) == 10
    assert learnt.isdisjoint(asked)
    assert asked == {row["article"] for row in probes} - learnt
    before = [path.read_bytes() for path in written(tmp_path, tmp_path)]
    assert [path.read_bytes() for path in written(tmp_path, tmp_path)] == before, "the same files: nothing runs again"
