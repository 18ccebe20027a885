"""The facts of the closed world: its entities, and what is true of each.

Every relation has one value for one subject. What a date depends on is drawn before the date (a life before the works,
an event's leader before its year), so nothing has to be repaired and nothing can contradict.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from components.data.world.chance import ByPopularity, between, pick, shuffled
from components.data.world.config import WorldConfig
from components.data.world.names import Namer
from components.data.world.stock import values

PRESENT_YEAR = 2020
# The rest are places. Places and events are few so that many facts share them.
SHARES = {"person": 0.45, "work": 0.25, "event": 0.15}
_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMBER_WORDS = tuple(_NUMBERS.split())


@dataclass(slots=True, eq=False)
class Entity:
    """A person, place, work or event. ``values`` holds, by relation, words, a year (the only numbers) or an entity."""

    id: str
    kind: str
    name: str
    pronoun: str
    values: "dict[str, str | int | Entity]"
    short_name: str = ""

    def year(self, relation: str) -> int:
        value = self.values[relation]
        assert isinstance(value, int), (self.id, relation, value)
        return value

    @property
    def last_year(self) -> int:
        """Until when a person acts: three score years and ten, death or the present."""
        end = self.values.get("death_year", PRESENT_YEAR)
        assert isinstance(end, int)
        return min(end, self.year("birth_year") + 70)


class Fact(NamedTuple):
    """One line of the fact table."""

    id: str
    kind: str
    subject: str
    relation: str
    value: str


def written(value: str | int | Entity) -> str:
    """A value as it is written in the text and in the fact table."""
    return value.name if isinstance(value, Entity) else str(value)


def facts_of(entity: Entity) -> Iterator[Fact]:
    """The lines of the fact table about ``entity``."""
    for relation, value in entity.values.items():
        yield Fact(f"{entity.id}.{relation}", entity.kind, entity.name, relation, written(value))


def build(cfg: WorldConfig) -> list[Entity]:
    """All entities of the world, most popular first."""
    rng = Random(f"facts {cfg.seed}")
    counts = {kind: max(2, round(cfg.entities * share)) for kind, share in SHARES.items()}
    counts["place"] = cfg.entities - sum(counts.values())
    pools = _Pools(rng, cfg.entities)
    places = _places(rng, pools, counts["place"])
    by_fame = ByPopularity(places, cfg.zipf_exponent)
    people = _people(rng, pools, counts["person"], by_fame)
    works = _works(rng, pools, counts["work"], people, by_fame, cfg.zipf_exponent)
    events = _events(rng, pools, counts["event"], people, by_fame, cfg.zipf_exponent)
    return _interleaved(rng, [people, places, works, events])


class _Pools:
    """Invented values that many facts share, so that part of them can be learned."""

    def __init__(self, rng: Random, entities: int) -> None:
        self.namer = Namer(rng, entities)
        self.regions = self.namer.pool("region", 16)
        self.rivers = self.namer.pool("river", 24)
        self.languages = self.namer.pool("language", 20)
        self.schools = self.namer.institutions("school", 24 + entities // 50)
        self.awards = self.namer.institutions("award", 24 + entities // 50)
        self.presses = self.namer.institutions("press", 24 + entities // 50)


def _places(rng: Random, pools: _Pools, count: int) -> list[Entity]:
    places = []
    for index in range(count):
        founded = between(rng, 900, 1590)
        name = pools.namer.place()
        place = Entity(f"place-{index}", "place", name, "it", {"name": name})
        place.values |= {
            "region": pick(rng, pools.regions),
            "river": pick(rng, pools.rivers),
            "founded_year": founded,
            "founder": pools.namer.person(pick(rng, ("he", "she"))),
            "population": f"{int(500 * 1000 ** rng.random()):,}",
            "elevation": str(between(rng, 2, 999)),
            "industry": pick(rng, values("industry")),
            "landmark": pools.namer.landmark(),
            "landmark_year": founded + between(rng, 20, 300),
            "market_day": pick(rng, values("weekday")),
        }
        if rng.random() < 0.7:
            place.values["railway_year"] = between(rng, 1835, 1905)
        places.append(place)
    strangers = shuffled(rng, places)
    for one, other in zip(strangers[::2], strangers[1::2], strict=False):
        one.values["twin_town"], other.values["twin_town"] = other, one
    return places


def _people(rng: Random, pools: _Pools, count: int, places: ByPopularity[Entity]) -> list[Entity]:
    people: list[Entity] = []
    by_decade: dict[int, list[Entity]] = {}
    single: Entity | None = None  # the spouse of the next person
    for index in range(count):
        if single:
            person = _person(rng, pools, index, places, near=single)
            _marry(rng, person, single)
            single = None
        else:
            person = _person(rng, pools, index, places)
            single = person if rng.random() < 0.5 else None
        birth = person.year("birth_year")
        elders = by_decade.get(birth // 10 - between(rng, 3, 4))
        if elders:
            person.values["teacher"] = pick(rng, elders)
        by_decade.setdefault(birth // 10, []).append(person)
        people.append(person)
    return people


def _person(rng: Random, pools: _Pools, index: int, places: ByPopularity[Entity], near: Entity | None = None) -> Entity:
    """A person with a life; born within eight years of ``near``, their future spouse, if given."""
    birth = between(rng, 1600, 1980)
    pronoun = pick(rng, ("he", "she"))
    if near:
        birth = min(1980, max(1600, near.year("birth_year") + between(rng, -8, 8)))
        pronoun = "she" if near.pronoun == "he" else "he"
    name = pools.namer.person(pronoun)
    surname = name.split()[-1]
    person = Entity(f"person-{index}", "person", name, pronoun, {"name": name, "surname": surname}, surname)
    person.values |= {
        "birth_place": places.pick(rng),
        "birth_year": birth,
        "birth_day": _day(rng),
        "occupation": pick(rng, values("occupation")),
        "school": pick(rng, pools.schools),
        "graduation_year": birth + between(rng, 18, 26),
        "pastime": pick(rng, values("pastime")),
    }
    death = birth + between(rng, 45, 95)
    if death < PRESENT_YEAR:
        person.values |= {"death_year": death, "death_place": places.pick(rng)}
    person.values |= {
        "residence": places.pick(rng),
        "residence_year": between(rng, birth + 22, person.last_year),
        "award": pick(rng, pools.awards),
        "award_year": between(rng, birth + 28, person.last_year),
    }
    return person


def _marry(rng: Random, one: Entity, other: Entity) -> None:
    # No one dies before 45, and spouses are born within 8 years of each other, so this year is in both lives.
    year = max(one.year("birth_year"), other.year("birth_year")) + between(rng, 19, 36)
    children = NUMBER_WORDS[between(rng, 2, 12)] if rng.random() < 0.7 else None
    for person, spouse in ((one, other), (other, one)):
        person.values |= {"spouse": spouse, "marriage_year": year}
        if children:
            person.values["children"] = children


def _works(
    rng: Random,
    pools: _Pools,
    count: int,
    people: list[Entity],
    places: ByPopularity[Entity],
    exponent: float,
) -> list[Entity]:
    creators = ByPopularity(people, exponent)
    works = []
    for index in range(count):
        creator = creators.pick(rng)
        year = between(rng, creator.year("birth_year") + 22, creator.last_year)
        name = pools.namer.title()
        work = Entity(f"work-{index}", "work", name, "it", {"name": name})
        work.values |= {
            "form": pick(rng, values("work form")),
            "creator": creator,
            "year": year,
            "publisher": pick(rng, pools.presses),
            "setting": places.pick(rng),
            "theme": pick(rng, values("theme")),
            "protagonist": pools.namer.person(pick(rng, ("he", "she"))),
            "sales": f"{int(100 * 5000 ** rng.random()):,}",
            "language": pick(rng, pools.languages),
        }
        dedicatee = creators.pick(rng)
        if dedicatee is not creator and dedicatee.year("birth_year") < year:
            work.values["dedicatee"] = dedicatee
        revival = year + between(rng, 15, 90)
        if revival < PRESENT_YEAR:
            work.values["revival_year"] = revival
        creator.values.setdefault("notable_work", work)  # the most popular one, for works come in that order
        works.append(work)
    return works


def _events(
    rng: Random,
    pools: _Pools,
    count: int,
    people: list[Entity],
    places: ByPopularity[Entity],
    exponent: float,
) -> list[Entity]:
    leaders = ByPopularity(people, exponent)
    events = []
    for index in range(count):
        leader = leaders.pick(rng)
        year = between(rng, leader.year("birth_year") + 25, leader.last_year)
        days = between(rng, 2, 60)
        name = pools.namer.event()
        event = Entity(f"event-{index}", "event", name, "it", {"name": name})
        event.values |= {
            "form": pick(rng, values("event form")),
            "place": places.pick(rng),
            "year": year,
            "day": _day(rng),
            "leader": leader,
            "attendance": f"{int(50 * 2000 ** rng.random()):,}",
            "duration": NUMBER_WORDS[days] if days < len(NUMBER_WORDS) else str(days),
            "cause": pick(rng, values("cause")),
            "outcome": pick(rng, values("outcome")),
            "chronicler": pools.namer.person(pick(rng, ("he", "she"))),
        }
        memorial = year + between(rng, 5, 120)
        if memorial < PRESENT_YEAR:
            event.values["memorial_year"] = memorial
        events.append(event)
    return events


def _day(rng: Random) -> str:
    return f"{between(rng, 1, 28)} {pick(rng, values('month'))}"


def _interleaved(rng: Random, kinds: list[list[Entity]]) -> list[Entity]:
    """One order of popularity over all kinds that keeps the order within each kind."""
    kind_of_rank = shuffled(rng, [index for index, entities in enumerate(kinds) for _ in entities])
    queues = [iter(entities) for entities in kinds]
    return [next(queues[index]) for index in kind_of_rank]
