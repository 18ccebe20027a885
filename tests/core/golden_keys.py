"""Golden keys: the keys of a frozen set of configurations, with code, packages and inputs held fixed.

Code and packages are left out because they change every day. What remains is what moves keys by oversight: a field that
was added without a neutral value, renamed or given another default, a preset, the way a key is computed. Somebody's
month of training is stored under such a key, so a move needs a note in ``CHANGELOG.md``.

``python -m tests.core.golden_keys --write`` writes the file anew and says what the note must hold.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from components.core.identity import Identity, digest_json
from components.core.neutral import neutral_fields
from conf.compose import compose_project
from tests.core.stages import STAGES

FILE = Path(__file__).with_suffix(".json")
CHANGELOG = Path(__file__).resolve().parents[2] / "CHANGELOG.md"
COMMAND = "python -m tests.core.golden_keys --write"
CONFIGURATIONS: dict[str, tuple[str, list[str]]] = {
    "world": ("world", []),
    "text": ("text", ["data.sources=[corpus.txt]"]),
    "pydoc": ("pydoc", []),
    "124m": ("world", ["model=124m", "trainer=124m"]),
    "delegation from scratch": ("world", ["delegation.start=scratch", "delegation.selection=defer"]),
}

Keys = dict[str, dict[str, str]]


def computed() -> Keys:
    """Keys by configuration and stage."""
    found: Keys = {}
    for name, (preset, overrides) in CONFIGURATIONS.items():
        project = compose_project(preset, overrides)
        for stage, (_, section) in STAGES.items():
            config = section(project)
            neutral = [field.path for field in neutral_fields(config) if field.is_neutral]
            identity = Identity.from_parts(
                stage,
                config=config.model_dump(mode="json"),
                neutral=neutral,
                inputs={"prepared": "content"},
                code={"module.function": "digest"},
                environment={"package": "1.0"},
            )
            found.setdefault(name, {})[stage] = identity.key
    return found


def written() -> Keys:
    keys: Keys = json.loads(FILE.read_text())
    return keys


def note(keys: Keys) -> str:
    """What a line of the changelog must hold for these keys."""
    return f"Stage keys `{digest_json(keys)[:12]}`"


def main(arguments: Sequence[str]) -> int:
    if list(arguments) != ["--write"]:
        print(f"usage: {COMMAND}")
        return 2
    FILE.write_text(json.dumps(computed(), indent=2) + "\n")
    print(f"wrote {FILE.name}; {CHANGELOG.name} must say what moved and why, in a line with: {note(written())}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
