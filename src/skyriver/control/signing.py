"""Signing versions: each when it becomes a row, whoever makes it; and the keys that it is done with.

Theory of operation
===================
A version becomes a row by the commit of a Put that expects none. `SignedStore` stands before the store and signs what
such a Put brings, so there is one place, and a job that proposes a version cannot bring a signature of its own. A cloud
that never signed makes its keys at the start of its control plane and signs all versions that it has, once; then it
writes down which keys it trusts. From that moment a version without a good signature is loaded by nobody: who takes a
signature away gains nothing.

A key that is lost or open to others stops no version that is signed. A new one becomes a row without a signature, and
its rollout ends with NOT_SIGNED, until `key rotate --sign-again`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from skyriver.control.store import Changes, Store
from skyriver.core.clock import Clock
from skyriver.core.errors import SkyriverError, StaleWrite, Unavailable
from skyriver.core.resources import AuditEntry, Change, Put, Resource
from skyriver.trust.keys import Keys, PublicKey
from skyriver.trust.permissions import FIRST_TENANT
from skyriver.trust.signing import proof_of, signed_version, verify_version
from skyriver.trust.trusted import Trusted

_TRIES = 8

log = logging.getLogger("skyriver.control")


class TrustStore(Protocol):
    """Where public halves are kept that are trusted: apart from the keys, the objects and the control state.

    MUST: `write` is whole and durable when it returns. Raises as `read_trusted` and `write_trusted`."""

    def read(self) -> Trusted | None:
        """None: this cloud has never signed."""
        ...

    def write(self, trusted: Trusted) -> None: ...


class Signer:
    """The keys of this cloud's tenants, and what is done with them. Any thread."""

    def __init__(self, keys: Keys, trust: TrustStore, clock: Clock) -> None:
        self._keys, self._trust, self._clock = keys, trust, clock
        self._mutex = threading.Lock()
        self.problem: SkyriverError | None = None
        """Why the last version was not signed."""

    def begin(self, store: Store, fence: int) -> None:
        """Before anything loads a version: a cloud that never signed signs all it has; else the keys that there are
        become trusted, should a crash have come between. What fails is told and leaves a cloud that does not sign yet,
        or whose versions wait for a key."""
        try:
            first = self._trust.read() is None
            tenants = {FIRST_TENANT, *(row.tenant for row in store.rows(kind="version"))}
            for tenant in sorted(tenants):
                if first:
                    if not self._keys.list(tenant):
                        self._keys.rotate(tenant, now=self._clock.wall())
                    self.sign_again(store, fence, tenant, actor="system")
            for tenant in sorted(tenants):
                self._trust_keys(tenant)
        except SkyriverError as error:
            self._tell(error)

    def list(self, tenant: str) -> Sequence[PublicKey]:
        """The oldest first, the one that signs last. Raises as `Keys.list`."""
        return self._keys.list(tenant)

    def trusted(self, tenant: str) -> Mapping[str, bytes]:
        return (self._trust.read() or {}).get(tenant, {})

    def rotate(self, tenant: str) -> PublicKey:
        """A new key for `tenant`; it is trusted before it signs anything. Raises Unavailable (NOT_SIGNING) where this
        cloud does not sign yet: to trust a key then would make all its versions unsigned ones; and as `Keys.rotate`."""
        if self._trust.read() is None:
            raise not_signing()
        key = self._keys.rotate(tenant, now=self._clock.wall())
        self._trust_keys(tenant)
        return key

    def check(self, version: Resource) -> None:
        """Returns if the file of `version` may be given as what its row says. Raises Corrupt as `verify_version`,
        Unavailable (NO_CRYPTOGRAPHY)."""
        trusted = self._trust.read()
        if trusted is None:
            return  # this cloud does not sign
        known = trusted.get(version.tenant, {})
        verify_version(known, version.tenant, str(version.spec["artifact"]), proof_of(version))

    def signed(self, version: Resource) -> Resource:
        """As it was given, told why, where it cannot be signed."""
        status = {name: value for name, value in version.status.items() if name != "signature"}
        plain = replace(version, status=status)
        try:
            trusted = self._trust.read()
            if trusted is None:
                return plain  # this cloud does not sign: `begin` told why
            if not self._keys.list(version.tenant) and not trusted.get(version.tenant):
                self.rotate(version.tenant)  # the first version of a new tenant
            self._trust_keys(version.tenant)  # a rotation may have been cut off
            done = signed_version(self._keys, plain)
        except SkyriverError as error:
            self._tell(error)
            return plain
        self.problem = None
        return done

    def sign_again(self, store: Store, fence: int, tenant: str, *, actor: str) -> Sequence[str]:
        """Signs all versions of a tenant as they are now; their names. Raises as `Keys.sign`, and what `Store.commit`
        does."""
        names = [row.name for row in store.rows(tenant, "version")]
        for name in names:
            self._sign_row(store, fence, tenant, name, actor)
        self.problem = None
        return names

    def _sign_row(self, store: Store, fence: int, tenant: str, name: str, actor: str) -> None:
        for left in reversed(range(_TRIES)):
            row = store.get(tenant, "version", name)
            change = Put(signed_version(self._keys, row), row.revision)
            try:
                store.commit([change], audit=(), fence=fence, actor=actor, now=self._clock.wall())
                return
            except StaleWrite as error:  # the loop moved it meanwhile
                if error.code == "FENCED" or not left:
                    raise

    def _trust_keys(self, tenant: str) -> None:
        with self._mutex:
            trusted = self._trust.read()
            known = (trusted or {}).get(tenant, {})
            keys = {**known, **{key.id: key.public for key in self._keys.list(tenant)}}
            if trusted is None or keys != known:
                self._trust.write({**(trusted or {}), tenant: keys})

    def _tell(self, error: SkyriverError) -> None:
        if self.problem is None or self.problem.code != error.code:
            log.warning("versions are not signed: %s: %s", error.code, error)
        self.problem = error


