"""What the supervisor does about canaries while there is no control plane to judge them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from skyriver.control.gateway import Gateway
from skyriver.control.gateway_rules import steadied
from skyriver.core.errors import SkyriverError

UNWATCHED_SECONDS = 30.0
LOOK_SECONDS = 1.0

log = logging.getLogger("skyriver.supervisor")


class Unwatched:
    """Takes a version's share of a canary away while no control plane judges it (DESIGN 5). The next one, which knows
    how far the rollout was, gives it back."""

    def __init__(
        self, gateway: Callable[[], Gateway], judges: Callable[[], bool], wait: Callable[[float], bool]
    ) -> None:
        """`judges`: whether a control plane answers; `wait`: for so many seconds; whether it is to end."""
        self._gateway = gateway
        self._judges = judges
        self._wait = wait

    def run(self) -> None:
        seen = time.monotonic()
        while not self._wait(LOOK_SECONDS):
            if self._judges():
                seen = time.monotonic()
            elif time.monotonic() - seen > UNWATCHED_SECONDS:
                self._take_back()

    def _take_back(self) -> None:
        try:
            gateway = self._gateway()
            table = gateway.table()
            if (steady := steadied(table)) != table:
                log.warning("no control plane for %.0f s: new versions get no requests meanwhile", UNWATCHED_SECONDS)
                gateway.apply(steady)
        except (SkyriverError, OSError) as error:  # tried again with the next look
            log.warning("the share of new versions could not be taken away: %s", error)
        except Exception:  # without this thread a bad version would keep its share
            log.exception("the share of new versions could not be taken away")
