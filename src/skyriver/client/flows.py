"""Calls as flows: what is to be sent and waited for, written once, and run by two short drivers.

A flow is a generator. It yields what it needs (a `Request`, a `Pause`, to `Listen`), is given the answer or has the
error raised in it, and returns the call's result; one that gives many yields an `Item` for each. It does no I/O itself,
so that `Blocking` and `Awaiting` need no second text of any call. `call` and `each` make methods of flows, which type
checkers see as `T` or `Iterator[T]` on the one, and as a coroutine of `T` or `AsyncIterator[T]` on the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import httpx

from skyriver.core.errors import SkyriverError, Unavailable, from_problem

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT = httpx.Timeout(40.0, connect=5.0)
"""Longer than a run of a model may take: what the replica says of one that was ended is heard."""
PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class FileBody:
    """A file that is sent piece by piece, read anew each time."""

    path: Path
    progress: Callable[[int, int], None] | None = None
    """(bytes sent, bytes in all)."""

    def pieces(self) -> Iterator[bytes]:
        total, sent = self.path.stat().st_size, 0
        with self.path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
                sent += len(piece)
                if self.progress is not None:
                    self.progress(sent, total)

    async def pieces_without_blocking(self) -> AsyncIterator[bytes]:
        pieces = self.pieces()
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece


@dataclass(frozen=True, slots=True)
class Request:
    """Answered with the httpx.Response, which is a success."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | FileBody | None = None

    def options(self) -> dict[str, Any]:
        timeout = {"timeout": None} if isinstance(self.content, FileBody) else {}
        return {"params": dict(self.params) or None, "headers": dict(self.headers), **timeout}


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True)
class ServerEvent:
    id: str
    data: str


@dataclass(frozen=True, slots=True)
class Listen:
    """Server-sent events from `path`, until `told` says that it is enough, the server ends them, or nothing, not even a
    sign of life, came for `silence` seconds (Unavailable). `told` gets None for a sign of life."""

    path: str
    last: str
    told: Callable[[ServerEvent | None], bool]
    silence: float

    def options(self) -> dict[str, Any]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self.last} if self.last else {})
        return {"headers": headers, "timeout": httpx.Timeout(self.silence, connect=5.0)}


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """One of the things that a flow gives."""

    value: T


Effect = Request | Pause | Listen
Flow = Generator[Effect, Any, T]
Items = Generator[Effect | Item[T], Any, None]


class Blocking:
    """Runs flows in the caller's thread."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, **options)

    def run(self, flow: Flow[T]) -> T:
        advance: Callable[[], Effect] = partial(next, flow)
        try:
            while True:
                effect = advance()
                try:
                    advance = partial(flow.send, self._do(effect))
                except SkyriverError as error:
                    advance = partial(flow.throw, error)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            flow.close()

    def run_items(self, flow: Items[T]) -> Iterator[T]:
        advance: Callable[[], Effect | Item[T]] = partial(next, flow)
        try:
            while True:
                effect = advance()
                if isinstance(effect, Item):
                    yield effect.value
                    advance = partial(next, flow)
                    continue
                try:
                    advance = partial(flow.send, self._do(effect))
                except SkyriverError as error:
                    advance = partial(flow.throw, error)
        except StopIteration:
            return
        finally:
            flow.close()

    def _do(self, effect: Effect) -> httpx.Response | None:
        try:
            match effect:
                case Pause(seconds):
                    time.sleep(seconds)
                    return None
                case Listen():
                    self._listen(effect)
                    return None
                case Request(content=body):
                    options = effect.options()
                    options["content"] = body.pieces() if isinstance(body, FileBody) else body
                    return checked(self._http.request(effect.method, effect.path, **options), effect.path)
        except httpx.TransportError as error:
            raise away(self.url, error) from error

    def _listen(self, listen: Listen) -> None:
        with self._http.stream("GET", listen.path, **listen.options()) as response:
            if not response.is_success:
                response.read()
                checked(response, listen.path)
            reader = EventReader()
            for piece in response.iter_bytes():
                if any(listen.told(event) for event in reader.feed(piece)):
                    return


class Awaiting:
    """Runs flows on asyncio."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = url
        self._http = httpx.AsyncClient(base_url=url, **options)

    async def run(self, flow: Flow[T]) -> T:
        advance: Callable[[], Effect] = partial(next, flow)
        try:
            while True:
                effect = advance()
                try:
                    advance = partial(flow.send, await self._do(effect))
                except SkyriverError as error:
                    advance = partial(flow.throw, error)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            flow.close()

    async def run_items(self, flow: Items[T]) -> AsyncIterator[T]:
        advance: Callable[[], Effect | Item[T]] = partial(next, flow)
        try:
            while True:
                effect = advance()
                if isinstance(effect, Item):
                    yield effect.value
                    advance = partial(next, flow)
                    continue
                try:
                    advance = partial(flow.send, await self._do(effect))
                except SkyriverError as error:
                    advance = partial(flow.throw, error)
        except StopIteration:
            return
        finally:
            flow.close()

    async def _do(self, effect: Effect) -> httpx.Response | None:
        try:
            match effect:
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                    return None
                case Listen():
                    await self._listen(effect)
                    return None
                case Request(content=body):
                    options = effect.options()
                    options["content"] = body.pieces_without_blocking() if isinstance(body, FileBody) else body
                    return checked(await self._http.request(effect.method, effect.path, **options), effect.path)
        except httpx.TransportError as error:
            raise away(self.url, error) from error

    async def _listen(self, listen: Listen) -> None:
        async with self._http.stream("GET", listen.path, **listen.options()) as response:
            if not response.is_success:
                await response.aread()
                checked(response, listen.path)
            reader = EventReader()
            async for piece in response.aiter_bytes():
                if any(listen.told(event) for event in reader.feed(piece)):
                    return