def not_signing() -> Unavailable:
    return Unavailable(
        "This cloud does not sign its versions.",
        code="NOT_SIGNING",
        next_action="`skyriver doctor` says why; `skyriver up` begins to.",
    )


class SignedStore:
    """`Store` that signs versions as they become rows."""

    def __init__(self, store: Store, signer: Signer) -> None:
        self._store, self._signer = store, signer

    def commit(
        self, changes: Sequence[Change], *, audit: Sequence[AuditEntry], fence: int, actor: str, now: int
    ) -> list[Resource]:
        signed = [self._signed(change) for change in changes]
        return self._store.commit(signed, audit=audit, fence=fence, actor=actor, now=now)

    def _signed(self, change: Change) -> Change:
        if isinstance(change, Put) and change.resource.kind == "version" and change.expected == 0:
            return Put(self._signer.signed(change.resource), 0)
        return change

    def acquire(self, holder: str) -> int:
        return self._store.acquire(holder)

    def get(self, tenant: str, kind: str, name: str) -> Resource:
        return self._store.get(tenant, kind, name)

    def rows(
        self, tenant: str | None = None, kind: str | None = None, *, after: str = "", limit: int | None = None
    ) -> list[Resource]:
        return self._store.rows(tenant, kind, after=after, limit=limit)

    def audit(
        self,
        tenant: str,
        *,
        after: int = 0,
        limit: int = 100,
        newest: bool = False,
        since: int = 0,
        target: str = "",
    ) -> list[dict[str, Any]]:
        return self._store.audit(tenant, after=after, limit=limit, newest=newest, since=since, target=target)

    def revision(self) -> int:
        return self._store.revision()

    def since(self, revision: int) -> Changes | None:
        return self._store.since(revision)

    def close(self) -> None:
        self._store.close()
