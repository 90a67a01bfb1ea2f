"""The exam of keys, on each implementation."""

from collections.abc import Callable
from pathlib import Path

import pytest

from skyriver.adapters.keyfile.keys import KeyFiles
from skyriver.adapters.memory.keys import KeyRing, MemoryKeys
from skyriver.trust.keys import Keys
from skyriver.trust.keys_exam import KEYS_CHECKS, check_keys

Place = Callable[[int], Keys]


def in_memory(path: Path) -> Place:
    rings: dict[int, KeyRing] = {}
    return lambda number: MemoryKeys(rings.setdefault(number, KeyRing()))


def in_files(path: Path) -> Place:
    return lambda number: KeyFiles(path / f"keys-{number}")


@pytest.fixture(params=[in_memory, in_files])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    place: Place = request.param(tmp_path)
    return place


@pytest.mark.parametrize("check", KEYS_CHECKS, ids=lambda check: check.__name__)
def test_law(check: Callable[[Callable[[], Keys]], None], make: Place) -> None:
    check(lambda: make(0))


def test_the_whole_exam(make: Place) -> None:
    check_keys(make)


class Forgetful(MemoryKeys):
    """Rotates for everybody."""

    def rotate(self, tenant: str, *, now: int) -> object:  # type: ignore[override]
        super().rotate("globex", now=now)
        return super().rotate(tenant, now=now)


def test_the_exam_finds_a_keeper_that_mixes_tenants() -> None:
    with pytest.raises(AssertionError, match="another one's"):
        check_keys(lambda number: Forgetful())
