"""The routes for versions of a stream's rules: candidates, their trial and promotion."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from skyriver.control.cloud import Cloud
from skyriver.control.mutations import Key, Mutations, Planned, fingerprint, make_call
from skyriver.control.routes import TENANT, Routes, caller
from skyriver.core import contract
from skyriver.core.resources import Resource, Snapshot, need
from skyriver.trust.permissions import Permission

Fingerprint = Annotated[str, Depends(fingerprint)]
Version = Annotated[int, Path(ge=1, description="Of the version.")]
Why = Annotated[str, Field(max_length=1_000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class GainRequest(_Body):
    """What was measured of a candidate: by how much it is better than what decides, with an interval."""

    value: float = Field(allow_inf_nan=False)
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    unit: str = Field(default="", max_length=16)
    per: str = Field(default="day", max_length=32)
    job: str = Field(default="", max_length=200)
    """That measured it."""
    rules_version: int = Field(default=0, ge=0)
    """Of the rules that it was measured against (0: unknown): it counts as long as these are the ones that decide."""


class RulesRequest(_Body):
    rules: list[dict[str, str]] = Field(max_length=1_000)
    """`decision`, `when`, `name`, in order, as an application declares them."""
    why: Why = ""
    gain: GainRequest | None = None


class MoveRequest(_Body):
    why: Why = ""
    anyway: Why = ""
    """Why it is done though the gate refuses it."""


class CanaryRequest(MoveRequest):
    percent: float = Field(ge=0.01, le=100)
    """Of the keys of the stream."""


def add_rules(routes: Routes, cloud: Cloud, mutations: Mutations) -> None:
    _add_reading(routes, cloud)
    _add_candidates(routes, cloud, mutations)
    path = f"{TENANT}/streams/{{name}}/rules/{{version}}"

    def move(
        request: Request, name: str, version: int, to: str, body: MoveRequest, key: str, asked: str
    ) -> contract.RulesVersion:
        who, told = caller(request), body.model_dump()

        def plan(snapshot: Snapshot) -> Planned:
            stream = _stream(snapshot, request, name)
            changes, moved = cloud.actions.rules.move(snapshot, stream, version, to, told, actor=who.name)
            return Planned(changes, {**moved}, {"version": version, **told})

        call = make_call(request, Permission.STREAMS_WRITE, f"{to}_rules", f"stream/{name}", key, asked)
        done: Any = mutations.carry_out(call, plan)
        return done  # type: ignore[no-any-return]

    def shadow(
        request: Request, name: str, version: Version, body: MoveRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.RulesVersion:
        """Tries a version beside the rules that decide: it is evaluated on each event, and decides none."""
        return move(request, name, version, "shadow", body, key, asked)

    def canary(
        request: Request, name: str, version: Version, body: CanaryRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.RulesVersion:
        """Lets a version decide for a share of the keys; it goes on being compared on all events."""
        return move(request, name, version, "canary", body, key, asked)

    def promote(
        request: Request, name: str, version: Version, body: MoveRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.RulesVersion:
        """Lets a version decide, in place of the one that does; one of before too, which is the way back."""
        return move(request, name, version, "promote", body, key, asked)

    def drop(
        request: Request, name: str, version: Version, body: MoveRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.RulesVersion:
        """Gives a candidate up; its trial ends."""
        return move(request, name, version, "drop", body, key, asked)

    for handler in (shadow, canary, promote, drop):
        to = handler.__name__
        routes.add("POST", f"{path}/{to}", Permission.STREAMS_WRITE, handler, f"{to}_rules", errors=[404, 409])


def _add_reading(routes: Routes, cloud: Cloud) -> None:
    def listed(request: Request, name: str) -> contract.RulesVersions:
        """All versions of a stream's rules."""
        snapshot = cloud.loop.snapshot()
        return {"items": cloud.actions.rules.list(snapshot, _stream(snapshot, request, name))}

    def one(request: Request, name: str, version: Version) -> contract.RulesVersion:
        """One, and how it compares with the rules that decide."""
        snapshot = cloud.loop.snapshot()
        return cloud.actions.rules.get(snapshot, _stream(snapshot, request, name), version)

    path, permission = f"{TENANT}/streams/{{name}}/rules", Permission.STREAMS_READ
    routes.add("GET", path, permission, listed, "list_rules", errors=[404])
    routes.add("GET", f"{path}/{{version}}", permission, one, "get_rules", errors=[404])


def _add_candidates(routes: Routes, cloud: Cloud, mutations: Mutations) -> None:
    def add(
        request: Request, name: str, body: RulesRequest, asked: Fingerprint, key: Key = ""
    ) -> contract.RulesVersion:
        """A candidate, checked as a deployment checks its rules; it decides nothing yet."""
        who, told = caller(request), body.model_dump()

        def plan(snapshot: Snapshot) -> Planned:
            stream = _stream(snapshot, request, name)
            changes, added = cloud.actions.rules.add(snapshot, stream, told, actor=who.name)
            return Planned(changes, {**added}, {"version": added["version"], "why": body.why})

        call = make_call(request, Permission.APPS_WRITE, "add_rules", f"stream/{name}", key, asked)
        done: Any = mutations.carry_out(call, plan)
        return done  # type: ignore[no-any-return]

    path = f"{TENANT}/streams/{{name}}/rules"
    routes.add("POST", path, Permission.APPS_WRITE, add, "add_rules", status=201, errors=[404, 409])


def _stream(snapshot: Snapshot, request: Request, name: str) -> Resource:
    return need(snapshot.find(caller(request).tenant, "stream", name), "stream", name)
