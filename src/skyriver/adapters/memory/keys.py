"""Keys in memory: the twin of those in files, for tests and simulations."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from skyriver.adapters.ed25519 import new_private, public_of, signature_by
from skyriver.trust.keys import PublicKey, Signed, key_id, no_key
from skyriver.trust.trusted import Trusted


@dataclass(slots=True)
class KeyRing:
    """What all `MemoryKeys` of one place share."""

    public: dict[str, list[PublicKey]] = field(default_factory=dict)
    private: dict[str, bytes] = field(default_factory=dict)


class MemoryKeys:
    """`Keys` in this process."""

    def __init__(self, ring: KeyRing | None = None) -> None:
        self._ring = ring or KeyRing()
        self._mutex = threading.Lock()

    def list(self, tenant: str) -> Sequence[PublicKey]:
        return tuple(self._ring.public.get(tenant, ()))

    def sign(self, tenant: str, data: bytes) -> Signed:
        with self._mutex:
            if tenant not in self._ring.private:
                raise no_key(tenant)
            private, key = self._ring.private[tenant], self._ring.public[tenant][-1]
        return Signed(key.id, signature_by(private, data))

    def rotate(self, tenant: str, *, now: int) -> PublicKey:
        private = new_private()
        public = public_of(private)
        key = PublicKey(key_id(public), public, now)
        with self._mutex:
            self._ring.private[tenant] = private
            self._ring.public.setdefault(tenant, []).append(key)
        return key

    def lose(self, tenant: str) -> None:
        """As when the key file is gone."""
        self._ring.private.pop(tenant, None)


class MemoryTrust:
    """`TrustStore` in this process."""

    def __init__(self) -> None:
        self._trusted: Trusted | None = None

    def read(self) -> Trusted | None:
        return self._trusted

    def write(self, trusted: Trusted) -> None:
        self._trusted = trusted
