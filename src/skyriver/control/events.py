"""Server-sent events of operations.

One task serves all who listen. While there is any, it looks at the store's revision, asks what changed since (so that
it also sees what another process wrote), and puts each changed row into its listeners' places. A place holds the newest
row only: who reads slowly misses steps between and never the end, holds nobody up and fills no queue.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Header, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

from skyriver.control.paging import document
from skyriver.control.routes import TENANT, Routes, caller
from skyriver.control.store import Store
from skyriver.core.errors import NotFound, QuotaExceeded, SkyriverError, Unavailable
from skyriver.core.jobs import ENDED
from skyriver.core.resources import Key, Resource
from skyriver.trust.permissions import Permission

LISTENERS = 256
"""At a time, in one cloud."""
LOOK_SECONDS = 0.025
HEARTBEAT_SECONDS = 5.0
"""Of silence, after which a comment is sent: whoever waits sees that somebody is there."""
_STREAM = {"text/event-stream": {"schema": {"type": "string", "description": "Events `state` and `progress`."}}}


Found = tuple[Key, Resource | None]


class Place:
    """Where a listener finds the newest row; None when it was deleted, or nothing more will come."""

    def __init__(self) -> None:
        self.row: Resource | None = None
        self.news = asyncio.Event()

    def put(self, row: Resource | None) -> None:
        self.row = row
        self.news.set()


class Watch:
    """All methods are called in the server's event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._places: dict[Key, set[Place]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def count(self) -> int:
        return sum(map(len, self._places.values()))

    def close(self) -> None:
        """Ends all streams, so that the server can end."""
        self._closed = True
        self._end_all()

    def _end_all(self) -> None:
        for places in self._places.values():
            for place in places:
                place.put(None)

    async def follow(self, key: Key, seen: int) -> AsyncIterator[Resource | None]:
        """The row whenever it was found changed, from now on or, when it is past revision `seen`, at once; None after
        HEARTBEAT_SECONDS of silence. Ends with a final state, and when the row is gone."""
        place = Place()
        self._places.setdefault(key, set()).add(place)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            row: Resource | None = await run_in_threadpool(self._find, key)
            while row is not None and not self._closed:
                if row.revision > seen:
                    seen = row.revision
                    yield row
                if row.state in ENDED:
                    return
                while not await _within(place.news, HEARTBEAT_SECONDS):
                    yield None
                place.news.clear()
                row = place.row
        finally:
            self._places[key].discard(place)
            if not self._places[key]:
                del self._places[key]

    async def _look(self) -> None:
        """Tells each place what changes. A place that is made meanwhile misses nothing: it is there before its listener
        reads the row, and who has a place is looked up after the changes were read."""
        seen = -1
        while self._places:
            try:
                after, changed = await run_in_threadpool(self._changed, seen)
                if changed is None:  # of all who listen by now; who comes later reads its row after that revision too
                    changed = await run_in_threadpool(self._find_all, list(self._places))
            except Unavailable:  # the store is away: what changed is seen when it is back
                pass
            except SkyriverError:  # whoever asks again is told what is wrong
                self._end_all()
                return
            else:
                seen = after
                for key, row in changed:
                    for place in self._places.get(key, ()):
                        place.put(row)
            await asyncio.sleep(LOOK_SECONDS)

    def _changed(self, seen: int) -> tuple[int, list[Found] | None]:
        """What changed after revision `seen`, and up to which; None when more did than is kept, or nothing was seen."""
        revision = self._store.revision()
        if revision == seen:
            return seen, []
        changes = self._store.since(seen) if seen >= 0 else None
        if changes is None:
            return revision, None
        gone: list[Found] = [(key, None) for key in changes.gone]
        return changes.revision, [*((row.key, row) for row in changes.rows), *gone]

    def _find_all(self, keys: list[Key]) -> list[Found]:
        return [(key, self._find(key)) for key in keys]

    def _find(self, key: Key) -> Resource | None:
        try:
            return self._store.get(*key)
        except NotFound:
            return None


async def _within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def add_events(routes: Routes, store: Store, watch: Watch) -> None:
    async def events(
        request: Request,
        name: str,
        last_event_id: Annotated[
            str, Header(alias="Last-Event-ID", pattern="^[0-9]{0,18}$", description="Goes on after this event.")
        ] = "",
    ) -> Response:
        """An operation as it goes on: an event `state` when its state changed, `progress` otherwise, with the whole
        operation as JSON and its revision as id. Ends after the final state; 204 when that was seen already. A comment
        comes in every five seconds of silence."""
        key = (caller(request).tenant, "operation", name)
        row = await run_in_threadpool(store.get, *key)
        seen = int(last_event_id or 0)
        if row.state in ENDED and row.revision <= seen:
            return Response(status_code=204)
        if watch.count >= LISTENERS:
            raise QuotaExceeded(
                f"{LISTENERS} callers listen to operations already.",
                code="TOO_MANY_LISTENERS",
                next_action="Ask for the operation itself from time to time, or try again.",
            )
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(_stream(watch, key, seen), media_type="text/event-stream", headers=headers)

    routes.add(
        "GET",
        f"{TENANT}/operations/{{name}}/events",
        Permission.JOBS_READ,
        events,
        "watch_operation",
        errors=[204, 404, 429],
        content=_STREAM,
    )


async def _stream(watch: Watch, key: Key, seen: int) -> AsyncIterator[bytes]:
    state = ""
    yield b": listening\n\n"
    async for row in watch.follow(key, seen):
        if row is None:
            yield b": still here\n\n"
            continue
        event = "progress" if row.state == state else "state"
        state = row.state
        data = json.dumps(document(row), default=dict, separators=(",", ":"))
        yield f"id: {row.revision}\nevent: {event}\ndata: {data}\n\n".encode()
