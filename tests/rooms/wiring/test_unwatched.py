"""A canary that no control plane judges: its share is taken away, and given back by the next one."""

from __future__ import annotations

import pytest

from skyriver.control.gateway_rules import check_table, steadied
from skyriver.core.errors import InvalidInput, Unavailable
from skyriver.core.resources import Pool, Route, RouteTable
from skyriver.wiring import unwatched
from skyriver.wiring.simulation import SimulatedGateway
from skyriver.wiring.unwatched import Unwatched

CANARY = Route("t", "model", "price", (("price:1", 90), ("price:2", 10)), steady="price:1")
SPLIT = Route("t", "model", "offer", (("offer:1", 50), ("offer:2", 50)))
TABLE = RouteTable((CANARY, SPLIT), (Pool("t", "price:1", ()), Pool("t", "price:2", ())))


class Turns:
    """Looks, with what time it is and whether a control plane answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, turns: list[tuple[float, bool]]) -> None:
        self._left = list(turns)
        self._now, self._answers = 0.0, True
        monkeypatch.setattr(unwatched.time, "monotonic", lambda: self._now)

    def wait(self, seconds: float) -> bool:
        if not self._left:
            return True
        self._now, self._answers = self._left.pop(0)
        return False

    def judges(self) -> bool:
        return self._answers


def test_all_requests_go_to_what_is_known_to_be_good_and_splits_of_another_kind_stay() -> None:
    steady = steadied(TABLE)
    assert [route.split for route in steady.routes] == [(("price:1", 100),), SPLIT.split]
    assert steady.pools == TABLE.pools
    assert steadied(steady) == steady


@pytest.mark.parametrize(
    ("turns", "taken"),
    [
        ([(1.0, True), (25.0, False)], False),
        ([(1.0, True), (25.0, False), (32.0, False)], True),
        ([(1.0, True), (25.0, False), (29.0, True), (50.0, False)], False),
    ],
)
def test_half_a_minute_is_waited_for_a_control_plane(
    monkeypatch: pytest.MonkeyPatch, turns: list[tuple[float, bool]], taken: bool
) -> None:
    gateway, at = SimulatedGateway(), Turns(monkeypatch, turns)
    gateway.apply(TABLE)
    Unwatched(lambda: gateway, at.judges, at.wait).run()
    assert gateway.applied == (steadied(TABLE) if taken else TABLE)


def test_a_gateway_that_is_away_is_tried_again_and_one_that_is_steady_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway, tries = SimulatedGateway(), 0
    gateway.apply(TABLE)

    def reached() -> SimulatedGateway:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("It is away.", code="GATEWAY_AWAY", next_action="Wait.")
        return gateway

    at = Turns(monkeypatch, [(31.0, False), (32.0, False), (33.0, False)])
    Unwatched(reached, at.judges, at.wait).run()
    assert (tries, gateway.applied) == (3, steadied(TABLE))
    assert gateway.applications == 2


def test_what_is_known_to_be_good_has_a_share() -> None:
    with pytest.raises(InvalidInput, match="no part of the split"):
        check_table(RouteTable((Route("t", "model", "price", (("price:1", 100),), steady="price:2"),)))
