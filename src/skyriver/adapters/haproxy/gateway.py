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
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from skyriver.adapters.haproxy import layout, process
from skyriver.adapters.haproxy.admin import Admin
from skyriver.adapters.haproxy.binary import Binary, find
from skyriver.adapters.haproxy.config import ADMIN, ROUTES, TOKENS, Settings, connections_for, files, static_digest
from skyriver.adapters.haproxy.files import only_one, replace_all
from skyriver.adapters.haproxy.layout import PoolKey
from skyriver.adapters.haproxy.process import Running
from skyriver.control.gateway_rules import check_socket, check_table
from skyriver.control.outliers import Answered, Outliers
from skyriver.core.errors import InvalidInput, Unavailable
from skyriver.core.resources import RouteTable
from skyriver.data.folders import make_folder, sync_folder

TABLE = "table.json"
LOCK = "lock"
LOCK_SECONDS = 30.0
STOP_SECONDS = 3.0
"""For requests under way when the gateway is stopped."""
MAX_THREADS = 4


class HaproxyGateway:
    """The `Gateway` port with HAProxy. `directory` is its own (HOME/gateway); `control_socket` is the control
    plane's. Several objects for one directory, in one process or in several, act on the same HAProxy."""

    def __init__(
        self,
        directory: Path,
        *,
        port: int,
        control_socket: Path,
        address: str = "127.0.0.1",
        binary: Callable[[], Binary] = find,
    ) -> None:
        make_folder(directory)
        self._directory = directory
        self._settings = Settings(
            address=_checked(address),
            port=port,
            control_socket=check_socket(str(control_socket)),
            maxconn=connections_for(_descriptors()),
            threads=min(MAX_THREADS, os.cpu_count() or 1),
        )
        self._binary = binary
        self._admin = Admin(directory)
        self._running: Running | None = None
        self._applied: RouteTable | None = None
        """The table that `_running` is known to serve; None when that is not known."""
        self._applied_stamp = (0, 0)
        """Of the table's file then: another one means that somebody else applied another table since."""
        self._looked_at: Running | None = None
        self._outliers = Outliers()

    def start(self) -> None:
        digest = static_digest(self._settings)
        with self._lock():
            running = process.find(self._directory, self._settings.address, self._settings.port)
            if running is None or running.digest != digest:
                table, slots = self._read()
                replace_all(self._directory, files(self._settings, table, slots))
                running = process.launch(
                    self._binary(), self._directory, self._settings.address, self._settings.port, digest, running
                )
            self._know(running)

    def apply(self, table: RouteTable) -> None:
        with self._lock():
            self._know(process.recorded(self._directory))
            alive = self._running is not None and self._running.identity.alive()
            if alive and table == self._applied and self._stamp() == self._applied_stamp:
                return
            check_table(table)
            self._applied = None
            seen = self._admin.servers() if alive else {}
            slots = layout.assign(self._read()[1], table.pools, {at.slot for at in seen})
            self._write(table, slots)
            if not alive:
                raise Unavailable(
                    "The gateway is away; the routes are on its disk and take effect with its start.",
                    code="GATEWAY_AWAY",
                    next_action="`skyriver up` starts it again.",
                )
            self._bring_over(table, slots)
            self._applied, self._applied_stamp = table, self._stamp()

    def table(self) -> RouteTable:
        with self._lock():
            return self._read()[0]

    def sessions(self) -> Mapping[str, int]:
        running = process.recorded(self._directory)
        if running is None or not running.identity.alive():
            return {}  # whatever was under way through it ended with it
        with self._lock():
            requests: dict[str, int] = {}
            for at, seen in self._admin.servers().items():
                if seen.retired and not seen.requests:
                    self._admin.remove(at)  # once its idle connections are gone, which takes a moment
                else:
                    requests[at.name] = requests.get(at.name, 0) + seen.requests
            return requests

    def look(self) -> Mapping[str, int]:
        # Without the lock: it only reads, and a weight too much for a server that has just gone does no harm.
        running = process.recorded(self._directory)
        if running != self._looked_at:
            self._looked_at, self._outliers = running, Outliers()  # its counters begin anew
        slots: dict[str, dict[str, Answered]] = {}
        places = {}
        for at, answered in self._admin.answered().items():
            slots.setdefault(at.slot, {})[str(at)] = answered
            places[str(at)] = at
        for name, weight in self._outliers.look(time.monotonic_ns() // 1000, list(slots.values())).items():
            self._admin.weigh(places[name], weight)
        return {places[name].name: weight for name, weight in self._outliers.out().items()}

    def stop(self) -> None:
        with self._lock():
            running = process.find(self._directory, self._settings.address, self._settings.port)
            if running is not None:
                process.end(running.identity, STOP_SECONDS)
            for name in (process.RUN_FILE, process.PID_FILE, ADMIN):
                (self._directory / name).unlink(missing_ok=True)
            sync_folder(self._directory)
            self._know(None)

    def _lock(self) -> AbstractContextManager[None]:
        return only_one(self._directory / LOCK, LOCK_SECONDS)

    def _know(self, running: Running | None) -> None:
        """Another process than the one before serves what its files said, and nobody knows whether that is all."""
        if running != self._running:
            self._running, self._applied = running, None

    def _bring_over(self, table: RouteTable, slots: Mapping[PoolKey, int]) -> None:
        admin = self._admin
        moves = layout.moves(layout.servers(table, slots), admin.servers())
        for at, server in moves.add:
            admin.add(at, server)
        for at in moves.revive:
            admin.revive(at)
        for name, entries in ((ROUTES, layout.routes_map(table, slots)), (TOKENS, layout.tokens_map(table))):
            if admin.read_map(name) != entries:
                admin.write_map(name, entries)
        if moves.retire:
            admin.settle()
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
        replace_all(self._directory, {TABLE: text, **files(self._settings, table, slots)})


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
