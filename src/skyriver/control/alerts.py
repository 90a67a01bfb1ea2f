"""The routes of alerts: who is told of incidents, and whether that works. Receivers are files of the cloud's machine,
as those of decisions are: whoever may call this must not make the cloud send to wherever he likes."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request

from skyriver.control.cloud import Cloud
from skyriver.control.mutations import Mutations, Planned, make_call
from skyriver.control.paging import check_query
from skyriver.control.routes import TENANT, Routes, caller
from skyriver.core import contract_alerts as contract
from skyriver.core.errors import NotFound
from skyriver.core.resources import Snapshot
from skyriver.trust.permissions import Permission

_PATH = f"{TENANT}/alerts"


def add_alerts(routes: Routes, cloud: Cloud, mutations: Mutations) -> None:
    def listed(request: Request) -> contract.AlertList:
        """The receivers of messages about incidents."""
        check_query(request, ())
        return {"items": _all(cloud, caller(request).tenant)}

    def one(request: Request, name: str) -> contract.Alert:
        """One receiver, and whether it took the last message."""
        return _find(cloud, caller(request).tenant, name)

    def test(request: Request, name: str) -> contract.AlertTested:
        """Sends it a message that says that it is a test. Not repeated by itself."""
        tenant = caller(request).tenant
        _find(cloud, tenant, name)

        def plan(snapshot: Snapshot) -> Planned:
            return Planned([], {}, {})

        mutations.carry_out(make_call(request, Permission.SERVICES_WRITE, "test_alert", f"alert/{name}", "", ""), plan)
        assert cloud.alerts is not None
        return cloud.alerts.test(tenant, name)

    routes.add("GET", _PATH, Permission.SERVICES_READ, listed, "list_alerts")
    routes.add("GET", f"{_PATH}/{{name}}", Permission.SERVICES_READ, one, "get_alert", errors=[404])
    routes.add("POST", f"{_PATH}/{{name}}/test", Permission.SERVICES_WRITE, test, "test_alert", errors=[404])


def _all(cloud: Cloud, tenant: str) -> Sequence[contract.Alert]:
    return cloud.alerts.list(tenant) if cloud.alerts is not None else ()


def _find(cloud: Cloud, tenant: str, name: str) -> contract.Alert:
    found = next((alert for alert in _all(cloud, tenant) if alert["name"] == name), None)
    if found is None:
        raise NotFound(
            f"There is no alert {name!r}.",
            next_action="`skyriver alert list` shows all; a file HOME/alerts/TENANT/NAME.toml makes one.",
        )
    return found
