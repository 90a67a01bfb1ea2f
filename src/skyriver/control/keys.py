"""The routes of signing keys: which there are, and another one."""

from __future__ import annotations

import base64
from collections import Counter
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict

from skyriver.control.cloud import Cloud
from skyriver.control.damaged import find_rows
from skyriver.control.mutations import Mutations, Planned, make_call
from skyriver.control.paging import check_query
from skyriver.control.routes import TENANT, Routes, caller
from skyriver.control.signing import Signer, not_signing
from skyriver.core import contract_keys as contract
from skyriver.core.errors import NotFound, SkyriverError
from skyriver.core.resources import Snapshot
from skyriver.trust.permissions import Permission

_PATH = f"{TENANT}/keys"
_MOST = 1_000_000
"""Versions that are counted."""


class RotateRequest(BaseModel):
    """How a key is replaced."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    sign_again: bool = False
    """Also sign all versions as they are now, whatever their signatures say: after a key was lost."""


def add_keys(routes: Routes, cloud: Cloud, mutations: Mutations) -> None:
    def listed(request: Request) -> contract.KeyList:
        """The keys that this tenant's versions are signed with, the one that signs now last."""
        check_query(request, ())
        tenant = caller(request).tenant
        if cloud.signer is None:
            return {"items": [], "signs": False, "problem": ""}
        problem = cloud.signer.problem
        told = f"{problem.code}: {problem}" if problem is not None else ""
        keys = _keys(cloud, cloud.signer, tenant)
        return {"items": keys, "signs": bool(cloud.signer.trusted(tenant)), "problem": told}

    def one(request: Request, name: str) -> contract.SigningKey:
        """One, by its id or the beginning of it."""
        found = [k for k in _keys(cloud, _signer(cloud), caller(request).tenant) if k["id"].startswith(name)]
        if len(found) != 1:
            raise NotFound(f"There is no key {name!r}.", next_action="`skyriver key list` shows all.")
        return found[0]

    def rotate(request: Request, body: RotateRequest) -> contract.RotatedKey:
        """A new key signs from now on; what the ones before it signed still counts. Not repeated by itself."""
        signer, who = _signer(cloud), caller(request)

        def plan(snapshot: Snapshot) -> Planned:
            return Planned([], {}, {"sign_again": body.sign_again})

        mutations.carry_out(make_call(request, Permission.KEYS_WRITE, "rotate_key", "key/signing", "", ""), plan)
        made = signer.rotate(who.tenant)
        again = signer.sign_again(cloud.store, cloud.fence, who.tenant, actor=who.name) if body.sign_again else []
        cloud.loop.wake()
        key = next(k for k in _keys(cloud, signer, who.tenant) if k["id"] == made.id)
        return {"key": key, "signed": again}

    routes.add("GET", _PATH, Permission.KEYS_READ, listed, "list_keys")
    routes.add("GET", f"{_PATH}/{{name}}", Permission.KEYS_READ, one, "get_key", errors=[404])
    routes.add("POST", f"{_PATH}/rotate", Permission.KEYS_WRITE, rotate, "rotate_key")


def _signer(cloud: Cloud) -> Signer:
    if cloud.signer is None:
        raise not_signing()
    return cloud.signer


def _keys(cloud: Cloud, signer: Signer, tenant: str) -> list[contract.SigningKey]:
    """Also those that are trusted still and gone from the key file, or that cannot be read there."""
    try:
        here = signer.list(tenant)
    except SkyriverError:
        here = ()  # `doctor` and `problem` say why
    versions = find_rows(cloud.store, tenant, "version", "", _MOST).rows
    used = Counter(str(v.status.get("signature", {}).get("key", "")) for v in versions)

    def told(key: str, public: bytes, state: str, made_at: int) -> Any:
        public_text = base64.b64encode(public).decode()
        about = {"id": key, "algorithm": "Ed25519", "public": public_text, "state": state, "made_at": made_at}
        return {**about, "versions": used[key]}

    known = {key.id for key in here}
    kept = [told(key, public, "KEPT", 0) for key, public in signer.trusted(tenant).items() if key not in known]
    return [*kept, *(told(k.id, k.public, "ACTIVE" if k is here[-1] else "RETIRED", k.made_at) for k in here)]
