"""The facts of the closed world that a text states in full."""

from components.data.world.comprehension import Claim, Reading, World

NAMES = ("name", "surname")


def stated_facts(world: World, text: str, *, finished: bool, subject: str = "") -> tuple[Reading, list[Claim]]:
    """How ``world`` reads ``text``, and its claims without names and without what the end of the text cut.

    A wrong name is a slip, not a fact: a right one would not count either.

    Arguments:
        world: judges.
        text: one document, from its beginning.
        finished: whether its writer ended it; otherwise its last word may be half a word, which states nothing.
        subject: name of the subject; empty: the one that the first understood sentence names.
    """
    reading = world.claims(text, subject)
    end = len(text) if finished else len(text.rsplit(" ", 1)[0])
    facts = (claim for claim in reading.claims if claim.fact_id.rpartition(".")[2] not in NAMES)
    return reading, [claim for claim in facts if claim.end <= end]
