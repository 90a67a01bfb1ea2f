"""Routes that are made when they are first asked for.

FastAPI makes a route's models and reads its signature when it is added: 3 ms each, 0.6 s of CPU for all that there are,
of which a cloud asks for a few. What stands here knows a route's path and methods, and leaves everything else to the
route that it makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send


class LateRoute(BaseRoute):
    """A route of FastAPI, with the arguments of `APIRoute`. What is wrong with them is found when it is made."""

    def __init__(self, path: str, endpoint: Any, *, methods: Iterable[str], **arguments: Any) -> None:
        self.path = path
        self.methods = frozenset(methods)
        self.openapi_extra: Mapping[str, Any] = arguments.get("openapi_extra") or {}
        self._arguments = {"path": path, "endpoint": endpoint, "methods": list(self.methods), **arguments}
        words = path.split("/")
        self._length = len(words)
        self._open = path.endswith(":path}")
        """Its last parameter takes any number of words."""
        self._words = tuple((n, word) for n, word in enumerate(words) if "{" not in word)
        self._made: APIRoute | None = None

    @property
    def is_made(self) -> bool:
        return self._made is not None

    def made(self) -> APIRoute:
        if self._made is None:
            self._made = APIRoute(**self._arguments)
        return self._made

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or not self._may_match(scope["path"].split("/")):
            return Match.NONE, {}
        return self.made().matches(scope)

    def _may_match(self, asked: list[str]) -> bool:
        """False for most other paths, and without making anything."""
        if len(asked) != self._length and not (self._open and len(asked) > self._length):
            return False
        return all(asked[n] == word for n, word in self._words)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.made().handle(scope, receive, send)


def routes_of(api: FastAPI) -> list[APIRoute]:
    """All of them, made."""
    return [route.made() if isinstance(route, LateRoute) else route for route in api.routes]  # type: ignore[misc]
