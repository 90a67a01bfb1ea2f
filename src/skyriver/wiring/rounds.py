"""The tasks of a worker that go on for as long as it lives: one that fails is told, and begun again after a pause."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from skyriver.core.errors import SkyriverError, told

AGAIN_S = 2.0
"""After a round that failed."""
STEADY_S = 10.0
"""A round that goes on for so long is well."""

_log = logging.getLogger(__name__)


class Rounds:
    """All on the loop's thread."""

    def __init__(self) -> None:
        self.problems: dict[str, SkyriverError] = {}
        """Of the tasks whose last round failed."""

    def start(self, what_not: str, round_: Callable[[], Awaitable[object]], every_s: float = 0.0) -> asyncio.Task[None]:
        """Rounds with `every_s` between them, until the task is cancelled. `what_not` says what is not done when one
        fails."""
        return asyncio.create_task(self._go_round(what_not, round_, every_s))

    async def _go_round(self, what_not: str, round_: Callable[[], Awaitable[object]], every_s: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            steady = loop.call_later(STEADY_S, self.problems.pop, what_not, None)
            try:
                await round_()
            except Exception as error:  # whatever it was: nobody would miss a task that has ended
                problem = told(what_not, error)
                if str(problem) != str(self.problems.get(what_not)):
                    _log.exception("%s", what_not)
                self.problems[what_not] = problem
                pause_s = AGAIN_S
            else:
                self.problems.pop(what_not, None)
                pause_s = every_s
            finally:
                steady.cancel()  # before the pause: what has failed is not well by waiting
            await asyncio.sleep(pause_s)
