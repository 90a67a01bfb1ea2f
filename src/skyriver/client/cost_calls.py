"""The calls for what things cost."""

from __future__ import annotations

from skyriver.client.flows import Flow, Request, call
from skyriver.client.tenant_calls import TenantCalls, part
from skyriver.client.waiting import answered
from skyriver.core.contract_costs import Costs
from skyriver.core.contract_prices import Price, PriceList


class CostCalls(TenantCalls):
    @call
    def costs(self, *, since: str = "7d", by: str = "item") -> Flow[Costs]:
        """What everything cost in the last `since`, the dearest first; a line is of an item (a service, stream, job,
        ...), an app, a kind, or, for who steers the cloud, a tenant."""
        params = {"since": since, "by": by}
        answer: Costs = yield from answered(Request("GET", f"{self._base}/costs", params=params))
        return answer

    @call
    def cost(self, name: str, *, since: str = "24h") -> Flow[Costs]:
        """What all things of a name (or kind/name) cost, with `hours`. Raises NotFound."""
        path = f"{self._base}/costs/{part(name, '/')}"
        answer: Costs = yield from answered(Request("GET", path, params={"since": since}))
        return answer

    @call
    def prices(self) -> Flow[PriceList]:
        """The prices in force, and why the operator's file is not, if it is not."""
        answer: PriceList = yield from answered(Request("GET", f"{self._base}/prices"))
        return answer

    @call
    def price(self, name: str) -> Flow[Price]:
        """What one resource costs. Raises NotFound."""
        answer: Price = yield from answered(Request("GET", f"{self._base}/prices/{part(name)}"))
        return answer
