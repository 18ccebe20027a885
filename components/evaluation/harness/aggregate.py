"""One number for many tasks: the mean of centred scores, 0 for a model that guesses and 1 for one that is always right.

The aggregate of DCLM's CORE (arXiv:2406.11794, section 3.5), over the tasks that are there. Paradigms, subjects and
relations count together as one task, and so does each format of a task.
"""

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean

from components.evaluation.harness.task_files import own_task_files
from components.evaluation.score_table import Score

CENTRED = "centred"


def centred_scores(scores: Iterable[Score], folder: str = "") -> dict[str, dict[str, float]]:
    """By model the centred score of every task (``mmlu (letter)``); ``folder``: a person's task files, if any."""
    families = [file.scores_as for file in own_task_files(folder).values() if file.split_by]
    parts: defaultdict[tuple[str, str, str], list[Score]] = defaultdict(list)
    for score in scores:
        if score.metric == CENTRED:
            parts[score.model, score.task, score.format].append(score)
    tasks: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for (model, task, format), rows in parts.items():
        family = next((family for family in families if task.startswith(f"{family}_")), task)
        mean = sum(row.score for row in rows) / sum(row.weight for row in rows)
        tasks[model, f"{family} ({format})" if format else family].append(mean)
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for (model, name), means in tasks.items():
        found[model][name] = fmean(means)
    return dict(found)


def aggregate(scores: Iterable[Score], folder: str = "") -> dict[str, float]:
    """By model the mean over its tasks; compare only models that did the same tasks."""
    return {model: fmean(tasks.values()) for model, tasks in centred_scores(scores, folder).items()}
