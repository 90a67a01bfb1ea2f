"""The routes of tokens: who may use the cloud, in which role. A token is shown once; the cloud keeps its SHA-256.

Issuing takes no Idempotency-Key: what is answered to a key is kept, and a token must not be.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict

from skyriver.control.cloud import Cloud
from skyriver.control.mutations import Mutations, Planned, make_call
from skyriver.control.paging import check_query
from skyriver.control.routes import TENANT, Routes, caller
from skyriver.core import contract_tokens as contract
from skyriver.core.errors import Conflict
from skyriver.core.names import check_name
from skyriver.core.resources import Delete, Put, Resource, Snapshot, need
from skyriver.trust.permissions import Permission, check_role
from skyriver.trust.tokens import new_token

_PATH = f"{TENANT}/tokens"


class TokenRequest(BaseModel):
    """Whose token is issued."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str
    """Of the person or program: it stands in the audit trail, and in what is decided with it."""
    role: str


def add_tokens(routes: Routes, cloud: Cloud, mutations: Mutations) -> None:
    def issue(request: Request, body: TokenRequest) -> contract.IssuedToken:
        """A new token, told here and never again. 409, TOKEN_EXISTS, where the name has one."""
        name, role, tenant = check_name(body.name, "a token"), check_role(body.role), caller(request).tenant
        text, digest = new_token()

        def plan(snapshot: Snapshot) -> Planned:
            if snapshot.find(tenant, "token", name) is not None:
                raise Conflict(
                    f"{name!r} has a token already.",
                    code="TOKEN_EXISTS",
                    where=name,
                    next_action=f"`skyriver token delete {name}` revokes it; or issue one for another name.",
                )
            token = Resource(tenant, "token", name, spec={"sha256": digest, "role": role}, state="ACTIVE")
            return Planned([Put(token, 0)], {"name": name, "role": role, "token": text}, {"role": role})

        call = make_call(request, Permission.TOKENS_WRITE, "issue_token", f"token/{name}", "", "")
        done: Any = mutations.carry_out(call, plan)
        return done  # type: ignore[no-any-return]

    def listed(request: Request) -> contract.TokenList:
        """Whose tokens count, by name; not the tokens."""
        check_query(request, ())
        rows = cloud.store.rows(caller(request).tenant, "token")
        return {"items": [_told(row) for row in rows]}

    def revoke(request: Request, name: str) -> contract.Token:
        """From now on the token counts no more. 409, LAST_ADMIN: nobody could issue another one."""
        tenant = caller(request).tenant

        def plan(snapshot: Snapshot) -> Planned:
            token = need(snapshot.find(tenant, "token", name), "token", name)
            admins = [row.name for row in snapshot.all(tenant, "token") if row.spec["role"] == "admin"]
            if admins == [name]:
                raise Conflict(
                    f"{name!r} is the last administrator.",
                    code="LAST_ADMIN",
                    where=name,
                    next_action="Issue a token with the role admin for somebody else first.",
                )
            return Planned([Delete(*token.key, token.revision)], {**_told(token)}, {"role": token.spec["role"]})

        call = make_call(request, Permission.TOKENS_WRITE, "revoke_token", f"token/{name}", "", "")
        done: Any = mutations.carry_out(call, plan)
        return done  # type: ignore[no-any-return]

    permission = Permission.TOKENS_WRITE
    routes.add("POST", _PATH, permission, issue, "issue_token", status=201, errors=[409])
    routes.add("GET", _PATH, permission, listed, "list_tokens")
    routes.add("DELETE", f"{_PATH}/{{name}}", permission, revoke, "revoke_token", errors=[404, 409])


def _told(row: Resource) -> contract.Token:
    return {
        "name": row.name,
        "role": row.spec["role"],
        "created_at": row.created_at,
        "created_by": row.created_by,
    }
