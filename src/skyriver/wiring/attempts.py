"""What the control plane's threads beside its loop do again and again, whatever goes wrong in between."""

from __future__ import annotations

import logging
from collections.abc import Callable

from skyriver.core.errors import Internal, SkyriverError, disk_error

OnProblem = Callable[[SkyriverError | None], None]


class Attempts:
    """Of one thread, at something that may fail at any line and is whole again with the next attempt. What is wrong is
    said once: to the log, and to `on_problem` whenever it has changed. `fails` and `works` are sentences without their
    full stop: "services are not scaled", "services are scaled again"."""

    def __init__(self, log: logging.Logger, *, fails: str, works: str, on_problem: OnProblem) -> None:
        self._log, self._fails, self._works, self._on_problem = log, fails, works, on_problem
        self._problem = ""

    def attempt(self, act: Callable[[], None]) -> bool:
        """Whether it goes on: False where another control plane has taken over."""
        try:
            act()
            self._tell(None)
        except SkyriverError as error:
            if error.code == "FENCED":
                return False
            self._tell(error)
        except OSError as error:
            self._tell(disk_error(error, self._fails[0].upper() + self._fails[1:]))
        except Exception as error:  # the thread must outlive a mistake in one attempt
            if self._tell(Internal(f"{type(error).__name__}: {error}", next_action="Report it with control.log.")):
                self._log.exception(self._fails)
        return True

    def _tell(self, problem: SkyriverError | None) -> bool:
        """Whether it is news."""
        said = str(problem or "")
        news, self._problem = said != self._problem, said
        if news:
            self._on_problem(problem)
            if said:
                self._log.warning("%s: %s", self._fails, said)
            else:
                self._log.info(self._works)
        return news
