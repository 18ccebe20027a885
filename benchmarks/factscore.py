"""How far the local judge of FActScore can be trusted: ``python -m benchmarks.factscore [ENTITIES]``.

The benchmark builds statements whose truth is known, from the articles in ``../shared/data``. True ones are clauses of
an article as they are, and the year of birth in other words. False ones have one value replaced: by a value of another
article (foreign), or by another value of the same article, which is the hard case because it stands close by. It prints
the share that the judge calls supported. That should be 100 % of the true and 0 % of the false statements.
"""

import argparse
import random
import re
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchmarks.results import Result, add_record_option, given_command, record
from components.evaluation.factuality.articles import Article, Passages, read_articles, read_entities
from components.evaluation.factuality.atomic_facts import Clauses, Sentences, Splitter, sentences
from components.evaluation.factuality.chat import ChatError
from components.evaluation.factuality.judges import LocalJudge, Statement
from components.evaluation.factuality.records import json_lines

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared/data"
_YEAR = re.compile(r"\b1[0-9]{3}\b|\b20[01][0-9]\b")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{3,}(?: [A-Z][a-z]{3,})*\b")
_PER_ARTICLE = 8


def main() -> None:
    """Print one line for each kind of statement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("entities", nargs="?", type=int, default=100)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of the shared data")
    parser.add_argument("--sentences", action="store_true", help="judge whole sentences instead of clauses")
    add_record_option(parser)
    arguments = parser.parse_args()
    splitter: Splitter = Sentences() if arguments.sentences else Clauses(str(arguments.data / "spacy/en_gum_sm"))
    print(f"{arguments.entities} articles, {splitter.name}")
    judge = LocalJudge(passages=5)
    began, count, results = time.process_time(), 0, []
    print(f"{'statement':44} {'truth':6} {'statements':>10} {'supported':>10}")
    for kind, truth, statements in kinds(arguments.data, arguments.entities, splitter):
        supported = sum(verdict is True for verdict in judge.verdicts(statements))
        count += len(statements)
        share = f"{supported / max(1, len(statements)):.1%}"
        print(f"{kind:44} {truth!s:6} {len(statements):10,} {share:>10}", flush=True)
        goal = "100 %" if truth else "0 %"
        results.append(Result(f"{kind}: called supported by the local judge", share, goal, f"{len(statements):,}"))
    print(f"{count / (time.process_time() - began):,.0f} statements per second, retrieval included")
    if arguments.record:
        record("factscore", results, given_command("benchmarks.factscore"))


def kinds(data: Path, entities: int, splitter: Splitter) -> Iterator[tuple[str, bool, list[Statement]]]:
    """Statements for the judge, by kind: the kind, whether they are true, and the statements."""
    choose = random.Random(0)
    ids = read_entities(data / "eval/factscore_like/entities_500.jsonl", entities)
    read = read_articles([data / "pretrain/enwiki_bios/train.jsonl.gz"], list(ids.values()))
    articles = {entity: read[id] for entity, id in ids.items()}
    passages = {entity: Passages(article) for entity, article in articles.items()}
    clauses = {entity: list(islice(_clauses(article, splitter), _PER_ARTICLE)) for entity, article in articles.items()}
    yield (
        "clause of the article",
        True,
        [Statement(entity, fact, passages[entity]) for entity, facts in clauses.items() for fact in facts],
    )
    for name, pattern in (("year", _YEAR), ("name", _NAME)):
        values = {entity: sorted(set(pattern.findall(article.text))) for entity, article in articles.items()}
        everywhere = sorted({value for found in values.values() for value in found})
        foreign, own = [], []
        for entity, facts in clauses.items():
            for fact in facts:
                if (there := pattern.search(fact)) is None or entity.find(there[0]) >= 0:
                    continue
                others = [value for value in values[entity] if value not in fact and value not in entity]
                strangers = [value for value in choose.sample(everywhere, 20) if value not in articles[entity].text]
                if strangers:
                    foreign.append(Statement(entity, _with(fact, there, strangers[0]), passages[entity]))
                if others:
                    own.append(Statement(entity, _with(fact, there, choose.choice(others)), passages[entity]))
        yield f"clause with a foreign {name}", False, foreign
        yield f"clause with another {name} of the article", False, own
    births = json_lines(data / "eval/bio_probes/birth_year_train_entities.jsonl.gz", "the benchmark")
    years = {row["entity"]: row["birth_year"] for _, row in births if row["entity"] in ids}
    yield (
        "birth year in other words",
        True,
        [Statement(entity, f"{entity} was born in {year}.", passages[entity]) for entity, year in years.items()],
    )
    yield "birth year in other words, up to 30 off", False, [
        Statement(entity, f"{entity} was born in {int(year) + choose.choice([-1, 1]) * choose.randint(1, 30)}.",
                  passages[entity]) for entity, year in years.items()
    ]  # fmt: skip


def _clauses(article: Article, splitter: Splitter) -> Iterator[str]:
    # Headings and fragments say nothing that could be true or false.
    whole = [sentence for sentence in sentences(article.text[:6000]) if len(sentence.split()) > 5]
    for facts in splitter.facts(whole):
        assert not isinstance(facts, ChatError)
        yield from (fact for fact in facts if len(fact.split()) > 3)


def _with(fact: str, place: "re.Match[str]", value: str) -> str:
    return fact[: place.start()] + value + fact[place.end() :]


if __name__ == "__main__":
    main()
