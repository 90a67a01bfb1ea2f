"""The file that says which keys a cloud trusts: public halves, by tenant. It is in the cloud's own folder, written by
the control plane and read by whoever loads a model file: neither with the objects nor in the control state.

Where it is, this cloud signs its versions, and one without a good signature is not loaded. It only ever grows, so that
a key file that is lost takes no trust along.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

from skyriver.core.errors import Corrupt, NotFound
from skyriver.trust.secretfile import read_secret, write_secret

Trusted = Mapping[str, Mapping[str, bytes]]
"""tenant -> id of a key -> its public half."""


def read_trusted(path: Path) -> Trusted | None:
    """None: this cloud does not sign. Raises NotAllowed (SECRET_EXPOSED: others could have written it), Corrupt
    (TRUST_CORRUPT), Unavailable."""
    try:
        data = read_secret(path)
    except NotFound:
        return None
    try:
        return {
            tenant: {key: base64.b64decode(public, validate=True) for key, public in keys.items()}
            for tenant, keys in json.loads(data)["tenants"].items()
        }
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Corrupt(
            "The file of trusted keys is not what was written.",
            code="TRUST_CORRUPT",
            where=str(path),
            next_action="Put it back from a copy of the cloud's folder, or remove it: `skyriver up` then writes it.",
        ) from error


def write_trusted(path: Path, trusted: Trusted) -> None:
    """Raises Unavailable."""
    told = {
        tenant: {key: base64.b64encode(public).decode() for key, public in sorted(keys.items())}
        for tenant, keys in sorted(trusted.items())
    }
    write_secret(path, json.dumps({"tenants": told}).encode())
