"""What tests of several folders share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package
from postgres_server import PostgresServer
from s3_server import S3Server

# A machine that is busy is not a mistake of a test. Who loads another profile gives up both.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def kernels(pytestconfig: pytest.Config) -> Path:
    """Compiled features. They outlive the run: only the first one compiles."""
    assert pytestconfig.cache is not None
    return pytestconfig.cache.mkdir("kernels")


@pytest.fixture(scope="module")
def postgres_of_the_file() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def postgres(postgres_of_the_file: PostgresServer) -> Iterator[PostgresServer]:
    """A PostgreSQL server that runs; one file shares it, and each test makes databases of its own."""
    yield postgres_of_the_file
    postgres_of_the_file.drop_databases()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """An S3 server that runs; one file shares it, and each test takes a prefix of its own."""
    server = S3Server()
    yield server
    server.close()
