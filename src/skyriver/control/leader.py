"""Of several control planes on one store one is active: the one that holds the lease `control`; the others stand by.

One lease for all kinds, not one a kind, for kinds write each other's rows in one plan: decision 0007. Who acquired the
lease takes a new fence from the store, so that whatever an older plane still sends is refused there. What cannot be
refused (a process that is started, an order to the gateway) is only done while the lease is held by this machine's
own clock: see `ControlLoop`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from skyriver.core.errors import Conflict, SkyriverError, StaleWrite, Unavailable
from skyriver.core.leases import Lease, Leases

CONTROL = "control"
CONTROL_TTL_US = 4_000_000
"""Another plane takes over so long after the last renewal: half of the ten seconds that a takeover may take."""
_RENEW_S = 1.0
_TRY_S = 0.25

log = logging.getLogger("skyriver.control")


class Leader:
    """This plane's part in it: waits for the lease, renews it in a thread of its own, and knows when it is over."""

    def __init__(self, leases: Leases, holder: str, *, ttl_us: int = CONTROL_TTL_US) -> None:
        self._leases = leases
        self._holder = holder
        self._ttl_us = ttl_us
        self._lease: Lease | None = None
        self._on_lost: Callable[[SkyriverError], None] | None = None
        self._lost: SkyriverError | None = None
        self._mutex = threading.Lock()
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)

    def wait(self, given_up: Callable[[], bool]) -> bool:
        """Stands by until the lease is this plane's; False when `given_up` says so before. A database that is away is
        waited for. Raises what waiting does not mend."""
        told = ""
        while not given_up():
            try:
                self._lease = self._leases.acquire(CONTROL, self._holder, ttl_us=self._ttl_us)
            except (Conflict, Unavailable) as error:
                if isinstance(error, Conflict) and error.code != "LEASE_HELD":
                    raise
                if error.code + error.message != told:
                    told = error.code + error.message
                    log.info("standing by: %s", error.message)
                self._ended.wait(_TRY_S)
            else:
                log.info("this control plane is the active one (token %d)", self._lease.token)
                self._renewing.start()
                return True
        return False

    def holds(self) -> bool:
        """Whether this plane may act now; no I/O."""
        return self._lease is not None and self._lost is None and self._leases.holds(self._lease)

    def tell(self, on_lost: Callable[[SkyriverError], None]) -> None:
        """Calls `on_lost`, once, when another plane has taken over; at once if one has."""
        with self._mutex:
            self._on_lost = on_lost
            lost = self._lost
        if lost is not None:
            on_lost(lost)

    def close(self) -> None:
        """Gives the lease back, so that the next plane need not wait."""
        self._ended.set()
        if self._lease is not None:
            self._renewing.join()
            try:
                self._leases.release(self._lease)
            except Unavailable as error:  # it ends by its time
                log.warning("the lease was not given back: %s", error)
        self._leases.close()

    def _renew(self) -> None:
        assert self._lease is not None
        away = ""
        while not self._ended.wait(min(_RENEW_S, self._ttl_us / 4e6)):
            try:
                self._leases.renew(self._lease)
                if away:
                    log.info("the lease is renewed again")
                away = ""
            except StaleWrite as error:
                self._lose(error)
                return
            except SkyriverError as error:  # when that lasts, the time of the lease ends, and nothing is done any more
                if error.code != away:
                    away = error.code
                    log.warning("the lease cannot be renewed: %s", error)

    def _lose(self, error: StaleWrite) -> None:
        log.error("another control plane has taken over: %s", error.message)
        with self._mutex:
            self._lost = error
            on_lost = self._on_lost
        if on_lost is not None:
            on_lost(error)
