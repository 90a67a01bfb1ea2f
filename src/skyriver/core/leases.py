"""The port for the right to be the only one: single writers, and the one control plane that acts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from skyriver.core.errors import Conflict, InvalidInput, StaleWrite

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one holder to what `name` stands for."""

    name: str
    holder: str
    """A word for people: which process that is."""
    token: int
    """The fencing token. Whoever does the work of `name` refuses an order with a token lower than one it has seen."""


class Leases(Protocol):
    """Named leases with fencing tokens.

    MUST: at most one lease of a name is held at any moment. A token is higher than all that were given for the name
    before, also before a restart of everything, and is durable when `acquire` returns. A lease ends when it is
    released, when it was not renewed for `ttl_us`, or, where the adapter sees that itself, with its holder's process;
    there it may also last without being renewed. The holder is the first to know of its end: `holds` turns
    False, by the holder's own clock (one that also runs while the machine sleeps) and without asking anybody, before
    another may have the lease; clocks may run apart by 5 %. A clock set anew can break that where leases are kept
    elsewhere, as can a machine that is paused between asking `holds` and acting: so what must not be done twice checks
    the token. Threads: any number may use one `Leases`. Raises Unavailable when the leases' keeper is away.
    """

    def acquire(self, name: str, holder: str, *, ttl_us: int) -> Lease:
        """Never waits. Raises Conflict (LEASE_HELD), naming the holder, while it is held, be it by this `Leases`."""
        ...

    def renew(self, lease: Lease) -> None:
        """Holds it for the time given at `acquire`, from now on; also a lease whose time was over, if nobody had it
        since. Raises StaleWrite (LEASE_LOST) when it was released, or somebody has had it since."""
        ...

    def release(self, lease: Lease) -> None:
        """Ends it now. Silent when it has ended already."""
        ...

    def holds(self, lease: Lease) -> bool:
        """Whether this lease, acquired here, is held still. Costs no I/O."""
        ...

    def holder(self, name: str) -> Lease | None:
        """The lease that is held now, whoever holds it."""
        ...

    def close(self) -> None:
        """Ends the use. Leases that are held end as those of a process that died: use `release` before."""
        ...


class TakeOver(Protocol):
    """Leases whose keeper can end the process that holds one, be it stopped, hung or well."""

    def take_over(self, name: str, holder: str, *, ttl_us: int) -> Lease:
        """Ends the process that holds the lease, if another one does, and acquires it when it has ended. Raises
        Conflict (LEASE_HELD) when that process is this one, or cannot be ended."""
        ...


CLOCKS_APART = 0.05
"""By how much the holder's clock may run slower than that of who gives the lease away: the holder counts on so much
less than the whole time."""


def lasts_until(asked_us: int, ttl_us: int) -> int:
    """When the right of a lease ends by the holder's clock; `asked_us`: its time before it asked for the lease."""
    return asked_us + int(ttl_us * (1 - CLOCKS_APART))


def check_lease(name: str, holder: str, ttl_us: int) -> None:
    """Raises InvalidInput (BAD_LEASE) for a lease that cannot be."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!a} cannot name a lease: letters, digits, '.', '_' and '-', at most 200, a letter or digit first.",
            code="BAD_LEASE",
            next_action="Give it another name.",
        )
    if not holder.isprintable() or len(holder) > 200:
        raise InvalidInput(
            f"{holder!a} cannot name a holder: at most 200 printable characters.",
            code="BAD_LEASE",
            next_action="Give the holder another name.",
        )
    if ttl_us <= 0:
        raise InvalidInput(
            f"A lease of {ttl_us} microseconds has no time.", code="BAD_LEASE", next_action="Give it a length above 0."
        )


def lease_held(name: str, holder: str) -> Conflict:
    return Conflict(
        f"The lease {name!r} is held by {holder or 'a process that left no record'}.",
        code="LEASE_HELD",
        where=f"lease {name}",
        next_action="Wait until it ends, or end that process.",
    )


def lease_lost(lease: Lease) -> StaleWrite:
    return StaleWrite(
        f"The lease {lease.name!r} with token {lease.token} is not held any more: it was released, or another one has"
        " taken over.",
        code="LEASE_LOST",
        where=f"lease {lease.name}",
        next_action="Do no more under it; acquire it anew.",
    )
