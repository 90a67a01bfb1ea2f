"""The exam of `Leases`: runs on every implementation, the twin in memory and one of your own too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from skyriver.core.errors import Conflict, InvalidInput, StaleWrite
from skyriver.core.exam import must, must_raise
from skyriver.core.leases import Lease, Leases

Open = Callable[[], Leases]
Make = Callable[[], Open]

_TTL_US = 400_000
_DEADLINE_S = 60.0
_PAUSE_S = 0.005
_LONG_US = 60_000_000


def check_leases(make: Make) -> None:
    """Raises AssertionError naming the law that does not hold. `make` gives a new, empty keeper each time: a function
    that opens it, as another process would."""
    for check in LEASES_CHECKS:
        check(make)


def _acquired(leases: Leases, name: str, holder: str, *, ttl_us: int = _TTL_US) -> Lease:
    """The lease, as soon as nobody else holds it."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        try:
            return leases.acquire(name, holder, ttl_us=ttl_us)
        except Conflict as error:
            must(error.code == "LEASE_HELD", f"a lease that is held: the code is {error.code}")
            must(time.monotonic() < deadline, "a lease whose holder is gone is given to the next one")
        time.sleep(_PAUSE_S)


def _refused(leases: Leases, name: str, law: str) -> None:
    error = must_raise(Conflict, lambda: leases.acquire(name, "late", ttl_us=_TTL_US), law, code="LEASE_HELD")
    must(bool(error.next_action), f"{law}: the error says what to do")


def one_holds_and_others_are_refused(make: Make) -> None:
    opened = make()
    one, two = opened(), opened()
    must(one.holder("work") is None, "of a name that nobody acquired nobody is the holder")
    lease = one.acquire("work", "the first", ttl_us=_LONG_US)
    must((lease.name, lease.holder) == ("work", "the first"), "a lease says what it is and whose")
    must(lease.token > 0, "a token is above 0")
    must(one.holds(lease), "who acquired it holds it")
    must(one.holder("work") == lease and two.holder("work") == lease, "everybody may ask who holds it")
    for leases in (one, two):
        _refused(leases, "work", "a lease that is held is refused, also to its holder")
    must(one.holds(lease) and one.holder("work") == lease, "a refusal changes nothing")
    other = two.acquire("other-work", "the second", ttl_us=_LONG_US)
    must(two.holds(other) and one.holds(lease), "names are apart from each other")
    must(not two.holds(lease), "a lease is held where it was acquired")
    for leases in (one, two):
        leases.close()


def released_is_free_at_once(make: Make) -> None:
    opened = make()
    one, two = opened(), opened()
    first = one.acquire("work", "one", ttl_us=_LONG_US)
    one.release(first)
    must(not one.holds(first), "what was released is not held")
    must(one.holder("work") is None, "nobody holds what was released")
    must_raise(StaleWrite, lambda: one.renew(first), "renewing what was released", code="LEASE_LOST")
    second = two.acquire("work", "two", ttl_us=_LONG_US)
    one.release(first)
    must(two.holds(second) and one.holder("work") == second, "an old lease that is released again takes nothing away")
    must_raise(StaleWrite, lambda: one.renew(first), "renewing what somebody else holds", code="LEASE_LOST")
    two.close()
    one.close()


def tokens_only_grow(make: Make) -> None:
    opened = make()
    tokens = []
    for _ in range(3):  # each a new start of everything
        leases = opened()
        for _ in range(3):
            lease = leases.acquire("work", "me", ttl_us=_LONG_US)
            tokens.append(lease.token)
            leases.release(lease)
        leases.close()
    leases = opened()
    tokens.append(leases.acquire("work", "me", ttl_us=_LONG_US).token)
    leases.close()
    must(tokens == sorted(set(tokens)), "a token is higher than all before, also those before a restart")


def who_vanished_is_followed(make: Make) -> None:
    opened = make()
    one, two = opened(), opened()
    first = one.acquire("work", "one", ttl_us=_TTL_US)
    one.close()
    second = _acquired(two, "work", "two")
    must(second.token > first.token, "the next holder's token is higher")
    must(two.holder("work") == second, "it is the holder now")
    two.close()


