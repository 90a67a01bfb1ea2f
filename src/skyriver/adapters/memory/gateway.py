"""The twin of the gateway: a small HTTP proxy in threads of this process, simple and correct, not fast."""

from __future__ import annotations

import errno
import hashlib
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from skyriver.adapters.memory.gateway_proxy import Listener
from skyriver.control import gateway_rules as rules
from skyriver.control.gateway_rules import Answer, check_socket, check_table, placed
from skyriver.control.outliers import FULL, TRIAL, Answered, Outliers
from skyriver.core.errors import Conflict
from skyriver.core.resources import NO_LIMIT, Pool, RequestLimit, Route, RouteTable, Server

RATE_SECONDS = 1.0


class MemoryGateway:
    """The `Gateway` port in memory. Its table stands in the object, as the other's stands on the disk: `crash` and
    `start` give the same routes again."""

    def __init__(self, *, port: int, control_socket: Path, address: str = "127.0.0.1", seed: int = 0) -> None:
        self._address = (address, port)
        self._control_socket = check_socket(str(control_socket))
        self._lock = threading.Lock()
        self._table = RouteTable()
        self._requests: dict[Server, int] = {}
        """Under way, of all servers of the table and of those that still have some."""
        self._under_way: Counter[str] = Counter()
        """Requests by what limits them: TENANT/kind/NAME, and TENANT."""
        self._admitted: dict[str, deque[float]] = {}
        """The same, when each of the last second was let in."""
        self._answered: dict[Server, Answered] = {}
        self._outliers = Outliers()
        self._random = random.Random(seed)
        self._server: Listener | None = None

    def start(self) -> None:
        if self._server is not None:
            return
        try:
            self._server = Listener(self._address, self)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise Conflict(
                f"Port {self._address[1]} is in use.",
                code="PORT_IN_USE",
                next_action="Choose another one with `--port`, or end what uses it.",
            ) from error

    def apply(self, table: RouteTable) -> Sequence[Pool]:
        check_table(table)
        with self._lock:
            self._table = table
            listed = {server for pool in table.pools for server in placed(pool)}
            under_way = {server: count for server, count in self._requests.items() if count}
            self._requests = dict.fromkeys(listed, 0) | under_way
            self._answered = {server: self._answered.get(server, Answered()) for server in self._requests}
        return ()

    def table(self) -> RouteTable:
        with self._lock:
            return self._table

    def sessions(self) -> Mapping[str, int]:
        with self._lock:
            counts: dict[str, int] = {}
            for server, count in self._requests.items():
                counts[server.name] = counts.get(server.name, 0) + count
            return counts

    def look(self) -> Mapping[str, int]:
        with self._lock:
            pools = []
            for pool in self._table.pools:
                at = {(pool.tenant, pool.name, s.name): s for s in placed(pool)}
                pools.append({str(key): replace(self._answered[s], waiting=self._requests[s]) for key, s in at.items()})
            servers = {str((p.tenant, p.name, s.name)): s for p in self._table.pools for s in placed(p)}
            weights = self._outliers.look(time.monotonic_ns() // 1000, pools)
            for name, weight in weights.items():
                self._answered[servers[name]] = replace(self._answered[servers[name]], weight=weight)
            return {servers[name].name: weight for name, weight in weights.items() if weight < FULL}

    def crash(self) -> None:
        """Ends at once, cutting what is under way, as a killed process does."""
        if self._server is not None:
            self._server.end()
            self._server = None

    stop = crash

    # What the proxy asks.

    @property
    def control_socket(self) -> str:
        return self._control_socket

    def tenant(self, authorization: str) -> tuple[str, bool] | None:
        """The token's tenant, and whether it may only look at streams; None for a token that nobody issued."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest, table = hashlib.sha256(token.strip().encode()).hexdigest(), self._table
        found = (tenant for known, tenant in table.tokens if known == digest)
        return next(((tenant, digest in table.read_only) for tenant in found), None)

    def admit(self, tenant: str, path: str) -> tuple[str, ...] | Answer:
        """By which names the request is counted until `leave`, or the answer if it may not go on."""
        with self._lock:
            route = self._route(tenant, path)
            of: dict[str, RequestLimit] = {}
            if route is not None and route.limit != NO_LIMIT:
                of[f"{tenant}/{route.kind}/{route.name}"] = route.limit
            of |= {name: limit for name, limit in self._table.limits if name == tenant}
            for name, limit in of.items():
                if limit.at_once and self._under_way[name] >= limit.at_once:
                    return rules.TOO_MANY_AT_ONCE
                if limit.per_second and self._in_last_second(name) >= limit.per_second:
                    return rules.RATE_LIMITED
            for name in of:
                self._admitted.setdefault(name, deque()).append(time.monotonic())
                self._under_way[name] += 1
            return tuple(of)

    def leave(self, counted: tuple[str, ...]) -> None:
        with self._lock:
            self._under_way.subtract(counted)

    def take(self, tenant: str, path: str, tried: Collection[Server]) -> Server | Answer:
        """A server for the request, counted as busy from now on, or the answer when there is none."""
        with self._lock:
            pools = self._pools(tenant, path)
            if pools is None:
                return rules.UNKNOWN_ROUTE
            left = [[s for s in placed(pool) if s not in tried] for pool in pools]
            free = ([s for s in servers if self._may_have_one(s)] for servers in left)
            # One that is out is better than none.
            servers = next((some for some in (*free, *left) if some), None)
            if servers is None:
                return rules.NO_CAPACITY
            server = min(servers, key=lambda one: (self._requests[one] + 1) / max(1, self._answered[one].weight))
            self._requests[server] += 1
            return server

    def _may_have_one(self, server: Server) -> bool:
        weight = self._answered[server].weight
        return weight > TRIAL or (weight > 0 and not self._requests[server])

    def give_back(self, server: Server, took: float | None, *, failed: bool) -> None:
        """`took`: seconds until its answer began; None when there was none."""
        with self._lock:
            self._requests[server] -= 1
            if server in self._answered:
                known = self._answered[server]
                self._answered[server] = replace(
                    known,
                    answers=known.answers + (took is not None),
                    microseconds=known.microseconds + round((took or 0.0) * 1e6),
                    failures=known.failures + failed,
                )
            if not self._requests[server] and not any(server in pool.servers for pool in self._table.pools):
                del self._requests[server]
                self._answered.pop(server, None)

    def _in_last_second(self, name: str) -> int:
        times = self._admitted.setdefault(name, deque())
        while times and times[0] < time.monotonic() - RATE_SECONDS:
            times.popleft()
        return len(times)

    def _pools(self, tenant: str, path: str) -> list[Pool] | None:
        """The pools that may take a request, in the order to try; None without a route."""
        match path.split("/")[1:]:
            case ["v2", "models", name, "versions", version, *_]:
                pool = _pool(self._table, tenant, f"{name}:{version}")
                return None if pool is None else [pool]
        route = self._route(tenant, path)
        return None if route is None else list(self._chosen(route))

    def _route(self, tenant: str, path: str) -> Route | None:
        match path.split("/")[1:]:
            case ["v2", "models", name, *_] | ["predict", name, *_]:
                kind = "model"
            case ["streams", name, *_]:
                kind = "stream"
            case _:
                return None
        return next((r for r in self._table.routes if (r.tenant, r.kind, r.name) == (tenant, kind, name)), None)

    def _chosen(self, route: Route) -> Iterator[Pool]:
        parts = sorted((part for part in route.split if part[1]), key=lambda part: -part[1])
        if parts:
            chosen = self._random.choices(parts, [weight for _, weight in parts])[0]
            parts = [chosen, *(part for part in parts if part != chosen)]
        for name, _ in parts:
            if (pool := _pool(self._table, route.tenant, name)) is not None:
                yield pool


def _pool(table: RouteTable, tenant: str, name: str) -> Pool | None:
    return next((p for p in table.pools if (p.tenant, p.name) == (tenant, name)), None)
