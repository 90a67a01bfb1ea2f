"""HAProxy's configuration and map files as text. Pure; every file is made anew from the table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus

from skyriver.adapters.haproxy.layout import (
    BUCKETS,
    CHOICES,
    READ_ONLY,
    SLOTS,
    Place,
    PoolKey,
    routes_map,
    servers,
    slot_name,
    tokens_map,
)
from skyriver.control import gateway_rules as rules
from skyriver.control.gateway_rules import Answer
from skyriver.core.errors import Internal
from skyriver.core.names import digest
from skyriver.core.resources import RouteTable

CONFIG = "haproxy.cfg"
ROUTES = "routes.map"
TOKENS = "tokens.map"
ADMIN = "admin.sock"

SERVER_OPTIONS = (
    # Checked every 2 s; a connection that is refused takes the server out at once, and one good check, a quarter of a
    # second later, brings it back. 512 at a time: fewer than any server's backlog (1,024), which would refuse too.
    "check inter 2s fastinter 500ms downinter 250ms rise 1 fall 3"
    " observe layer4 error-limit 1 on-error mark-down maxconn 512"
    # A server that reads no request for 30 s may close an idle connection; ours are gone long before.
    " pool-purge-delay 1s"
)

_WORD = re.compile(r"[A-Za-z0-9_.:/-]+")


@dataclass(frozen=True, slots=True)
class Settings:
    address: str
    port: int
    control_socket: str
    maxconn: int
    threads: int


def connections_for(descriptors: int) -> int:
    """HAProxy's maxconn for a limit of open files: two descriptors a request, a reserve for checks, idle connections
    and itself. HAProxy refuses to start with more than the limit allows."""
    reserve = min(2048, descriptors // 2)
    return max(16, min(10_000, (descriptors - reserve) // 2))


def static_digest(settings: Settings) -> str:
    """Of everything that a running HAProxy cannot change: with another one it must be replaced. How much this machine
    allowed when it was started does not count, or two callers under other limits would replace it in turn."""
    return digest(render(replace(settings, maxconn=0, threads=0), RouteTable(), {}))


def files(settings: Settings, table: RouteTable, slots: Mapping[PoolKey, int]) -> dict[str, str]:
    """Name -> text of all files that HAProxy starts from, in the order in which they are written."""
    return {
        TOKENS: map_text(tokens_map(table)),
        ROUTES: map_text(routes_map(table, slots)),
        **_error_files(),
        CONFIG: render(settings, table, slots).decode(),
    }


def map_text(entries: Mapping[str, str]) -> str:
    for key, value in entries.items():
        if not (_WORD.fullmatch(key) and _WORD.fullmatch(value)):
            raise Internal(f"{key!r} {value!r} cannot be an entry of a map.", code="UNSAFE_MAP_ENTRY")
    return "".join(f"{key} {value}\n" for key, value in entries.items())


def server_line(at: Place, socket: str) -> str:
    rules.check_socket(socket)
    if not _WORD.fullmatch(str(at)):
        raise Internal(f"{str(at)!r} cannot name a server.", code="UNSAFE_SERVER_NAME")
    return f"unix@{socket} {SERVER_OPTIONS}"


def render(settings: Settings, table: RouteTable, slots: Mapping[PoolKey, int]) -> bytes:
    by_slot: dict[str, list[str]] = {}
    for at, socket in sorted(servers(table, slots).items()):
        by_slot.setdefault(at.slot, []).append(f"    server {at.server} {server_line(at, socket)}\n")
    parts = [_GLOBAL.format(s=settings, admin=ADMIN), _DEFAULTS, _frontend(settings), _control(settings)]
    for slot in range(SLOTS):
        parts.append(f"backend {slot_name(slot)}\n")
        parts.extend(by_slot.get(slot_name(slot), ()))
    return "".join(parts).encode()


_GLOBAL = """\
# Written by skyriver; changes are overwritten.
global
    maxconn {s.maxconn}
    nbthread {s.threads}
    noreuseport
    stats socket unix@{admin} mode 600 level admin expose-fd listeners
    stats timeout 10s
    hard-stop-after 30s

