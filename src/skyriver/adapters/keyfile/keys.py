"""Keys as files: `Keys` on one machine.

    FOLDER/TENANT.json      0600: the public halves of all keys, oldest first, and the private half of the newest

The folder is 0700. A rotation replaces the file whole: the private half of the key before is gone with it.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Sequence
from pathlib import Path

from skyriver.adapters.ed25519 import new_private, public_of, signature_by
from skyriver.core.errors import Corrupt, NotFound
from skyriver.core.names import check_name
from skyriver.trust.keys import PublicKey, Signed, key_id, no_key
from skyriver.trust.secretfile import read_secret, write_secret


class KeyFiles:
    """`Keys` in `folder`. The files are read each time: one that was put back or closed to others counts at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mutex = threading.Lock()

    def list(self, tenant: str) -> Sequence[PublicKey]:
        return self._read(tenant)[0]

    def sign(self, tenant: str, data: bytes) -> Signed:
        keys, private = self._read(tenant)
        if not keys:
            raise no_key(tenant)
        return Signed(keys[-1].id, signature_by(private, data))

    def rotate(self, tenant: str, *, now: int) -> PublicKey:
        with self._mutex:
            keys, _ = self._read(tenant)
            private = new_private()
            public = public_of(private)
            key = PublicKey(key_id(public), public, now)
            body = {"keys": [_as_json(k) for k in (*keys, key)], "private": base64.b64encode(private).decode()}
            write_secret(self.path(tenant), json.dumps(body).encode())
        return key

    def path(self, tenant: str) -> Path:
        return self._folder / f"{check_name(tenant, 'a tenant')}.json"

    def _read(self, tenant: str) -> tuple[Sequence[PublicKey], bytes]:
        path = self.path(tenant)
        try:
            data = read_secret(path)
        except NotFound:
            return (), b""
        try:
            body = json.loads(data)
            keys = [PublicKey(k["id"], base64.b64decode(k["public"]), int(k["made_at"])) for k in body["keys"]]
            private = base64.b64decode(body["private"], validate=True)
        except (ValueError, KeyError, TypeError) as error:
            raise _corrupt(path) from error
        if not keys or len(private) != 32 or any(key.id != key_id(key.public) for key in keys):
            raise _corrupt(path)
        return keys, private


def _as_json(key: PublicKey) -> dict[str, object]:
    return {"id": key.id, "public": base64.b64encode(key.public).decode(), "made_at": key.made_at}


def _corrupt(path: Path) -> Corrupt:
    return Corrupt(
        "The key file is not what was written.",
        code="KEY_CORRUPT",
        where=str(path),
        next_action="Put it back from a copy; or remove it, then `skyriver key rotate --sign-again` makes another key.",
    )
