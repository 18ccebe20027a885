"""The address of a SQLite file as SQLAlchemy, and so MLflow and Prefect, read it.

SQLAlchemy decodes the path of an address and takes what follows ``?`` for options. So a path with one of these signs,
written as it is, would open another file.
"""

from pathlib import Path

MLFLOW, PREFECT = "sqlite", "sqlite+aiosqlite"
# Under its plain name MLflow makes the folder of the path as it stands in the address: one that nobody wants here.
_MLFLOW_ENCODED = "sqlite+pysqlite"
_ENCODED = str.maketrans({"%": "%25", "?": "%3F", "#": "%23"})


def sqlite_address(path: Path, scheme: str = MLFLOW) -> str:
    """The address of the SQLite file ``path``, with the signs encoded that mean something in an address."""
    encoded = str(path).translate(_ENCODED)
    if scheme == MLFLOW and encoded != str(path):
        scheme = _MLFLOW_ENCODED
    return f"{scheme}:///{encoded}"
