"""The exam of `Keys`, for each implementation: `make(n)` opens place number n, the same keys each time."""

from __future__ import annotations

from collections.abc import Callable

from skyriver.core.errors import NotFound
from skyriver.core.exam import must, must_raise
from skyriver.trust.keys import Keys, key_id
from skyriver.trust.signing import is_signature

Make = Callable[[int], Keys]
_DATA = b"what is signed"


def check_keys(make: Make) -> None:
    for number, check in enumerate(KEYS_CHECKS):
        check(lambda number=number: make(number))  # type: ignore[misc]  # each check has a place of its own


def check_no_key_signs_nothing(make: Callable[[], Keys]) -> None:
    keys = make()
    must(not keys.list("acme"), "a tenant that was given no key has none")
    must_raise(NotFound, lambda: keys.sign("acme", _DATA), "nothing is signed without a key", code="NO_KEY")


def check_signatures_verify(make: Callable[[], Keys]) -> None:
    keys = make()
    made = keys.rotate("acme", now=5)
    must(list(keys.list("acme")) == [made] and made.made_at == 5, "the key that was made is listed")
    must(made.id == key_id(made.public) and len(made.public) == 32, "a key is called by its public half")
    signed = keys.sign("acme", _DATA)
    must(signed.key == made.id, "a signature names its key")
    must(is_signature(made.public, signed.signature, _DATA), "what was signed verifies by the listed key")
    must(not is_signature(made.public, signed.signature, _DATA + b"!"), "other bytes do not verify")
    cut = signed.signature[:-1]
    must(not is_signature(made.public, cut, _DATA), "half a signature does not verify")


def check_tenants_are_apart(make: Callable[[], Keys]) -> None:
    keys = make()
    ours = keys.rotate("acme", now=1)
    must(not keys.list("globex"), "a tenant's key is not another one's")
    theirs = keys.rotate("globex", now=2)
    must(ours.public != theirs.public, "tenants have keys of their own")
    must(list(keys.list("acme")) == [ours], "another tenant's key changes nothing here")
    signed = keys.sign("globex", _DATA)
    must(signed.key == theirs.id, "a tenant's signature is by its own key")
    must(not is_signature(ours.public, signed.signature, _DATA), "it does not verify by another tenant's key")


def check_rotation(make: Callable[[], Keys]) -> None:
    keys = make()
    old = keys.rotate("acme", now=1)
    before = keys.sign("acme", _DATA)
    new = keys.rotate("acme", now=2)
    must(list(keys.list("acme")) == [old, new], "the oldest key is listed first, the newest last")
    must(keys.sign("acme", _DATA).key == new.id, "the newest key signs")
    must(is_signature(old.public, before.signature, _DATA), "what the key before signed still verifies")


def check_opened_again(make: Callable[[], Keys]) -> None:
    first = make()
    first.rotate("acme", now=1)
    made = first.rotate("acme", now=2)
    again = make()
    must(list(again.list("acme")) == list(first.list("acme")), "keys outlive who made them")
    must(again.sign("acme", _DATA) == first.sign("acme", _DATA), "the same key signs the same bytes alike")
    must(again.sign("acme", _DATA).key == made.id, "the newest key signs after opening again")


KEYS_CHECKS: tuple[Callable[[Callable[[], Keys]], None], ...] = (
    check_no_key_signs_nothing,
    check_signatures_verify,
    check_tenants_are_apart,
    check_rotation,
    check_opened_again,
)
