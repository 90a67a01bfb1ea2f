"""The calls for what things cost."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from skyriver.client.flows import Flow, Pause, Request, call
from skyriver.client.tenant_calls import TenantCalls, part
from skyriver.client.waiting import answered
from skyriver.core.contract_advice import Advice
from skyriver.core.contract_costs import Costs
from skyriver.core.contract_prices import Price, PriceList
from skyriver.core.errors import Unavailable

ASK_AGAIN_S: Final = 0.5


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
    def advice(
        self,
        service: str = "",
        *,
        declared: Mapping[str, Any] | None = None,
        told: Callable[[float], None] | None = None,
        seconds: float = math.inf,
    ) -> Flow[Advice]:
        """What to declare instead so that services, or one, cost less; or what one would have done if it were
        `declared` so, as in `sr.Service(...).to_json()`. It waits until it is done, some seconds a
        service; `told` is called with the share that is done. Raises NotFound; Unavailable (NOT_FINISHED) after
        `seconds`, or (NO_ADVICE) where none can be given; of some services alone, `failed` says why."""
        until = time.monotonic() + seconds
        while True:
            params = {"service": service} if service else {}
            if declared is not None:
                params["declared"] = json.dumps(declared)
            answer: Advice = yield from answered(Request("GET", f"{self._base}/advice", params=params))
            if told is not None:
                told(answer["done"])
            if answer["state"] not in ("WAITING", "REPLAYING"):
                return answer
            if time.monotonic() >= until:
                raise Unavailable(
                    f"The replay of {service or 'all services'} is not done within {seconds:.0f} s.",
                    code="NOT_FINISHED",
                    next_action="Ask again later: others may be replayed before it.",
                )
            yield Pause(ASK_AGAIN_S)

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
