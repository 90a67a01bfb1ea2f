"""A route table laid on HAProxy's backend slots: which pool has which slot, and what the maps say. Pure.

HAProxy cannot add a backend while it runs, so it starts with SLOTS empty ones; a pool keeps the slot that it has, and
servers are added to slots. `routes.map` holds everything that chooses a slot, so that one commit swaps all of it:

    TENANT/model/NAME           slot_007            one pool has all the weight
                                split               several have: look up the key with a random bucket behind it
                                none                the route is known and nothing serves it now
                                full                the same: there was no slot for what would serve it
    TENANT/model/NAME/0 .. 99   slot_007:slot_003   the bucket's pool, then the others to fall back on while it is down
    TENANT/version/NAME/V       slot_003            straight to a version
    TENANT/stream/NAME          slot_001
    TENANT/model/NAME/limits    100:32              requests a second, and at once; 0 is no limit; no key, no limits
    TENANT/limits               1000:0

Where limits hold, `:limited` stands behind what chooses a slot (slot_007:limited), so that only such requests look for
their limits.

No part of a key can hold a slash (names are checked, and a path is cut at its slashes), so no path can say more than
its name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from skyriver.control.gateway_rules import placed
from skyriver.core.resources import NO_LIMIT, Pool, RequestLimit, Route, RouteTable, Server

SLOTS = 512
TENANT_SLOTS = SLOTS * 3 // 4
"""For one tenant; the others are never without."""
FULL = "full"
BUCKETS = 100
CHOICES = 3
"""Slots tried for one request: the bucket's own, then the heaviest others."""

READ_ONLY = "/read_only"
LIMITS = "/limits"
LIMITED = ":limited"

PoolKey = tuple[str, str]
"""(tenant, name)."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A server as HAProxy knows it: the slot's name, and the server's name with a mark of its socket behind it, so
    that another socket under the same name is another server."""

    slot: str
    server: str

    def __str__(self) -> str:
        return f"{self.slot}/{self.server}"

    @property
    def name(self) -> str:
        """The name of the Server."""
        return self.server.partition(":")[0]


def slot_name(slot: int) -> str:
    return f"slot_{slot:03d}"


def place(slot: int, server: Server) -> Place:
    return Place(slot_name(slot), f"{server.name}:{hashlib.sha256(server.socket.encode()).hexdigest()[:8]}")


def assign(before: Mapping[PoolKey, int], pools: Sequence[Pool], occupied: Collection[str]) -> dict[PoolKey, int]:
    """A slot for each pool that gets one: the one it has, else the lowest that nobody has and that no draining server
    is in. Where there are too few, whoever has the fewest goes first, and nobody gets more than TENANT_SLOTS.

    `occupied`: names of slots that hold servers.
    """
    wanted = [(pool.tenant, pool.name) for pool in pools]
    after = {key: before[key] for key in wanted if before.get(key, SLOTS) < SLOTS}
    taken = set(after.values())
    free = (slot for slot in range(SLOTS) if slot not in taken and slot_name(slot) not in occupied)
    counts = Counter(tenant for tenant, _ in after)
    waiting: list[tuple[int, PoolKey]] = []
    for key in wanted:
        if key not in after:
            counts[key[0]] += 1
            waiting.append((counts[key[0]], key))
    waiting.sort(key=lambda one: one[0])
    after.update(zip((key for count, key in waiting if count <= TENANT_SLOTS), free, strict=False))
    return after


def servers(table: RouteTable, slots: Mapping[PoolKey, int]) -> dict[Place, Server]:
    """Each server that should take requests, by its place."""
    return {
        place(slots[pool.tenant, pool.name], server): server for pool in _laid(table, slots) for server in placed(pool)
    }


def _laid(table: RouteTable, slots: Mapping[PoolKey, int]) -> Iterator[Pool]:
    return (pool for pool in table.pools if (pool.tenant, pool.name) in slots)


