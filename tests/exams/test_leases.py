"""The exam of leases, on each implementation."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from postgres_server import PostgresServer

from skyriver.adapters.flock.leases import FileLeases
from skyriver.adapters.memory.leases import MemoryKeeper, MemoryLeases
from skyriver.adapters.postgres.leases import PostgresLeases
from skyriver.core.leases import Lease
from skyriver.core.leases_exam import LEASES_CHECKS, Make, Open, check_leases


def in_memory(path: Path, server: Callable[[], PostgresServer]) -> Open:
    keeper = MemoryKeeper()
    return lambda: MemoryLeases(keeper)


def in_files(path: Path, server: Callable[[], PostgresServer]) -> Open:
    return lambda: FileLeases(path)


def in_postgres(path: Path, server: Callable[[], PostgresServer]) -> Open:
    address = server().prepared()
    return lambda: PostgresLeases(address)


@pytest.fixture(params=[in_memory, in_files, in_postgres])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    numbers = itertools.count()
    return lambda: request.param(tmp_path / f"leases-{next(numbers)}", lambda: request.getfixturevalue("postgres"))


@pytest.mark.parametrize("check", LEASES_CHECKS, ids=lambda check: check.__name__)
def test_law(check: Callable[[Make], None], make: Make) -> None:
    check(make)


def test_the_exam_finds_leases_that_break_a_law() -> None:
    class Trusting(MemoryLeases):
        def holds(self, lease: Lease) -> bool:
            return True

    def make() -> Open:
        keeper = MemoryKeeper()
        return lambda: Trusting(keeper)

    with pytest.raises(AssertionError, match="broken law"):
        check_leases(make)


def test_a_holder_with_a_slow_clock_ends_before_the_keeper_gives_the_lease_away() -> None:
    now = 0
    keeper = MemoryKeeper(clock=lambda: now)
    one = MemoryLeases(keeper, clock=lambda: now * 95 // 100)  # as slow as the law allows
    two = MemoryLeases(keeper, clock=lambda: now)
    lease = one.acquire("work", "one", ttl_us=1_000_000)
    for now in range(0, 999_999, 1000):  # noqa: B007  # both clocks read it
        assert two.holder("work") == lease
    now = 1_000_000
    assert not one.holds(lease)
    two.acquire("work", "two", ttl_us=1_000_000)
