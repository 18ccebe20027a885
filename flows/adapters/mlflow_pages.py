"""Addresses of pages in MLflow's own interface, and what makes an experiment open on its runs."""

# Without it, MLflow opens an experiment on a dashboard for traces of chat applications, which here is always empty.
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}


def experiment_page(server: str, experiment_id: str) -> str:
    """The table of an experiment's runs, at the server's address."""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs"


def run_page(server: str, experiment_id: str, run_id: str) -> str:
    """The page of one run."""
    return f"{experiment_page(server, experiment_id)}/{run_id}"
