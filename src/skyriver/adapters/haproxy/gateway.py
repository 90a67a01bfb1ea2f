"""The way in on one machine: HAProxy, driven over its admin socket and files.

Disk first: `table.json` (the table and which pool has which slot) is the truth, written and synced before anything
else; maps and configuration are made from it, at each change and again at each start. So HAProxy, started by anybody,
serves the last table, and a crash between two files loses nothing.
Then the running process, in an order in which no request meets a gap: new servers, new maps (one commit each), and
only then old servers leave. Requests under way end where they are.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from skyriver.adapters.haproxy import access_log, certificate, layout, process
from skyriver.adapters.haproxy.access_log import Recorded
from skyriver.adapters.haproxy.admin import Admin
from skyriver.adapters.haproxy.binary import Binary, find
from skyriver.adapters.haproxy.certificate import Tls
from skyriver.adapters.haproxy.config import (
    CERTIFICATE,
    QUEUE_S,
    ROUTES,
    TOKENS,
    Settings,
    connections_for,
    files,
    static_digest,
    threads_for,
)
from skyriver.adapters.haproxy.files import only_one, replace_all
from skyriver.adapters.haproxy.layout import Place, PoolKey
from skyriver.adapters.haproxy.process import Running
from skyriver.control.gateway_rules import check_socket, check_table
from skyriver.control.outliers import FULL, WRAP, Answered, Outliers
from skyriver.core.errors import InvalidInput, Unavailable
from skyriver.core.resources import Pool, RouteTable
from skyriver.data.folders import make_folder, sync_folder

TABLE = "table.json"
COUNT = "count"
LOCK = "lock"
LOCK_SECONDS = 30.0
STOP_SECONDS = 3.0
"""For requests under way when the gateway is stopped."""
ROOM_SECONDS = 2.0
"""Between two looks whether there is room by now for pools that had none: a slot is free when its last request ends."""


class HaproxyGateway:
    """The `Gateway` port with HAProxy. `directory` is its own (HOME/gateway); `control_socket` is the control
    plane's; `tls` adds HTTPS at an address of its own; `recorded` says which requests are written to the access log;
    `count` processes share the addresses from the next `start` on (None: as many as before, or one). Several objects
    for one directory, in one process or in several, act on the same HAProxy."""

    def __init__(
        self,
        directory: Path,
        *,
        port: int,
        control_socket: Path,
        address: str = "127.0.0.1",
        count: int | None = None,
        tls: Tls | None = None,
        recorded: Recorded = "all",
        binary: Callable[[], Binary] = find,
    ) -> None:
        make_folder(directory)
        self._directory = directory
        self._settings = Settings(
            address=_checked(address),
            port=port,
            control_socket=check_socket(str(control_socket)),
            maxconn=connections_for(_descriptors()),
            threads=threads_for(os.cpu_count() or 1),
            tls=None if tls is None else (_checked(tls.address), tls.port),
            recorded=recorded,
        )
        self._tls = tls
        self._binary = binary
        self._wanted = count
        self._running: tuple[Running, ...] = ()
        self._applied: RouteTable | None = None
        """The table that `_running` is known to serve; None when that is not known."""
        self._applied_stamp = (0, 0)
        """Of the table's file then: another one means that somebody else applied another table since."""
        self._left: tuple[Pool, ...] = ()
        self._look_for_room = 0.0
        self._looked_at: tuple[Running, ...] = ()
        self._outliers = Outliers()

    def start(self) -> None:
        digest, at = static_digest(self._settings), self._settings
        with self._lock():
            try:
                self._renew()
            except InvalidInput:  # the last that was good serves on; whoever renews it is told
                if not (self._directory / CERTIFICATE).exists():
                    raise
            if self._wanted is not None:
                replace_all(self._directory, {COUNT: f"{self._wanted}\n"})
            count = self._count()
            found = {n: process.find(self._directory, at.address, at.port, n) for n in range(1, count + 1)}
            if any(run is None or run.digest != digest for run in found.values()):
                table, slots = self._read()
                replace_all(self._directory, files(self._settings, table, slots, count))
            for number, run in found.items():
                if run is None or run.digest != digest:
                    wanted = Running(0, 0, "", digest, at.address, at.port, number)
                    siblings = [r for r in found.values() if r is not None and r != run]
                    found[number] = process.launch(self._binary(), self._directory, wanted, run, siblings)
            for number in process.numbers(self._directory):
                if number > count and (run := process.recorded(self._directory, number)) is not None:
                    process.leave(run)
                    process.forget(self._directory, number)
            self._know(tuple(run for run in found.values() if run is not None))

    def renew(self) -> bool:
        """Takes another certificate, if its files have changed, without closing a connection; whether they had. Raises
        InvalidInput (BAD_CERTIFICATE), and the old one stays."""
        with self._lock():
            return self._renew()

    def apply(self, table: RouteTable) -> Sequence[Pool]:
        with self._lock():
            self._know(self._recorded())
            alive = [run for run in self._running if run.identity.alive()]
            same = len(alive) == self._count() and table == self._applied and self._stamp() == self._applied_stamp
            if same and (not self._left or time.monotonic() < self._look_for_room):
                return self._left
            check_table(table)
            self._applied = None
            admins = [Admin(self._directory, run.number) for run in alive]
            occupied = {at.slot for admin in admins for at in admin.servers()}
            slots = layout.assign(self._read()[1], table.pools, occupied)
            self._write(table, slots)
            if not alive:
                raise Unavailable(
                    "The gateway is away; the routes are on its disk and take effect with its start.",
                    code="GATEWAY_AWAY",
                    next_action="`skyriver up` starts it again.",
                )
            for admin in admins:
                self._bring_over(admin, table, slots)
            self._applied, self._applied_stamp = table, self._stamp()
            self._left = tuple(pool for pool in table.pools if (pool.tenant, pool.name) not in slots)
            self._look_for_room = time.monotonic() + ROOM_SECONDS
            return self._left

    def table(self) -> RouteTable:
        with self._lock():
            return self._read()[0]

    def sessions(self) -> Mapping[str, int]:
        # Whatever was under way through one that ended, ended with it.
        alive = [run for run in self._recorded() if run.identity.alive()]
        requests: dict[str, int] = {}
        with self._lock():
            for admin in (Admin(self._directory, run.number) for run in alive):
                for at, seen in admin.servers().items():
                    if seen.retired and not seen.requests:
                        admin.remove(at)  # once its idle connections are gone, which takes a moment
                    else:
                        requests[at.name] = requests.get(at.name, 0) + seen.requests
        return requests

    def look(self) -> Mapping[str, int]:
        # Without the lock: it only reads, and a weight too much for a server that has just gone does no harm.
        running = tuple(run for run in self._recorded() if run.identity.alive())
        if running != self._looked_at:
            self._looked_at, self._outliers = running, Outliers()  # counters begin anew
        admins = [Admin(self._directory, run.number) for run in running]
        told = [(admin, admin.answered()) for admin in admins]
        slots: dict[str, dict[str, Answered]] = {}
        for at, answered in _together(seen for _, seen in told).items():
            slots.setdefault(at.slot, {})[str(at)] = answered
        weights = self._outliers.look(time.monotonic_ns() // 1000, list(slots.values()))
        names = {}
        for admin, seen in told:
            for at, answered in seen.items():
                names[str(at)] = at.name
                if answered.weight != weights[str(at)]:
                    admin.weigh(at, weights[str(at)])
        return {names[at]: weight for at, weight in weights.items() if weight < FULL}

    def weights(self) -> Mapping[str, int]:
        """Those of `look`, as they are; any number of callers. Raises Unavailable (GATEWAY_AWAY)."""
        admins = [Admin(self._directory, run.number) for run in self._recorded() if run.identity.alive()]
        seen = [(at.name, answered.weight) for admin in admins for at, answered in admin.answered().items()]
        return {name: weight for name, weight in seen if weight < FULL}

    def sent(self) -> Sequence[tuple[str, str, int]]:
        """(process of the gateway and its server, the server's name, bytes of answers) since the one knows the other;
        any number of callers. Raises Unavailable (GATEWAY_AWAY)."""
        alive = [run for run in self._recorded() if run.identity.alive()]
        told = ((run, Admin(self._directory, run.number).sent()) for run in alive)
        return [
            (f"{run.pid}.{run.start_time} {at}", at.name, sent) for run, servers in told for at, sent in servers.items()
        ]

    def stop(self) -> None:
        with self._lock():
            every = {*process.numbers(self._directory), *range(1, self._count() + 1)}
            for number in sorted(every):
                run = process.find(self._directory, self._settings.address, self._settings.port, number)
                if run is not None:
                    process.end(run.identity, STOP_SECONDS)
                process.forget(self._directory, number)
            (self._directory / access_log.SOCKET).unlink(missing_ok=True)
            sync_folder(self._directory)
            self._know(())

    def _renew(self) -> bool:
        if self._tls is None:
            return False
        pem, kept = certificate.read(self._tls).pem, self._directory / CERTIFICATE
        if kept.exists() and kept.read_text() == pem:
            return False
        for run in self._recorded():
            if run.identity.alive() and run.digest == static_digest(self._settings):
                Admin(self._directory, run.number).certify(pem)
        replace_all(self._directory, {CERTIFICATE: pem})
        return True

    def _lock(self) -> AbstractContextManager[None]:
        return only_one(self._directory / LOCK, LOCK_SECONDS)

    def _count(self) -> int:
        """How many processes there should be, as who started them last has said."""
        try:
            return int((self._directory / COUNT).read_text())
        except (FileNotFoundError, ValueError):
            return 1

    def _recorded(self) -> tuple[Running, ...]:
        runs = (process.recorded(self._directory, number) for number in range(1, self._count() + 1))
        return tuple(run for run in runs if run is not None)

    def _know(self, running: tuple[Running, ...]) -> None:
        """Another process than the one before serves what its files said, and nobody knows whether that is all."""
        if running != self._running:
            self._running, self._applied = running, None

    def _bring_over(self, admin: Admin, table: RouteTable, slots: Mapping[PoolKey, int]) -> None:
        _bring_map(admin, TOKENS, layout.tokens_map(table))  # whatever fails below: who may come in is settled
        moves = layout.moves(layout.servers(table, slots), admin.servers())
        for at, server in moves.add:
            admin.add(at, server)
        for at in moves.revive:
            admin.revive(at)
        _bring_map(admin, ROUTES, layout.routes_map(table, slots, self._count()))
        if moves.retire:
            admin.settle()
            _let_queues_end(admin, {at.slot for at in moves.retire})
        for at in moves.retire:
            admin.retire(at)
        for at in moves.remove:
            admin.remove(at)

    def _stamp(self) -> tuple[int, int]:
        try:
            stat = (self._directory / TABLE).stat()
        except FileNotFoundError:
            return (0, 0)
        return (stat.st_ino, stat.st_mtime_ns)

    def _read(self) -> tuple[RouteTable, dict[PoolKey, int]]:
        """The table on disk and its slots; both empty before the first."""
        path = self._directory / TABLE
        try:
            document = json.loads(path.read_bytes())
            table = msgspec.convert(document["table"], RouteTable)
            return table, {(tenant, pool): int(slot) for tenant, pool, slot in document["slots"]}
        except FileNotFoundError:
            return RouteTable(), {}
        except (KeyError, TypeError, ValueError):  # msgspec's ValidationError is a ValueError
            # Damaged bytes are not served. Without them the gateway refuses everybody until the control plane, which
            # knows the table, applies it again.
            path.replace(path.with_suffix(".damaged"))
            return RouteTable(), {}

    def _write(self, table: RouteTable, slots: Mapping[PoolKey, int]) -> None:
        document = {
            "table": msgspec.to_builtins(table),
            "slots": [[tenant, pool, slot] for (tenant, pool), slot in sorted(slots.items())],
        }
        text = json.dumps(document)
        replace_all(self._directory, {TABLE: text, **files(self._settings, table, slots, self._count())})


def _bring_map(admin: Admin, name: str, entries: Mapping[str, str]) -> None:
    if admin.read_map(name) != entries:
        admin.write_map(name, entries)


def _let_queues_end(admin: Admin, slots: Collection[str]) -> None:
    """Returns when nobody waits for a server of `slots` any more: HAProxy refuses at once who waits for one that it
    takes out, and who waits gets one within the time limit of the queue, or is refused then."""
    deadline = time.monotonic() + QUEUE_S + 0.2
    while time.monotonic() < deadline and any(map(admin.queued().get, slots)):
        time.sleep(0.02)


def _together(told: Iterable[Mapping[Place, Answered]]) -> dict[Place, Answered]:
    """What several processes saw of each server; the least of its weights."""
    found: dict[Place, Answered] = {}
    for seen in told:
        for at, one in seen.items():
            other = found.get(at, Answered())
            found[at] = Answered(
                (one.answers + other.answers) % WRAP,
                (one.microseconds + other.microseconds) % WRAP,
                (one.failures + other.failures) % WRAP,
                one.waiting + other.waiting,
                min(one.weight, other.weight),
            )
    return found


def _checked(address: str) -> str:
    try:
        return str(IPv4Address(address))
    except ValueError as error:
        raise InvalidInput(
            f"{address!r} is no IPv4 address.", code="BAD_ADDRESS", next_action="Give one, such as 127.0.0.1."
        ) from error


def _descriptors() -> int:
    """How many files HAProxy may open: it raises its own soft limit up to the hard one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard
