"""The routes by which models and versions are tagged, and models from outside deleted. Both are done at once: there is
no operation to wait for."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from skyriver.control.cloud import Cloud
from skyriver.control.mutations import Key, Mutations, Planned, make_call
from skyriver.control.paging import document
from skyriver.control.routes import TENANT, Routes, caller
from skyriver.core import contract
from skyriver.core.names import digest
from skyriver.core.resources import Delete, Put, Snapshot, need
from skyriver.core.tags import MOST_TAGS, tagged
from skyriver.trust.permissions import Permission

KINDS = {"models": "model", "versions": "version"}


class TagsRequest(BaseModel):
    """Tags that are not given stay as they are."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    tags: dict[str, str | None] = Field(min_length=1, max_length=MOST_TAGS)
    """By their keys; null takes one away, and is silent where there is none."""


def add_models(routes: Routes, cloud: Cloud, mutations: Mutations) -> None:
    for segment, kind in KINDS.items():
        _add(routes, mutations, segment, kind)
    _add_deletion(routes, cloud, mutations)


def _add_deletion(routes: Routes, cloud: Cloud, mutations: Mutations) -> None:
    def delete(request: Request, name: str, key: Key = "") -> contract.Removed:
        """Removes a model from outside with its versions, as long as nothing rests on them: no application declares
        it, it never served, and no rows were scored by it."""
        tenant = caller(request).tenant

        def plan(snapshot: Snapshot) -> Planned:
            gone = cloud.actions.delete_model(snapshot, tenant, name)
            lines = [{"action": "remove", "kind": row.kind, "name": row.name, "detail": ""} for row in gone]
            changes = [Delete(*row.key, row.revision) for row in gone]
            return Planned(changes, {"plan": lines, "applied": True}, {"removed": [row.ref for row in gone]})

        asked = digest([request.method, request.url.path])
        call = make_call(request, Permission.MODELS_WRITE, "delete_model", f"model/{name}", key, asked)
        done: Any = mutations.carry_out(call, plan)
        return done  # type: ignore[no-any-return]

    path = f"{TENANT}/models/{{name}}"
    routes.add("DELETE", path, Permission.MODELS_WRITE, delete, "delete_model", errors=[404, 409])


def _add(routes: Routes, mutations: Mutations, segment: str, kind: str) -> None:
    def tag(request: Request, name: str, body: TagsRequest, key: Key = "") -> contract.Resource:
        tenant = caller(request).tenant

        def plan(snapshot: Snapshot) -> Planned:
            row = need(snapshot.find(tenant, kind, name), kind, name)
            after = tagged(row, body.tags)
            return Planned([Put(after, row.revision)], {**document(after)}, {"tags": dict(body.tags)})

        asked = digest([request.method, request.url.path, body.model_dump()])
        call = make_call(request, Permission.MODELS_WRITE, f"tag_{kind}", f"{kind}/{name}", key, asked)
        done: Any = mutations.carry_out(call, plan)
        return done  # type: ignore[no-any-return]

    tag.__doc__ = f"Sets tags of a {kind}, and takes away those that are null. Nothing in the cloud acts by them."
    path = f"{TENANT}/{segment}/{{name}}/tags"
    routes.add("PATCH", path, Permission.MODELS_WRITE, tag, f"tag_{kind}", errors=[404, 409, 429])
