"""Addresses of pages in MLflow's own interface, and the view of a table of runs that they open.

Without the words for it in the address, MLflow opens an experiment on a dashboard for chat applications, which here is
always empty, and its table of runs shows no figures. A view is a tag of the experiment, as MLflow's own button *Views*
writes it; which kind of work is meant can only be said in the address.
"""

import json
from urllib.parse import quote

import httpx

from conf.services import TrackingConfig
from flows.headlines import headline_names

_VIEW = "lacewing"
_TRAINING = "workflowType=machine_learning"


def view_tags() -> dict[str, str]:
    """Tags of an experiment: a view of its runs with the headline figures as columns."""
    columns = ["attributes.`Models`", *(f"metrics.`{name}`" for name in headline_names())]
    return {f"mlflow.sharedViewState.{_VIEW}": json.dumps({"selectedColumns": columns})}


def experiment_page(server: str, experiment_id: str) -> str:
    """The table of an experiment's runs with their headline figures, at the server's address."""
    return f"{_experiment(server, experiment_id)}/runs?viewStateShareKey={_VIEW}&{_TRAINING}"


def runs_page(server: str, experiment: str = TrackingConfig().experiment) -> str:
    """The table of runs of the experiment with this name, which the running server is asked for."""
    question = f"{server.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name"
    found = httpx.get(question, params={"experiment_name": experiment}, timeout=30).raise_for_status().json()
    return experiment_page(server, found["experiment"]["experiment_id"])


def run_page(server: str, experiment_id: str, run_id: str) -> str:
    """The page of one run."""
    return f"{_experiment(server, experiment_id)}/runs/{run_id}?{_TRAINING}"


def file_page(server: str, experiment_id: str, run_id: str, name: str) -> str:
    """The page that shows a file of a run."""
    return f"{_experiment(server, experiment_id)}/runs/{run_id}/artifacts/{name}"


def version_page(server: str, model: str, number: int) -> str:
    """The page of one version of a registered model."""
    return f"{server.rstrip('/')}/#/models/{quote(model, safe='')}/versions/{number}"


def _experiment(server: str, experiment_id: str) -> str:
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}"
