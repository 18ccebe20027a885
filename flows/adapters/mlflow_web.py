"""Links into MLflow's web pages, for whoever reads a report or a closing table."""

from pathlib import Path

from conf.services import TrackingConfig
from flows.adapters.mlflow_connection import Connection
from flows.adapters.mlflow_pages import file_page
from flows.adapters.tracking_record import TrackingRecord
from flows.addresses import running


def web_address(connection: Connection) -> str:
    """Address of the server that shows what is at ``connection``; empty if none does at the moment.

    The workspace's own database is shown by ``lacewing up``.
    """
    if connection.uri.startswith("http"):
        return connection.address.rstrip("/")
    return "" if connection.cfg.uri else running("mlflow")


def file_link(cfg: TrackingConfig, folder: Path, name: str) -> str:
    """Markdown that leads to a report in an artifact's folder: its page in MLflow, or else its path."""
    connection = Connection(cfg)
    run = TrackingRecord.read(folder).at(connection)
    server = web_address(connection)
    if not (run and run.complete and server):
        return f"`{folder / name}`"
    with connection.explained():
        return f"[{name}]({file_page(server, connection.experiment_id, run.run_id, name)})"