class call(Generic[P, T]):  # noqa: N801  # it reads as a decorator
    """A method of a flow: gives its result on `Blocking`, a coroutine of it on `Awaiting`."""

    def __init__(self, flow: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self.flow = flow
        update_wrapper(self, flow)  # type: ignore[arg-type]  # for help() and signatures

    @overload
    def __get__(self, instance: None, owner: type) -> call[P, T]: ...
    @overload
    def __get__(self, instance: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: Awaiting, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, instance: Blocking | Awaiting | None, owner: type) -> Any:
        if instance is None:
            return self
        return lambda *given, **named: instance.run(self.flow(instance, *given, **named))


class each(Generic[P, T]):  # noqa: N801
    """A method of a flow that gives many: an iterator on `Blocking`, an asynchronous one on `Awaiting`."""

    def __init__(self, flow: Callable[Concatenate[Any, P], Items[T]]) -> None:
        self.flow = flow
        update_wrapper(self, flow)  # type: ignore[arg-type]

    @overload
    def __get__(self, instance: None, owner: type) -> each[P, T]: ...
    @overload
    def __get__(self, instance: Blocking, owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, instance: Awaiting, owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, instance: Blocking | Awaiting | None, owner: type) -> Any:
        if instance is None:
            return self
        return lambda *given, **named: instance.run_items(self.flow(instance, *given, **named))


class EventReader:
    """Server-sent events out of bytes that come in any pieces; None for a comment, which is a sign of life."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[ServerEvent | None]:
        *blocks, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            fields: dict[str, str] = {}
            for line in block.decode().split("\n"):
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value
            yield ServerEvent(fields.get("id", ""), fields["data"]) if "data" in fields else None


def checked(response: httpx.Response, path: str) -> httpx.Response:
    """`response` itself, if it is a success. Raises what its problem document says."""
    if response.is_success:
        return response
    failed = from_problem(response.status_code, _problem(response))
    if failed.code in ("UNKNOWN_ROUTE", "NO_CAPACITY"):  # the gateway knows no names
        failed.where = path
    raise failed


_TIMED_OUT = "Send it again, or less at once; `skyriver explain NAME` tells how long a model takes and what waits."


def away(url: str, error: httpx.TransportError) -> Unavailable:
    if isinstance(error, httpx.TimeoutException):
        return Unavailable(f"{url} did not answer in time.", code="TIMED_OUT", next_action=_TIMED_OUT)
    return Unavailable(
        f"{url} does not answer: {error}.", code="CLOUD_AWAY", next_action="`skyriver up` starts the cloud."
    )


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        found = None
    if isinstance(found, dict):
        return {"detail": found.get("error", ""), **found} if "detail" not in found else found
    return {"detail": f"The server answered {response.status_code}: {response.text[:200]}"}
