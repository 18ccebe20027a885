"""The prompts of an arena: from files, or the names of the entities of the closed world."""

import json
from collections.abc import Sequence
from pathlib import Path

from components.core.errors import InputError
from components.data.world.comprehension import World
from components.evaluation.arena.config import ArenaConfig
from components.evaluation.heldout import first_shuffled

_KINDS = ".txt (a prompt on each line) or .jsonl (a prompt on each line, as `prompt`)"


def chosen_prompts(cfg: ArenaConfig, world: World | None) -> list[str]:
    """Different prompts, at most ``cfg.max_prompts``, by a fixed shuffle.

    Raises ``InputError`` where there are none, for a file that cannot be read, and for prompts that the exact judge
    cannot judge.
    """
    if not cfg.prompts and world is None:
        raise InputError(
            "the data is no closed world, so there are no prompts: name files in arena.prompts, each " + _KINDS
        )
    if cfg.judge.kind == "local" and world is None:
        raise InputError(
            "arena.judge.kind=local knows the closed world only, and the data is none: set arena.judge.kind=endpoint "
            "and arena.judge.url"
        )
    known = list(world.table.by_name) if world is not None else []
    found = _read(cfg.prompts) if cfg.prompts else known
    if cfg.judge.kind == "local" and (strange := [each for each in found if each not in known]):
        raise InputError(
            f"the closed world has no entity {strange[0]!r} ({len(strange):,} of {len(found):,} prompts of "
            "arena.prompts): give names of its entities, or set arena.judge.kind=endpoint"
        )
    return [found[place] for place in first_shuffled(len(found), cfg.max_prompts)]


def _read(files: Sequence[str]) -> list[str]:
    prompts = [prompt for name in files for prompt in _of_file(Path(name))]
    if not prompts:
        raise InputError(f"arena.prompts holds no prompt: {', '.join(files)}")
    return list(dict.fromkeys(prompts))


def _of_file(path: Path) -> list[str]:
    if path.suffix not in (".txt", ".jsonl"):
        raise InputError(f"arena.prompts: {path} is neither {_KINDS}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"arena.prompts: {path} cannot be read: {error}") from error
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return [line if path.suffix == ".txt" else _prompt(path, number, line) for number, line in filled]


def _prompt(path: Path, number: int, line: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"arena.prompts: {path}, line {number} is no JSON object with `prompt`") from error
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"arena.prompts: {path}, line {number}: `prompt` is {prompt!r}, it must be text")
    return prompt
