"""Does anything tell its maker that it is used? ``flows`` switches that off, except where the environment says else."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from flows.doctor.finding import Finding, ok, warning

_YES = {"1", "true", "yes"}


class Switch(NamedTuple):
    """One way to silence a tool: a variable with one of ``values``; no values: anything but nothing."""

    variable: str
    values: frozenset[str] = frozenset()

    def is_set(self, environment: Mapping[str, str]) -> bool:
        value = environment.get(self.variable)
        if value is None:
            return False
        return value.strip().lower() in self.values if self.values else bool(value)


def _switch(variable: str, *values: str) -> Switch:
    return Switch(variable, frozenset(values))


# What would be sent to whom, and the switches of which one is enough. MLflow knows only the word "true" in
# DO_NOT_TRACK, DVC does not read it at all.
SENDERS: Mapping[str, tuple[Switch, ...]] = {
    "Prefect's server": (_switch("PREFECT_SERVER_ANALYTICS_ENABLED", "false", "0", "no", "off"),),
    "Prefect's library": (_switch("DO_NOT_TRACK", *_YES),),
    "MLflow": (_switch("MLFLOW_DISABLE_TELEMETRY", "true", "1"), _switch("DO_NOT_TRACK", "true")),
    "MLflow's catalogue of models": (_switch("MLFLOW_MODEL_CATALOG_URI", ""),),
    "MLflow's question to the package index": (_switch("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "true", "1"),),
    "DVC": (_switch("DVC_NO_ANALYTICS"),),
    "DVC Studio": (_switch("DVC_STUDIO_OFFLINE", *_YES),),
    "Hugging Face": (_switch("HF_HUB_DISABLE_TELEMETRY", *_YES, "on"), _switch("DO_NOT_TRACK", *_YES, "on")),
    "Weights & Biases": (_switch("WANDB_MODE", "disabled", "offline"),),
}


def telemetry() -> Finding:
    """Whether every switch is off, under which libraries of ours would send something."""
    loud = {
        who: switches for who, switches in SENDERS.items() if not any(switch.is_set(os.environ) for switch in switches)
    }
    if not loud:
        return ok(f"off in all {len(SENDERS)} places")
    variables = dict.fromkeys(switch.variable for switches in loud.values() for switch in switches)
    shown = ", ".join(f"{variable}={os.environ[variable]}" for variable in variables if variable in os.environ)
    return warning(
        f"{', '.join(loud)} may report home: {shown or 'nothing forbids it'}", f"unset {' '.join(variables)}"
    )