def tokens_map(table: RouteTable) -> dict[str, str]:
    """Digest -> tenant, and the digest with READ_ONLY behind it for a token that may only look; HAProxy's `hex` writes
    capital letters. In one map, so that a token and what it may do change in one commit; and as a key more, which a
    HAProxy that an older release configured, and this one has not replaced yet, never asks for."""
    tenants = {digest.upper(): tenant for digest, tenant in sorted(table.tokens)}
    return tenants | {digest.upper() + READ_ONLY: tenants[digest.upper()] for digest in sorted(table.read_only)}


def routes_map(table: RouteTable, slots: Mapping[PoolKey, int], processes: int = 1) -> dict[str, str]:
    """`processes`: how many HAProxy share the address. Each counts by itself, so each gets its part of a limit."""
    entries: dict[str, str] = {}
    marks: dict[PoolKey, str] = {}
    tenants = {tenant for tenant, limit in table.limits if limit != NO_LIMIT}
    names = {(pool.tenant, pool.name): FULL for pool in table.pools}
    names |= {key: slot_name(slot) for key, slot in slots.items()}
    for route in table.routes:
        mark = LIMITED if route.limit != NO_LIMIT or route.tenant in tenants else ""
        if route.kind == "model":
            marks[route.tenant, route.name] = mark
        entries.update(_entries(route, names, mark))
        entries.update(_limits(f"{route.tenant}/{route.kind}/{route.name}", route.limit, processes))
    for tenant, limit in table.limits:
        entries.update(_limits(tenant, limit, processes))
    for (tenant, pool), chosen in names.items():
        model, sep, version = pool.partition(":")
        if sep:
            mark = marks.get((tenant, model), LIMITED if tenant in tenants else "")
            entries[f"{tenant}/version/{model}/{version}"] = chosen + mark
    return dict(sorted(entries.items()))


def _limits(of: str, limit: RequestLimit, processes: int) -> dict[str, str]:
    if limit == NO_LIMIT:
        return {}
    return {of + LIMITS: ":".join(str(-(-value // processes)) for value in (limit.per_second, limit.at_once))}


def _entries(route: Route, pool_names: Mapping[PoolKey, str], mark: str) -> Iterator[tuple[str, str]]:
    key = f"{route.tenant}/{route.kind}/{route.name}"
    # Heaviest first; a pool that was never given is a choice too, and nothing is there.
    pools = sorted((p for p in route.split if p[1]), key=lambda p: (-p[1], p[0]))
    names = [(pool_names.get((route.tenant, p), "none"), w) for p, w in pools]
    if not names:
        yield key, "none"
    elif len(names) == 1:
        yield key, names[0][0] + mark
    else:
        yield key, "split"
        bucket = 0
        for chosen, weight in names:
            choices = [chosen, *(name for name, _ in names if name != chosen)][:CHOICES]
            for _ in range(weight):
                yield f"{key}/{bucket}", ":".join(choices) + mark
                bucket += 1


@dataclass(frozen=True, slots=True)
class Seen:
    """A server as the running HAProxy has it."""

    status: str
    requests: int
    """Under way, or waiting for a connection to this server."""

    @property
    def retired(self) -> bool:
        return self.status.startswith("MAINT")


@dataclass(frozen=True, slots=True)
class Moves:
    """What brings the running servers to the wanted ones. `add` and `revive` come before the new routes, `retire`
    after them; `remove` is tried whenever a retired server has no request left."""

    add: tuple[tuple[Place, Server], ...]
    revive: tuple[Place, ...]
    retire: tuple[Place, ...]
    remove: tuple[Place, ...]


def moves(wanted: Mapping[Place, Server], seen: Mapping[Place, Seen]) -> Moves:
    return Moves(
        add=tuple(
            sorted(((at, server) for at, server in wanted.items() if at not in seen), key=lambda added: added[0])
        ),
        revive=tuple(sorted(at for at in wanted if at in seen and seen[at].retired)),
        retire=tuple(sorted(at for at in seen if at not in wanted and not seen[at].retired)),
        remove=tuple(sorted(at for at in seen if at not in wanted and seen[at].retired and not seen[at].requests)),
    )
