"""Routes that are made when they are asked for answer as routes that were made before."""

from __future__ import annotations

from api_stage import Stage

from skyriver.control.late import LateRoute, routes_of


def made(stage: Stage) -> set[str]:
    """The paths whose routes are made."""
    return {route.path for route in stage.api.routes if isinstance(route, LateRoute) and route.is_made}


def test_none_is_made_until_it_is_asked_for(stage: Stage, admin: dict[str, str]) -> None:
    assert made(stage) == set()
    assert stage.caller.get("/api/v1/tenants/default/streams", headers=admin).status_code == 200
    assert made(stage) == {"/api/v1/tenants/{tenant}/streams"}
    assert stage.caller.get("/api/v1/nothing").status_code == 404
    assert made(stage) == {"/api/v1/tenants/{tenant}/streams"}


def test_a_method_that_a_path_has_not_is_refused_as_such(stage: Stage, admin: dict[str, str]) -> None:
    answer = stage.caller.request("DELETE", "/api/v1/tenants/default/streams", headers=admin)
    assert (answer.status_code, answer.json()["code"]) == (405, "UNKNOWN_ROUTE")


def test_each_path_finds_the_route_that_it_found_when_all_were_made(stage: Stage) -> None:
    routes = routes_of(stage.api)
    for late in stage.api.routes:
        assert isinstance(late, LateRoute)
        for filled in (late.path.format_map(Filled("x")), late.path.format_map(Filled("x/y"))):
            for method in ("GET", "POST", "PUT", "DELETE"):
                scope = {"type": "http", "path": filled, "method": method, "root_path": "", "headers": []}
                found = [route.matches(scope)[0] for route in routes]
                assert [route.matches(scope)[0] for route in stage.api.routes] == found, (method, filled)


class Filled(dict[str, str]):
    """Every parameter of a path, with one value."""

    def __init__(self, value: str) -> None:
        super().__init__()
        self._value = value

    def __missing__(self, name: str) -> Filled:
        return self

    def __format__(self, kind: str) -> str:
        return self._value if kind == "path" else self._value.replace("/", ".")
