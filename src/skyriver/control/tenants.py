"""The routes of tenants: who has tokens here, and how much each may get through the gateway.

A limit is a row of its tenant (kind `tenant`); each pass gives all of them to the gateway with the routes. Only whoever
steers the cloud sets one: a limit that its own tenant could raise would be none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from skyriver.control.cloud import Cloud
from skyriver.control.gateway_rules import LIMIT_MAX
from skyriver.control.mutations import Key, Mutations, Planned, make_call
from skyriver.control.paging import check_query
from skyriver.control.routes import Routes, caller
from skyriver.control.spending import spending_after, to_be_counted, uncounted
from skyriver.core import contract_tenants as contract
from skyriver.core.names import digest
from skyriver.core.prices import Prices
from skyriver.core.resources import Put, Resource, Snapshot, need
from skyriver.core.spending import parse_budget
from skyriver.core.units import parse_rate
from skyriver.trust.permissions import FIRST_TENANT, Permission, require_operator

KIND = "tenant"
_PATH = "/tenants/{name}"


class LimitsRequest(BaseModel):
    """What is not given stays as it is; null takes the limit away."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    rate: str | None = None
    """Requests a second, as "500/s"."""
    concurrency: Annotated[int, Field(strict=True, ge=1, le=LIMIT_MAX)] | None = None
    """Requests under way at once."""
    budget: str | None = None
    """What all its things may cost together, as "200 EUR/30d"; beyond it jobs are not begun."""


def add_tenants(routes: Routes, cloud: Cloud, mutations: Mutations) -> None:
    def listed(request: Request) -> contract.TenantList:
        """Who has tokens here, with the limits of each; of a tenant that does not steer the cloud, itself alone."""
        check_query(request, ())
        snapshot, asker = cloud.loop.snapshot(), caller(request).tenant
        prices = cloud.prices.now()
        return {"items": [_told(_find(snapshot, asker, name), prices) for name in _known(snapshot, asker)]}

    def one(request: Request, name: str) -> contract.Tenant:
        """How much a tenant may get."""
        return _told(_find(cloud.loop.snapshot(), caller(request).tenant, name), cloud.prices.now())

    def limit(request: Request, name: str, body: LimitsRequest, key: Key = "") -> contract.Tenant:
        """Sets what a tenant may get of models and streams together: the gateways follow at once, without losing what
        they counted. 403, NOT_OPERATOR, for tokens of a tenant that does not steer the cloud."""
        who, given = caller(request), body.model_dump(exclude_unset=True)
        require_operator(who)
        if body.rate is not None:
            given["rate"] = f"{parse_rate(body.rate, 'a limit')}/s"
        if body.budget is not None:
            given["budget"] = str(parse_budget(body.budget))

        def plan(snapshot: Snapshot) -> Planned:
            before = _find(snapshot, who.tenant, name)
            after = replace(before, spec={**before.spec, **given})
            put, prices = Put(after, before.revision), cloud.prices.now()
            return Planned([put, *spending_after(snapshot, [put], prices)], {**_told(after, prices)}, given)

        asked = digest([request.method, request.url.path, given])
        call = make_call(request, Permission.CLOUD_ADMIN, "limit_tenant", f"tenant/{name}", key, asked)
        done: Any = mutations.carry_out(call, plan)
        return done  # type: ignore[no-any-return]

    routes.add("GET", "/tenants", Permission.CLOUD_READ, listed, "list_tenants")
    routes.add("GET", _PATH, Permission.CLOUD_READ, one, "get_tenant", errors=[404])
    routes.add("PATCH", _PATH, Permission.CLOUD_ADMIN, limit, "limit_tenant", errors=[404, 409])


def _known(snapshot: Snapshot, asker: str) -> list[str]:
    """The tenants that the asker may know of."""
    names = {token.tenant for token in snapshot.rows.every("token")}
    return sorted(names if asker == FIRST_TENANT else names & {asker})


def _find(snapshot: Snapshot, asker: str, name: str) -> Resource:
    """A tenant's row, as it will be where nothing was ever set. Raises NotFound."""
    row = snapshot.find(name, KIND, name) or Resource(name, KIND, name, state="ACTIVE")
    return need(row if name in _known(snapshot, asker) else None, KIND, name)


def _told(row: Resource, prices: Prices) -> contract.Tenant:
    told: contract.Tenant = {
        "name": row.name,
        "rate": row.spec.get("rate"),
        "concurrency": row.spec.get("concurrency"),
        "budget": row.spec.get("budget"),
    }
    budget = parse_budget(row.spec["budget"]) if row.spec.get("budget") else None
    if budget is not None and (why := uncounted(budget, prices)):
        told["note"] = f"{budget}: {why} {to_be_counted(budget, prices)}"
    return told
