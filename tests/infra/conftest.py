"""The shared services of a team, once for all tests that need them."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.infra.servers import Machine, Place, postgres_programs, services


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """PostgreSQL, an S3-compatible server, and MLflow, as the compose file starts them."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt install postgresql")
    if missing := [name for name in ("psycopg", "moto", "dvc_s3", "boto3") if find_spec(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}; make infra-test does")
    with services(programs, tmp_path_factory.mktemp("services")) as place:
        yield place


@pytest.fixture(scope="module")
def machines(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine]]:
    folder = tmp_path_factory.mktemp("machines")
    both = Machine(place, folder / "first"), Machine(place, folder / "second")
    yield both
    for machine in both:
        machine.stop()
