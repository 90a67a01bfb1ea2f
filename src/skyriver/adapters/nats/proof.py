"""Whether a NATS server syncs before it acknowledges: it is not asked to be believed, it is asked to be shown.

A client of an account cannot see it. The server tells its configuration at its monitoring address (`/varz`) and to its
system account (`$SYS.REQ.SERVER.PING.VARZ`), as `sync_always`; one of the two must be in the file of credentials. In a
cluster the system account answers for all servers, the monitoring address only for one. It is asked at each connection:
the server may be another one then. A server of the cluster that has no JetStream keeps nothing, and need not show it.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import nats.errors
from nats.aio.client import Client

from skyriver.adapters.nats.connecting import connect, end
from skyriver.core.errors import Conflict, InvalidInput, Unavailable
from skyriver.decide.worker.sources import Access

OLDEST = (2, 10)
ANSWERS_S = 1.0
"""For the answers of all servers of a cluster."""


def check_version(told: str, url: str) -> None:
    """Raises Conflict (OLD_SERVER): servers before 2.10 cannot sync before they acknowledge."""
    numbers = tuple(int(word) for word in told.split("-")[0].split(".")[:2] if word.isdecimal())
    if numbers < OLDEST:
        raise Conflict(
            f"The NATS server is {told}: before 2.10 it acknowledges what a power cut can take back.",
            code="OLD_SERVER",
            where=url,
            next_action="Use a server of 2.10 or later, with sync_interval: always.",
        )


async def check_syncs(url: str, client: Client, access: Access) -> None:
    """Of the server that the client is connected to, and of all of its cluster that answer.

    Raises InvalidInput (NO_PROOF), Conflict (DOES_NOT_SYNC, OLD_SERVER), Unavailable (NO_PROOF)."""
    check_version(str(client._server_info.get("version", "0")), url)
    if access.system_user:
        servers = await _ask_system(url, access)
    elif access.monitor:
        servers = [await asyncio.to_thread(_ask_monitor, access.monitor)]
        cluster = servers[0].get("cluster") or {}
        if cluster.get("name") and (cluster.get("urls") or servers[0].get("routes")):
            raise _no_proof(url, "the monitoring address speaks for one server, and this is one of a cluster")
    else:
        raise _no_proof(url, "nothing shows it")
    if client._server_info.get("server_id") not in {server.get("server_id") for server in servers}:
        raise _no_proof(url, "what answers is another server than the one that was connected to")
    shown = False
    for server in servers:
        settings = (server.get("jetstream") or {}).get("config") or {}
        shown = shown or bool(settings)
        if settings and not settings.get("sync_always"):
            raise Conflict(
                f"The NATS server {server.get('server_name', '')} acknowledges before it syncs: what it has"
                " acknowledged, the end of the power can take back.",
                code="DOES_NOT_SYNC",
                where=url,
                next_action="Write `jetstream { sync_interval: always }` into its configuration, and start it again.",
            )
    if not shown:
        raise _no_proof(url, "no server that answers tells how its JetStream keeps what it acknowledges")


def _no_proof(url: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"It is not shown that the NATS server syncs before it acknowledges: {why}.",
        code="NO_PROOF",
        where=url,
        next_action='Add to the file of credentials monitor = "http://HOST:8222", or system_user and system_password.',
    )


def _ask_monitor(monitor: str) -> Mapping[str, Any]:
    try:
        with urllib.request.urlopen(f"{monitor.rstrip('/')}/varz", timeout=5) as answer:
            found = json.load(answer)
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"The NATS server's monitoring address does not answer: {getattr(error, 'reason', error)}.",
            code="NO_PROOF",
            where=monitor,
            next_action="Check monitor in the file of credentials, and `http:` in the server's configuration.",
        ) from error
    return found if isinstance(found, dict) else {}


async def _ask_system(url: str, access: Access) -> list[Mapping[str, Any]]:
    """Of each server of the cluster."""

    async def ignore() -> None: ...

    system = Access(
        user=access.system_user,
        password=access.system_password,
        ca=access.ca,
        certificate=access.certificate,
        key=access.key,
    )
    client = await connect(url, system, "skyriver proof", ignore)
    try:
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox)
        await client.publish("$SYS.REQ.SERVER.PING.VARZ", b"{}", inbox)
        found: list[Mapping[str, Any]] = []
        try:
            while True:
                answer = await answers.next_msg(ANSWERS_S)
                document = json.loads(answer.data or b"{}")
                if document.get("data"):
                    found.append(document["data"])
        except (nats.errors.TimeoutError, ValueError):
            pass
    finally:
        await end(client)
    if not found:
        raise _no_proof(url, "its system account does not answer")
    return found
