"""Keys that people have models under do not move by oversight."""

from tests.core import golden_keys
from tests.core.golden_keys import CHANGELOG, COMMAND, FILE


def test_the_keys_of_known_configurations_have_not_moved() -> None:
    now, before = golden_keys.computed(), golden_keys.written()
    moved = sorted(
        f"{stage} ({name})"
        for name in now.keys() | before.keys()
        for stage in now.get(name, {}).keys() | before.get(name, {}).keys()
        if now.get(name, {}).get(stage) != before.get(name, {}).get(stage)
    )
    assert not moved, (
        f"the keys of {', '.join(moved)} have moved: everyone's artifacts of these stages would be made again. If that "
        "was not meant, give a new config field a neutral value (components/core/neutral.py). If it was, run "
        f"`{COMMAND}` and say so in {CHANGELOG.name}."
    )


def test_the_changelog_speaks_of_these_keys() -> None:
    note = golden_keys.note(golden_keys.written())
    assert note in CHANGELOG.read_text(), (
        f"{FILE.name} was written anew, and {CHANGELOG.name} does not say so: add a line there that holds {note!r} "
        "and names the stages whose keys have moved, and why"
    )
