"""The files of versions, for who loads them: whole, and signed by a key that this cloud trusts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.trust.signing import verify_version
from skyriver.trust.trusted import read_trusted
from skyriver.wiring.home import Home

Proof = Mapping[str, Any] | None


class ModelFiles:
    """Those of one tenant. Keys are read anew each time: one that came by rotation is known at once."""

    def __init__(self, home: Home, tenant: str, objects: DirectoryObjects) -> None:
        self._home, self._tenant, self._objects = home, tenant, objects

    def check(self, artifact: str, proof: Proof) -> None:
        """Returns if the file may be loaded as what `proof` says. Raises Corrupt (NOT_SIGNED, UNKNOWN_KEY,
        BAD_SIGNATURE), NotAllowed (SECRET_EXPOSED), Unavailable (NO_CRYPTOGRAPHY)."""
        trusted = read_trusted(self._home.trusted)
        if trusted is None:
            return  # this cloud does not sign
        verify_version(trusted.get(self._tenant, {}), self._tenant, artifact, proof)

    def get(self, artifact: str, proof: Proof) -> bytes:
        """The bytes of which the digest was computed. Raises as `check` and `Objects.get`."""
        self.check(artifact, proof)
        return self._objects.get(artifact)

    def open_path(self, artifact: str, proof: Proof) -> Path:
        self.check(artifact, proof)
        return self._objects.open_path(artifact)