def two_never_hold_it(make: Make) -> None:
    """A holder that does not renew: either it keeps the lease for as long as it lives, or it is the first to know."""
    opened = make()
    one, two = opened(), opened()
    first = one.acquire("work", "one", ttl_us=_TTL_US)
    give_up = time.monotonic() + 5 * _TTL_US / 1e6
    second = None
    while second is None and (time.monotonic() < give_up or not one.holds(first)):
        must(time.monotonic() < give_up + _DEADLINE_S, "a lease that nobody holds is given to the next one")
        try:
            second = two.acquire("work", "two", ttl_us=_LONG_US)
        except Conflict:
            time.sleep(_PAUSE_S)
    if second is None:
        must(one.holds(first) and one.holder("work") == first, "a lease that cannot be had is held")
        one.renew(first)
    else:
        must(not one.holds(first), "the holder is the first to know that its time is over")
        must(second.token > first.token and two.holds(second), "the next one has a higher token")
        must_raise(StaleWrite, lambda: one.renew(first), "renewing what somebody else took over", code="LEASE_LOST")
        must(two.holder("work") == second, "a refused renewal changes nothing")
    one.close()
    two.close()


def renewed_is_held(make: Make) -> None:
    opened = make()
    one, two = opened(), opened()
    lease = one.acquire("work", "one", ttl_us=_TTL_US)
    until = time.monotonic() + 3 * _TTL_US / 1e6
    while time.monotonic() < until:
        before = time.monotonic()
        one.renew(lease)
        must(one.holds(lease) or time.monotonic() - before > _TTL_US / 2e6, "what is renewed is held")
        if one.holds(lease):
            try:
                two.acquire("work", "two", ttl_us=_TTL_US)
            except Conflict:
                must(one.holder("work") in (lease, None), "renewing makes no new lease")
            else:
                must(not one.holds(lease), "what is renewed is refused to others")
                break  # this machine was too slow to renew in time
        time.sleep(_PAUSE_S)
    one.close()
    two.close()


def a_time_that_was_over_is_renewed_if_nobody_came(make: Make) -> None:
    opened = make()
    one, two = opened(), opened()
    lease = one.acquire("work", "one", ttl_us=20_000)
    until = time.monotonic() + 0.1
    while time.monotonic() < until:
        time.sleep(_PAUSE_S)
    one.renew(lease)
    one.release(lease)
    next_one = two.acquire("work", "two", ttl_us=_LONG_US)
    must(next_one.token > lease.token, "the token grew")
    one.close()
    two.close()


def _race(parties: list[Leases], holder: str) -> list[tuple[Leases, Lease]]:
    """Who got the lease, when all acquired it at once."""
    got: list[tuple[Leases, Lease]] = []
    errors: list[BaseException] = []

    def acquire(leases: Leases) -> None:
        try:
            got.append((leases, leases.acquire("work", holder, ttl_us=_LONG_US)))
        except BaseException as error:  # raised again below
            if not isinstance(error, Conflict) or error.code != "LEASE_HELD":
                errors.append(error)

    threads = [threading.Thread(target=acquire, args=(party,), daemon=True) for party in parties]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_DEADLINE_S)
        must(not thread.is_alive(), "acquire never waits")
    for error in errors:
        raise error
    return got


def of_many_at_once_one_gets_it(make: Make) -> None:
    opened = make()
    parties = [opened() for _ in range(6)]
    for number in range(5):
        got = _race(parties, f"round {number}")
        must(len(got) == 1, f"of many at once one gets it, not {len(got)}")
        (leases, lease) = got[0]
        must(leases.holds(lease) and parties[0].holder("work") == lease, "and holds it")
        leases.release(lease)
    for party in parties:
        party.close()


def names_are_names(make: Make) -> None:
    leases = make()()
    for name in ("", "a/b", "..", "a\0b", "x" * 300, "é\ud800"):
        must_raise(
            InvalidInput, partial(leases.acquire, name, "me", ttl_us=_TTL_US), "a lease's name", code="BAD_LEASE"
        )
    must_raise(InvalidInput, lambda: leases.acquire("work", "me", ttl_us=0), "a lease without time", code="BAD_LEASE")
    leases.close()


LEASES_CHECKS: tuple[Callable[[Make], None], ...] = (
    one_holds_and_others_are_refused,
    released_is_free_at_once,
    tokens_only_grow,
    who_vanished_is_followed,
    two_never_hold_it,
    renewed_is_held,
    a_time_that_was_over_is_renewed_if_nobody_came,
    of_many_at_once_one_gets_it,
    names_are_names,
)
