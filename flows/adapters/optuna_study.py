"""Optuna for the flow ``sweep``: which setting is tried next, and which trial is not worth going on with.

A study is a journal of JSON lines in the workspace, so that a sweep that was killed goes on with the trials it had.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from components.core.errors import InputError
from components.evaluation.sweep.config import Dimension, SweepConfig, Trial, Value

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as OptunaTrial

_JOURNAL = "journal.log"
_REASON = "reason"
"""Attribute of a trial that failed; one that was interrupted fails without it, and does not count."""


class OpenTrial:
    """A trial under way."""

    def __init__(self, study: "Study", trial: "OptunaTrial", settings: dict[str, Value]) -> None:
        self.number = trial.number
        self.settings = settings
        self._study, self._trial = study, trial
        self._reported: set[int] = set()

    def report(self, value: float, step: int) -> None:
        """The metric after ``step``; of a resumed training the first steps come again and are left out."""
        if step not in self._reported:
            self._reported.add(step)
            self._trial.report(value, step)

    @property
    def is_hopeless(self) -> bool:
        """Whether the pruner would stop it now."""
        return bool(self._trial.should_prune())

    def complete(self, value: float) -> None:
        self._study.tell(self.number, value)

    def stop(self) -> None:
        """Record that it was stopped, with the last value that it had."""
        from optuna.trial import TrialState

        self._study.tell(self.number, state=TrialState.PRUNED)

    def fail(self, reason: str) -> None:
        from optuna.trial import TrialState

        self._trial.set_user_attr(_REASON, reason)
        self._study.tell(self.number, state=TrialState.FAIL)


class OptunaStudy:
    """The trials of one sweep."""

    def __init__(self, folder: Path, config: SweepConfig) -> None:
        """Open the study in ``folder``, or begin it; raises ``InputError`` if Optuna is not installed."""
        try:
            import optuna
        except ImportError as error:
            raise InputError("a sweep needs Optuna, which is not installed: pip install 'lacewing[sweep]'") from error
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        self.config = config
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / _JOURNAL))),
            study_name="sweep",
            direction="minimize" if config.better == "lower" else "maximize",
            pruner=_pruner(config),
            load_if_exists=True,
        )

    def waiting(self) -> Iterator[OpenTrial]:
        """The trials that are still to be made, one at a time; those that a kill has interrupted come again first."""
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        for trial in self._study.get_trials(states=[TrialState.RUNNING]):
            self._study.tell(trial.number, state=TrialState.FAIL)
            self._study.enqueue_trial(trial.params)
        while len(self.trials()) < self.config.trials:
            # A resumed sweep suggests what an uninterrupted one would: the seed is that of the trial.
            self._study.sampler = TPESampler(seed=self.config.seed + len(self.trials()))
            asked = self._study.ask()
            settings = {each.key: _suggested(asked, each) for each in self.config.space}
            yield OpenTrial(self._study, asked, settings)

    def trials(self) -> list[Trial]:
        """Those that have ended, by their number."""
        from optuna.trial import TrialState

        states: dict[TrialState, Literal["complete", "stopped", "failed"]] = {
            TrialState.COMPLETE: "complete",
            TrialState.PRUNED: "stopped",
            TrialState.FAIL: "failed",
        }
        return [
            Trial(
                number=trial.number,
                settings=trial.params,
                state=states[trial.state],
                value=trial.value if trial.state == TrialState.COMPLETE else _last(trial),
                curve=trial.intermediate_values,
            )
            for trial in self._study.get_trials(states=list(states))
            if trial.state != TrialState.FAIL or _REASON in trial.user_attrs
        ]


def _last(trial: "FrozenTrial") -> float | None:
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None


def _pruner(config: SweepConfig) -> "BasePruner":
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if config.pruner == "median":
        return MedianPruner(n_startup_trials=config.startup_trials)
    return HyperbandPruner() if config.pruner == "hyperband" else NopPruner()


def _suggested(trial: "OptunaTrial", tried: Dimension) -> Value:
    if tried.low is None or tried.high is None:
        chosen = trial.suggest_categorical(tried.key, tried.values)
        assert chosen is not None  # it is one of the values
        return chosen
    if isinstance(tried.low, int) and isinstance(tried.high, int):
        return trial.suggest_int(tried.key, tried.low, tried.high, log=tried.log)
    return trial.suggest_float(tried.key, tried.low, tried.high, log=tried.log)
