"""The routes of costs: what a tenant's things cost, and for who steers the cloud what all tenants do."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import ValidationError

from skyriver.control.cloud import Cloud
from skyriver.control.costing import By, Period, costs
from skyriver.control.paging import check_query
from skyriver.control.routes import TENANT, Routes, caller
from skyriver.core import contract_costs as contract
from skyriver.core.contract_advice import Advice
from skyriver.core.errors import InvalidInput, NotFound, Unavailable
from skyriver.core.misread import misread
from skyriver.core.ranges import SERVICE, field_of, hint
from skyriver.core.resources import need
from skyriver.core.spec import ServiceSpec, check_service
from skyriver.core.units import DAY, parse_duration
from skyriver.core.usage import DAYS, HOUR, USAGE, buckets
from skyriver.trust.permissions import Permission, require_operator

_PATH = f"{TENANT}/costs"
Since = Annotated[str, Query(description="For how long back, as 24h or 30d: whole hours.")]


def add_costs(routes: Routes, cloud: Cloud) -> None:
    def listed(
        request: Request,
        since: Since = "7d",
        by: Annotated[By, Query(description="What a line is of; tenant: for who steers the cloud.")] = "item",
    ) -> contract.Costs:
        """What everything cost, the dearest first, with the sum."""
        check_query(request, ("since", "by"))
        who = caller(request)
        if by == "tenant":
            require_operator(who)
        snapshot = cloud.loop.snapshot()
        rows = snapshot.rows.every(USAGE) if by == "tenant" else snapshot.all(who.tenant, USAGE)
        period = _period(since, snapshot.now)
        return _with_problem(costs(buckets(rows, since=period.before), cloud.prices.now(), period, by=by), cloud)

    def one(request: Request, name: str, since: Since = "24h") -> contract.Costs:
        """What all things of a name (or kind/name) cost, hour by hour."""
        check_query(request, ("since",))
        snapshot, tenant = cloud.loop.snapshot(), caller(request).tenant
        period = _period(since, snapshot.now)
        used = buckets(snapshot.all(tenant, USAGE), since=period.before)
        found = costs(used, cloud.prices.now(), period, only=[name], with_hours=True)
        kind, _, of = name.rpartition("/")
        there = any(r.name == of and kind in ("", r.kind) for r in snapshot.rows.values() if r.tenant == tenant)
        if not found["items"] and not there:
            raise NotFound(
                f"Nothing that is called {name!r} has used anything in the last {since}.",
                next_action="`skyriver cost list` shows what has; a longer time back is `--since 30d`.",
            )
        return _with_problem(found, cloud)

    def advised(
        request: Request,
        service: Annotated[str, Query(description="Only of this one; of all unless given.")] = "",
        declared: Annotated[
            str,
            Query(
                description="What it would do if it were declared so: JSON, as it is in a specification's `serve`.",
                max_length=4_000,
            ),
        ] = "",
    ) -> Advice:
        """What to declare instead, so that services cost less and are not late more often, verified by replaying
        their own histories; or what a declaration would have done with one. While it is not DONE it is to be asked
        again."""
        check_query(request, ("service", "declared"))
        snapshot, tenant = cloud.loop.snapshot(), caller(request).tenant
        if service:
            need(snapshot.find(tenant, "service", service), "service", service)
        if cloud.advisor is None:
            raise Unavailable("This control plane gives no advice.", next_action="Ask one that `skyriver up` started.")
        return cloud.advisor.advise(snapshot, tenant, service, _declared(declared, service) if declared else None)

    routes.add("GET", f"{TENANT}/advice", Permission.CLOUD_READ, advised, "advise_costs", errors=[404, 429])
    routes.add("GET", _PATH, Permission.CLOUD_READ, listed, "list_costs")
    routes.add("GET", f"{_PATH}/{{name:path}}", Permission.CLOUD_READ, one, "get_cost", errors=[404])


def _with_problem(found: contract.Costs, cloud: Cloud) -> contract.Costs:
    """And with why the operator's file of prices is not what these are by."""
    problem = cloud.prices.problem()
    if problem is None:
        return found
    return {**found, "notes": [*found["notes"], f"{problem} The prices before stay in force."]}


def _declared(text: str, service: str) -> dict[str, Any]:
    """Raises InvalidInput."""
    try:
        if not service:
            raise ValueError("say of which service")
        serve = ServiceSpec.model_validate_json(text)
    except (ValidationError, ValueError) as error:
        why, action = str(error), ""
        if isinstance(error, ValidationError):
            why, found = misread(error), error.errors()[0]
            action = hint(SERVICE, field_of(found), found.get("input"))
        raise InvalidInput(
            f"The declaration is not understood: {why}.",
            code="BAD_SPEC",
            where="declared",
            next_action=action or 'Write it as JSON, as {"replicas": [1, 4], "latency": "50ms"}, beside service=NAME.',
        ) from error
    check_service(serve, "The declaration")
    return serve.to_json()


def _period(since: str, now: int) -> Period:
    length = parse_duration(since, "a time to look back")
    if not HOUR <= length <= DAYS * DAY:
        raise InvalidInput(
            f"since={since!r}: costs are told for an hour to {DAYS} days back.",
            code="BAD_DURATION",
            next_action="Write it as 24h, 7d or 30d.",
        )
    return Period.last(length, now)
