"""The robustness tasks, and the pieces of an evaluation that are made of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from components.core.errors import InputError
from components.data.prepared import PreparedData
from components.data.world.comprehension import World
from components.evaluation.robustness.config import RobustnessConfig
from components.evaluation.robustness.flipped_facts import flipped_scores
from components.evaluation.robustness.formats import sampled
from components.evaluation.robustness.items import Item, file_items, numbered, world_items
from components.evaluation.robustness.option_order import format_scores, rotated_scores
from components.evaluation.robustness.sensitivity import Variants, sensitivity_scores, spelling, templates, wordings
from components.evaluation.robustness.slip_scores import slip_scores
from components.evaluation.robustness.slips import misspelt, with_noisy_words
from components.evaluation.score_table import Piece, Score
from components.evaluation.text_models.base import TextModel

TASKS = {
    "robustness.formats": "multiple choice in plausible formats; the spread of the accuracy (FormatSpread)",
    "robustness.options": "multiple choice with the choices in other orders",
    "robustness.sensitivity": "the likelihood of an answer when the prompt is worded otherwise (POSIX)",
    "robustness.typos": "prompts with misspelt words; the answer must stay",
    "robustness.noise": "prompts with doubled words and fillers; the answer must stay",
    "robustness.flipped_facts": "prompts with another subject or a false fact; does the answer change when it must?",
}
_PIECE_ITEMS = 25

Make = Callable[[Sequence[Item]], Sequence[Score]]


@dataclass
class RobustnessSuite:
    """The tasks over the questions of the closed world in ``prepared``, or over the files of the configuration."""

    prepared: PreparedData | None = None

    @property
    def tasks(self) -> Mapping[str, str]:
        """By name, what each task asks."""
        return TASKS

    def pieces(self, model: TextModel, tasks: Iterable[str], cfg: RobustnessConfig) -> dict[str, Piece]:
        """By name, what makes the rows of some questions of a task.

        Raises ``InputError`` for an unknown task, a file that holds no questions, or where there are none.
        """
        found: dict[str, Piece] = {}
        for task in tasks:
            if task not in TASKS:
                raise InputError(f"there is no task {task!r}; allowed are {', '.join(TASKS)}")
            make = self._maker(model, task, cfg)
            for source, items in self._items(task, cfg).items():
                for start, some in numbered(items, _PIECE_ITEMS):
                    found[f"{task} {source} {start}"] = partial(make, some)
        return found

    @cached_property
    def world(self) -> World | None:
        """The closed world of the data, if it is one."""
        path = self.prepared.fact_table if self.prepared is not None else None
        return World.load(path) if path is not None else None

    def _items(self, task: str, cfg: RobustnessConfig) -> dict[str, list[Item]]:
        """The questions by the name of their file."""
        if task != "robustness.flipped_facts" and cfg.files:
            return {Path(file).name: file_items(Path(file), cfg) for file in cfg.files}
        questions = self.prepared.questions if self.prepared is not None else None
        if self.world is None or questions is None:
            raise InputError(
                f"{task} needs questions whose facts are known: prepare the closed world (data=world)"
                + (
                    ""
                    if task == "robustness.flipped_facts"
                    else ", or give evaluate.robustness.files=[questions.jsonl]"
                )
            )
        return {"world": world_items(questions, self.world, cfg)}

    def _maker(self, model: TextModel, task: str, cfg: RobustnessConfig) -> Make:
        makers: dict[str, Make] = {
            "robustness.formats": lambda items: format_scores(model, task, items, sampled(cfg.formats, cfg.seed)),
            "robustness.options": lambda items: rotated_scores(model, task, items, cfg.rotations),
            "robustness.sensitivity": lambda items: sensitivity_scores(
                model, task, items, self._variants(cfg), cfg.max_tokens
            ),
            "robustness.typos": lambda items: slip_scores(model, task, items, misspelt, cfg),
            "robustness.noise": lambda items: slip_scores(model, task, items, with_noisy_words, cfg),
            "robustness.flipped_facts": lambda items: flipped_scores(
                model, task, items, self._known_world(), cfg.seed, cfg.max_tokens
            ),
        }
        return makers[task]

    def _variants(self, cfg: RobustnessConfig) -> dict[str, Variants]:
        """Ways to word a prompt; other sentences for the same fact are known in the closed world only."""
        found: dict[str, Variants] = {
            "spelling": lambda item: spelling(item, cfg),
            "template": lambda item: templates(item, cfg),
        }
        if self.world is not None and not cfg.files:
            found["wording"] = lambda item: wordings(item, self._known_world(), cfg)
        return found

    def _known_world(self) -> World:
        assert self.world is not None  # or there would be no items
        return self.world
