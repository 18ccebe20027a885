"""Addresses of pages in MLflow's own interface, and what makes an experiment open on its runs."""

import httpx

from conf.services import TrackingConfig

# Without it, MLflow opens an experiment on a dashboard for traces of chat applications, which here is always empty.
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}


def experiment_page(server: str, experiment_id: str) -> str:
    """The table of an experiment's runs, at the server's address."""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs"


def runs_page(server: str, experiment: str = TrackingConfig().experiment) -> str:
    """The table of runs of the experiment with this name, which the running server is asked for."""
    question = f"{server.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name"
    found = httpx.get(question, params={"experiment_name": experiment}, timeout=30).raise_for_status().json()
    return experiment_page(server, found["experiment"]["experiment_id"])


def run_page(server: str, experiment_id: str, run_id: str) -> str:
    """The page of one run."""
    return f"{experiment_page(server, experiment_id)}/{run_id}"