"""

# How HAProxy's own errors are told. What is no HTTP at all it refuses before this, in a fixed text of its own (400).
_OWN_ERRORS = (
    rules.BAD_REQUEST,
    rules.REQUEST_TIMEOUT,
    rules.BODY_TOO_LARGE,
    rules.GATEWAY_FAILED,
    rules.UPSTREAM_FAILED,
    rules.NO_CAPACITY,
    rules.UPSTREAM_TIMEOUT,
)

_DEFAULTS = """\
defaults
    mode http
    # Unix sockets connect at once or not at all.
    timeout connect 250ms
    timeout client 60s
    timeout server 120s
    timeout queue 5s
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout check 5s
    timeout tunnel 1h
    # Only a connection that was refused is tried again, on another server: what was sent is never sent twice.
    option redispatch 1
    retries 3
    retry-on conn-failure
    http-reuse safe
    balance leastconn
    option httpchk
    http-check send meth GET uri {ready} ver HTTP/1.1 hdr host skyriver
    http-check expect status 200-499
{errors}
""".format(
    ready=rules.READY_PATH,
    errors="".join(f"    errorfile {a.status} {a.code.lower()}.http\n" for a in _OWN_ERRORS),
)


def _frontend(settings: Settings) -> str:
    json = "content-type application/json"
    key = "http-request set-var-fmt(txn.key) %[var(txn.tenant)]"
    # Twice, in case that routes.map was swapped between the look-up of the route and that of its bucket.
    lookup = """\
    http-request set-var(txn.choices) var(txn.key),map({routes}) {when}
    http-request set-var-fmt(txn.bucket) %[var(txn.key)]/%[rand({buckets})] if {{ var(txn.choices) -m str split }}
    http-request set-var(txn.choices) var(txn.bucket),map({routes}) if {{ var(txn.choices) -m str split }}
"""
    again = "if { var(txn.choices) -m str split }"
    choices = "".join(
        f"    http-request set-var(txn.slot) var(txn.choices),field({n},:) {'' if n == 1 else 'unless up'}\n"
        for n in range(1, CHOICES + 1)
    )
    return f"""\
frontend way_in
    bind {settings.address}:{settings.port} proto h1
    acl for_control path_beg /api/
    acl of_version path,field(5,/) -m str versions
    acl up var(txn.slot),nbsrv gt 0
    acl looking method {" ".join(rules.LOOKING)}
    acl read_only var(txn.token),concat({READ_ONLY}),map({TOKENS}) -m found

    http-request del-header {rules.OWN_HEADERS} -m beg
    # No connection is handed over as a tunnel: what goes through it would pass by the rules below.
    http-request del-header upgrade
    http-request return status 200 {json} string '{{"live":true}}' if {{ path {" ".join(rules.LIVE_PATHS)} }}
    http-request return status 200 {json} string '{{"ready":true}}' if {{ path {rules.READY_PATH} }}

    http-request set-var(txn.token) http_auth_bearer,sha2(256),hex
    http-request set-var(txn.tenant) var(txn.token),map({TOKENS})
    {_return(rules.UNAUTHENTICATED)} unless {{ var(txn.tenant) -m found }}
    {_return(rules.BAD_PATH)} if {{ path_sub /. }} or {{ path_sub -i /%2e }}
    {_return(rules.NOT_ALLOWED)} if {{ path_beg {rules.STREAMS} }} !looking read_only
    http-request set-header {rules.TENANT_HEADER} %[var(txn.tenant)]

    # The control plane asks who it is itself; a tenant's process never sees a token.
    http-request del-header authorization unless for_control
    {_return(rules.BODY_TOO_LARGE)} if !for_control {{ req.hdr_val(content-length) gt {rules.BODY_LIMIT} }}

    {key}/model/%[path,field(4,/)] if {{ path_beg /v2/models/ }}
    {key}/version/%[path,field(4,/)]/%[path,field(6,/)] if {{ path_beg /v2/models/ }} of_version
    {key}/model/%[path,field(3,/)] if {{ path_beg /predict/ }}
    {key}/stream/%[path,field(3,/)] if {{ path_beg {rules.STREAMS} }}
{lookup.format(when="", buckets=BUCKETS, routes=ROUTES)}{lookup.format(when=again, buckets=BUCKETS, routes=ROUTES)}\
    {_return(rules.UNKNOWN_ROUTE)} if !for_control !{{ var(txn.choices) -m found }}
{choices}\
    {_return(rules.NO_CAPACITY)} if !for_control !up
    http-response del-header server

    use_backend control if for_control
    use_backend %[var(txn.slot)]

"""


def _control(settings: Settings) -> str:
    return f"""\
backend control
    # Event streams are silent for long.
    timeout server 1h
    retries 0
    errorfile 503 {rules.CONTROL_AWAY.code.lower()}.http
    server control unix@{rules.check_socket(settings.control_socket)}

"""


def _return(answer: Answer) -> str:
    body = answer.body().decode()
    if "'" in body:
        raise Internal(f"{answer.code}: an apostrophe would end the quoted text.", code="UNSAFE_ANSWER")
    headers = "".join(f" hdr {name} {value}" for name, value in answer.headers)
    return f"http-request return status {answer.status} content-type application/problem+json string '{body}'{headers}"


def _error_files() -> dict[str, str]:
    texts = {}
    for answer in (*_OWN_ERRORS, rules.CONTROL_AWAY):
        body = answer.body().decode()
        head = [
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
            "content-type: application/problem+json",
            f"content-length: {len(body.encode())}",
            *(f"{name}: {value}" for name, value in answer.headers),
        ]
        texts[f"{answer.code.lower()}.http"] = "\r\n".join([*head, "", body])
    return texts
