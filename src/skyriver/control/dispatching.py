"""What is asked of a stream's dispatcher, which has its own state: the API hands it on to the process, over its socket.

A request that changes something is written into the audit trail first, and refused where that cannot be done; then it
is handed on with its key, by which the dispatcher does it once (DESIGN 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request

from skyriver.control.cloud import Cloud
from skyriver.control.mutations import Mutations, Planned, make_call
from skyriver.control.routes import Routes, caller
from skyriver.core.errors import NotFound, Unavailable
from skyriver.core.resources import Snapshot, need
from skyriver.trust.permissions import Permission


class Dispatchers:
    """The dispatchers of the caller's tenant."""

    def __init__(self, cloud: Cloud, mutations: Mutations) -> None:
        self._cloud = cloud
        self._mutations = mutations

    def look(self, request: Request, stream: str, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The answer to a GET. Raises NotFound (also NO_DISPATCHER), Unavailable (DISPATCHER_AWAY, PROCESS_AWAY), and
        what the dispatcher answers."""
        socket = self._socket(self._cloud.loop.snapshot(), caller(request).tenant, stream)
        return self._cloud.asker.ask(socket, "GET", path, query=query)

    def change(
        self,
        request: Request,
        permission: Permission,
        action: str,
        stream: str,
        path: str,
        body: Mapping[str, Any],
        key: str,
        asked: str,
    ) -> Any:
        """The answer to a POST; `action` and the path stand in the audit trail. Raises as `look`."""
        tenant, who = caller(request).tenant, caller(request).name

        def plan(snapshot: Snapshot) -> Planned:
            self._socket(snapshot, tenant, stream)
            return Planned([], {}, {"path": path, **body})

        self._mutations.carry_out(make_call(request, permission, action, f"stream/{stream}", key, asked), plan)
        socket = self._socket(self._cloud.loop.snapshot(), tenant, stream)
        headers = {"x-actor": who, "idempotency-key": key}
        return self._cloud.asker.ask(socket, "POST", path, headers=headers, body=body)

    def _socket(self, snapshot: Snapshot, tenant: str, name: str) -> str:
        stream = need(snapshot.find(tenant, "stream", name), "stream", name)
        dispatcher = snapshot.find(tenant, "dispatcher", name)
        if dispatcher is None:
            raise NotFound(
                f"Nothing acts on decisions of {stream.name}: it declares no sinks and no reviews.",
                code="NO_DISPATCHER",
                next_action="Declare some: app.decide(...).sink(...) or .review(...), and deploy.",
            )
        process = snapshot.processes.get(dispatcher.process)
        if process is None or not process.alive or not process.socket:
            raise Unavailable(
                f"The dispatcher of {name} is away. {dispatcher.message}".strip(),
                code="DISPATCHER_AWAY",
                where=dispatcher.ref,
                next_action=dispatcher.next_action or "Try again in some seconds: it is started again by itself.",
            )
        return process.socket


def add_dispatching(routes: Routes, dispatchers: Dispatchers) -> None:
    """What all dispatchers answer."""
