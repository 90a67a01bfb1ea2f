"""What is signed of a version, and whether it was: by a key that this cloud trusts, for exactly this model file.

Signed is a statement in canonical JSON: tenant, model, number, the SHA-256 of the artifact and that of the canonical
JSON of the whole manifest (the version's spec). Not what happens to a version later: its state, gate, rollouts,
aliases. So a statement of some 300 bytes goes with a version to whoever loads it, and the manifest stays where it is.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from skyriver.core.errors import Corrupt, Unavailable
from skyriver.core.names import canonical_json, digest
from skyriver.trust.keys import Keys

if TYPE_CHECKING:
    from skyriver.core.resources import Resource

_WHAT = "skyriver version 1"
"""Stands in all that is signed: no signature of something else is ever one of a version."""
_STATEMENT = ("tenant", "model", "version", "artifact", "manifest")


def is_signature(public: bytes, signature: bytes, data: bytes) -> bool:
    """Ed25519 (RFC 8032). Raises Unavailable (NO_CRYPTOGRAPHY) on a machine without the library."""
    try:  # here, for it costs a start 30 ms and more: who checks nothing does not load it
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise Unavailable(
            "The Python library cryptography is not installed, so no signature can be checked.",
            code="NO_CRYPTOGRAPHY",
            next_action="Install it where the cloud runs: `pip install cryptography`.",
        ) from error
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def signed_version(keys: Keys, version: Resource) -> Resource:
    """The version with a signature beside its manifest. Raises what `Keys.sign` does."""
    statement = _statement(_Version(version.tenant, version.name, version.spec))
    signed = keys.sign(version.tenant, _bytes(statement))
    told = {"key": signed.key, "signature": base64.b64encode(signed.signature).decode()}
    return replace(version, status={**version.status, "signature": told})


def proof_of(version: Resource) -> dict[str, Any]:
    """What goes with a version to whoever loads its file: the statement by the row as it is now, and the signature
    that it was given. Whether the two agree is found where the file is loaded. Pure."""
    statement = _statement(_Version(version.tenant, version.name, version.spec))
    told = version.status.get("signature", {})  # of which nothing may stand for the statement
    return {**statement, **{name: told[name] for name in ("key", "signature") if name in told}}


def proofs_of(versions: Iterable[Resource]) -> dict[str, dict[str, Any]]:
    """By the digests of their files; of versions with the same file that of the first one with a signature."""
    found: dict[str, dict[str, Any]] = {}
    for version in versions:
        artifact = str(version.spec.get("artifact", ""))
        if "signature" not in found.get(artifact, {}):
            found[artifact] = proof_of(version)
    return found


def verify_version(trusted: Mapping[str, bytes], tenant: str, artifact: str, proof: Mapping[str, Any] | None) -> None:
    """Returns if the bytes of `artifact` may be loaded as what `proof` says. `trusted`: public keys of the tenant by
    their ids. Raises Corrupt: NOT_SIGNED, UNKNOWN_KEY, BAD_SIGNATURE; Unavailable as `is_signature`."""
    name = f"{proof.get('model')}:{proof.get('version')}" if proof else f"of the model file {artifact[:12]}"
    if not proof or not proof.get("signature"):
        raise _refused(
            "NOT_SIGNED",
            f"Version {name} is not signed, and this cloud signs its versions.",
            "If you know it for your own: `skyriver key rotate --sign-again` signs what there is.",
        )
    if proof.get("artifact") != artifact or proof.get("tenant") != tenant:
        raise _refused("BAD_SIGNATURE", f"Version {name} was not signed for the model file {artifact[:12]}.")
    public = trusted.get(str(proof.get("key")))
    if public is None:
        raise _refused(
            "UNKNOWN_KEY",
            f"Version {name} is signed by the key {proof.get('key')}, which this cloud does not trust.",
            "`skyriver key list` shows the keys; put HOME/keys back from a copy, or `skyriver key rotate --sign-again`"
            " if the version is your own.",
        )
    try:
        signature = base64.b64decode(str(proof["signature"]), validate=True)
        statement = {name: proof.get(name) for name in _STATEMENT}
        good = is_signature(public, signature, _bytes(statement))
    except (binascii.Error, ValueError):
        good = False
    if not good:
        raise _refused("BAD_SIGNATURE", f"The manifest of version {name} is not the one that was signed.")


def _refused(code: str, message: str, action: str = "") -> Corrupt:
    again = "Somebody changed it: restore the control state from a copy, look for who did it, or train it again."
    return Corrupt(message, code=code, next_action=action or again)


def _bytes(statement: Mapping[str, Any]) -> bytes:
    return canonical_json({"what": _WHAT, **{name: statement[name] for name in _STATEMENT}})


@dataclass(frozen=True, slots=True)
class _Version:
    """A row's manifest; the same row in another pass is the same object, and compared by that first."""

    tenant: str
    name: str
    spec: Mapping[str, Any] = field(hash=False)


@lru_cache(maxsize=4_096)  # each pass of the loop asks it for what is used, and a manifest has some 10,000 bytes
def _statement(version: _Version) -> Mapping[str, Any]:
    # Of the row's own name: what is copied into another version's row is not signed there.
    model, _, number = version.name.rpartition(":")
    told = {"model": model, "version": int(number) if number.isdigit() else number}
    return {
        "tenant": version.tenant,
        **told,
        "artifact": version.spec.get("artifact"),
        "manifest": digest(dict(version.spec)),
    }
