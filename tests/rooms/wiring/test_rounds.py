"""A task of a worker that fails is told, and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from skyriver.core.errors import Unavailable
from skyriver.wiring import rounds as module
from skyriver.wiring.rounds import Rounds

NOT_FOLLOWED = "Releases are not followed"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    monkeypatch.setattr(module, "STEADY_S", 0.05)


async def until(held: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not held():
            await asyncio.sleep(0.001)


def test_a_round_that_fails_is_told_and_the_next_one_comes() -> None:
    failures: list[Exception] = [KeyError("features"), Unavailable("It is away.", code="AWAY", next_action="Wait.")]
    seen: list[tuple[str, str, str]] = []
    done = 0

    async def test() -> None:
        rounds = Rounds()

        async def round_() -> None:
            nonlocal done
            seen.extend((p.code, p.message, p.next_action) for p in rounds.problems.values())
            if failures:
                raise failures.pop(0)
            done += 1

        task = rounds.start(NOT_FOLLOWED, round_, 0.001)
        await until(lambda: done >= 3)
        assert not rounds.problems
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()

    asyncio.run(test())
    assert [code for code, *_ in seen] == ["INTERNAL", "AWAY"]
    assert seen[0][1] == f"{NOT_FOLLOWED}: KeyError: 'features'."
    assert seen[1][1:] == (f"{NOT_FOLLOWED}: It is away.", "Wait.")


def test_what_has_failed_is_not_well_before_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 60.0)

    async def test() -> None:
        rounds = Rounds()

        async def round_() -> None:
            raise OSError("again")

        task = rounds.start(NOT_FOLLOWED, round_)
        await until(lambda: rounds.problems)
        await asyncio.sleep(2 * module.STEADY_S)
        assert rounds.problems
        task.cancel()
        await asyncio.wait((task,))

    asyncio.run(test())


def test_a_task_without_end_is_well_again_after_a_while() -> None:
    failures = [OSError("once")]
    seen: list[int] = []

    async def test() -> None:
        rounds = Rounds()

        async def round_() -> None:
            seen.append(len(rounds.problems))
            if failures:
                raise failures.pop()
            await asyncio.Event().wait()

        task = rounds.start(NOT_FOLLOWED, round_)
        await until(lambda: len(seen) == 2)
        await until(lambda: not rounds.problems)
        task.cancel()
        await asyncio.wait((task,))

    asyncio.run(test())
    assert seen == [0, 1]
