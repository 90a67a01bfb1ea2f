"""What keeps a log larger than its retention says is told, once it is much."""

from typing import cast

import pytest

from skyriver.core.errors import Unavailable
from skyriver.data.retention import Keep, Needed, Part, Sizes, TieredLog, Upkeep

MB = 1_000_000


class Log:
    """Ten parts of ten records and ten megabytes."""

    def __init__(self) -> None:
        self.first_offset = 0
        self.open_bytes = 0

    def parts(self) -> list[Part]:
        return [Part(base, base + 10, base, 10 * MB) for base in range(self.first_offset, 100, 10)]

    def sizes(self) -> Sizes:
        total = sum(part.bytes for part in self.parts())
        return Sizes(total, total)

    def remove_before(self, offset: int) -> int:
        self.first_offset = offset
        return offset

    def tier_next(self) -> bool:
        return False

    def drop_local(self, limit: int) -> None:
        pass


@pytest.mark.parametrize(("needed", "first", "told"), [(100, 70, False), (50, 50, False), (30, 30, True), (0, 0, True)])
def test_what_is_still_needed_stays_and_is_told_once_it_is_more_than_half(needed: int, first: int, told: bool) -> None:
    log = Log()
    upkeep = Upkeep(cast(TieredLog, log), Keep(bytes=30 * MB), tier=False)
    assert upkeep.step(time=100, needed=Needed(needed, "the next materialisation", "Look at the jobs.")) is False
    assert log.first_offset == first
    assert (
        "the next materialisation still needs them. Look at the jobs." in " ".join(map(str, upkeep.problems))
    ) is told
    assert (f"{70 - first} MB of the log's {100 - first} MB" in " ".join(map(str, upkeep.problems))) is told
    assert upkeep.step(time=100, needed=Needed(100)) is False
    assert upkeep.problems == ()


class Ailing(Log):
    """Gives nothing up, and its tier is away."""

    def sizes(self) -> Sizes:
        return Sizes(100 * MB, 100 * MB, 100 * MB, Unavailable("Two are only there.", code="TIER_CHANGED"))

    def tier_next(self) -> bool:
        raise Unavailable("The tier is away.", code="OBJECTS_UNREACHABLE")

    def drop_local(self, limit: int) -> None:
        raise Unavailable("The tier is away.", code="OBJECTS_UNREACHABLE")


def test_all_that_is_wrong_is_told_and_each_once() -> None:
    upkeep = Upkeep(cast(TieredLog, Ailing()), Keep(bytes=30 * MB, local_bytes=20 * MB), tier=True)
    assert upkeep.step(time=100, needed=Needed(0, "the next materialisation", "Look at the jobs.")) is False
    found = upkeep.problems
    assert [problem.code for problem in found] == ["RETENTION_WAITS", "OBJECTS_UNREACHABLE", "TIER_CHANGED"]
    assert upkeep.look().full is not None
