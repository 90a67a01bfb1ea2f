"""What tests of several folders share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package
from postgres_server import PostgresServer
from s3_server import S3Server

# Commands and control planes are started thousands of times: where this is set, each would compile all its source anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A machine that is busy is not a mistake of a test. Who loads another profile gives up both.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

CAMPAIGNS = frozenset(
    f"tests/{name}.py"
    for name in (
        "faults/test_stream_kills",
        "faults/test_kills",
        "faults/test_disturbances",
        "faults/test_stream_disturbances",
        "faults/test_dispatcher",
        "faults/test_reviewing",
        "faults/test_gateway_haproxy",
        "road/test_bench",
        "road/test_bench_decisions",
    )
)
"""What is killed all the time, or timed. It waits more than it works, and would stand in each other's way: one process
runs these files one after another, from the first moment on, while the others run the rest."""


class Scheduling(LoadFileScheduling):  # type: ignore[misc]  # it has no types
    """A file is run by one process, and so are all campaigns. Long files come first, or the last would end alone."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # that is by the number of tests, and those of the short files are many

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "campaigns" if file in CAMPAIGNS else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One beside the campaigns for each core, and one more: tests of whole clouds wait half of their time."""
    return len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """All that is imported and collected stays to the end: looking through it for garbage is a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        file = item.nodeid.split("::")[0]
        folders = ("tests/faults", "tests/road", "tests/properties")
        return -1 if file in CAMPAIGNS else next((n for n, f in enumerate(folders) if file.startswith(f)), len(folders))

    items.sort(key=place)


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
