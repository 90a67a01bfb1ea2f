"""The calls for what things cost."""

from __future__ import annotations

from skyriver.client.flows import Flow, Request, call
from skyriver.client.tenant_calls import TenantCalls, part
from skyriver.client.waiting import answered
from skyriver.core.contract_prices import Price, PriceList


class CostCalls(TenantCalls):
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
