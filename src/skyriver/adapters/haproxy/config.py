"""HAProxy's configuration and map files as text. Pure; every file is made anew from the table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus

from skyriver import __version__
from skyriver.adapters.haproxy import access_log
from skyriver.adapters.haproxy.access_log import Recorded
from skyriver.adapters.haproxy.layout import (
    BUCKETS,
    CHOICES,
    FULL,
    LIMITED,
    LIMITS,
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
from skyriver.control.outliers import FULL as FULL_WEIGHT
from skyriver.core import inference_protocol as protocol
from skyriver.core.errors import Internal
from skyriver.core.names import digest
from skyriver.core.resources import RouteTable, Server

CONFIG = "haproxy.cfg"
ROUTES = "routes.map"
TOKENS = "tokens.map"
LAST = "last.map"
"""Slot -> a server of it that is out (its weight is 0): the last resort when no other is up. Written while it runs."""
CERTIFICATE = "certificate.pem"
ADMIN_VARIABLE = "SKYRIVER_ADMIN_SOCKET"
"""Environment of HAProxy: the name of its admin socket. All that share an address start from one configuration."""

SERVER_REQUESTS = 512
"""Under way to one server, and as many more a server may wait. Fewer than any server's backlog (1,024), which would
refuse too."""
HOLDER_REQUESTS = 4_000
"""To a server that holds them: it takes connections as fast as they come, up to 4,096, and says itself what is too
much."""
QUEUE_S = 1
"""A request waits so long for a server."""
SERVER_MS = 120_000
SMALL_BYTES = 1_000
CODE_HEADER = "x-skyriver-code"
"""What an answer of our own says to the access log; no caller gets it."""
ROUTE_COUNTS = "counts_of_routes"
TENANT_COUNTS = "counts_of_tenants"
ANSWERS = "answers"

SERVER_OPTIONS = (
    # Checked every 2 s; a connection that is refused takes the server out at once, and one good check, a quarter of a
    # second later, brings it back.
    "check inter 2s fastinter 500ms downinter 250ms rise 1 fall 3"
    " observe layer4 error-limit 1 on-error mark-down"
    # A server that reads no request for 30 s may close an idle connection; ours are gone long before.
    f" pool-purge-delay 1s weight {FULL_WEIGHT}"
)

_WORD = re.compile(r"[A-Za-z0-9_.:/-]+")


@dataclass(frozen=True, slots=True)
class Settings:
    address: str
    port: int
    control_socket: str
    maxconn: int
    threads: int
    tls: tuple[str, int] | None = None
    """Address and port for HTTPS."""
    recorded: Recorded = "all"
    """Which requests; see `access_log`."""


def connections_for(descriptors: int) -> int:
    """HAProxy's maxconn for a limit of open files: two descriptors a request, a reserve for checks, idle connections
    and itself. HAProxy refuses to start with more than the limit allows."""
    reserve = min(2048, descriptors // 2)
    return max(16, min(10_000, (descriptors - reserve) // 2))


def threads_for(cores: int) -> int:
    """Half of the cores, four at most: the other half is the replicas'. Threads share tables and idle connections, and
    each wakes for fewer requests: on two cores, two threads took half as much time again for a request as one."""
    return max(1, min(4, cores // 2))


def static_digest(settings: Settings) -> str:
    """Of everything that a running HAProxy cannot change: with another one it must be replaced. How much this machine
    allowed when it was started does not count, or two callers under other limits would replace it in turn."""
    return digest(render(replace(settings, maxconn=0, threads=0), RouteTable(), {}))


def files(settings: Settings, table: RouteTable, slots: Mapping[PoolKey, int], processes: int = 1) -> dict[str, str]:
    """Name -> text of all files that HAProxy starts from, in the order in which they are written."""
    return {
        TOKENS: map_text(tokens_map(table)),
        ROUTES: map_text(routes_map(table, slots, processes)),
        LAST: "",
        **_error_files(),
        CONFIG: render(settings, table, slots).decode(),
    }


def map_text(entries: Mapping[str, str]) -> str:
    for key, value in entries.items():
        if not (_WORD.fullmatch(key) and _WORD.fullmatch(value)):
            raise Internal(f"{key!r} {value!r} cannot be an entry of a map.", code="UNSAFE_MAP_ENTRY")
    return "".join(f"{key} {value}\n" for key, value in entries.items())


def server_line(at: Place, server: Server) -> str:
    rules.check_socket(server.socket)
    if not _WORD.fullmatch(str(at)):
        raise Internal(f"{str(at)!r} cannot name a server.", code="UNSAFE_SERVER_NAME")
    most = HOLDER_REQUESTS if server.holds else SERVER_REQUESTS
    return f"unix@{server.socket} {SERVER_OPTIONS} maxconn {most}"


def render(settings: Settings, table: RouteTable, slots: Mapping[PoolKey, int]) -> bytes:
    by_slot: dict[str, list[str]] = {}
    for at, server in sorted(servers(table, slots).items(), key=lambda placed: placed[0]):
        by_slot.setdefault(at.slot, []).append(f"    server {at.server} {server_line(at, server)}\n")
    parts = [
        _GLOBAL.format(s=settings, admin=ADMIN_VARIABLE, log=_ring(settings)),
        _defaults(),
        _frontend(settings),
        _counts(),
        _control(settings),
    ]
    for slot in range(SLOTS):
        parts.append(
            f"backend {slot_name(slot)} from slots\n    use-server %[var(txn.last)] if {{ var(txn.last) -m found }}\n"
        )
        parts.extend(by_slot.get(slot_name(slot), ()))
    return "".join(parts).encode()


_GLOBAL = """\
# Written by skyriver; changes are overwritten.
global
    maxconn {s.maxconn}
    nbthread {s.threads}
    noreuseport
    # A WebSocket over HTTP/2 would be a tunnel; see the frontend.
    h2-workaround-bogus-websocket-clients
    stats socket unix@"${{{admin}}}" mode 600 level admin expose-fd listeners
    stats timeout 10s
    hard-stop-after 30s
{log}
"""


def _ring(settings: Settings) -> str:
    if settings.recorded == "off":
        return ""
    return f"""\
    log ring@access len {access_log.LINE_BYTES} format raw local0

ring access
    format raw
    maxlen {access_log.LINE_BYTES}
    size {access_log.RING_BYTES}
    timeout connect 1s
    timeout server 10s
    server receiver unix@{access_log.SOCKET} log-proto legacy
"""


def _recording(settings: Settings) -> str:
    """Probes, and what is asked of the gateway itself, are not recorded."""
    if settings.recorded == "off":
        return ""
    few = "    http-response set-log-level silent if { status lt 400 }\n" if settings.recorded == "errors" else ""
    return f"""
    log global
    option dontlognull
    log-format '{access_log.FORMAT}'
{few}    http-request set-log-level silent if {{ path {" ".join((*rules.LIVE_PATHS, rules.READY_PATH))} }}
    http-request set-var(txn.asks) path,field(4,/) if {{ path_beg {rules.STREAMS} }}
    http-request set-var(txn.asks) path,field(6,/) if for_control
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


def _defaults() -> str:
    but = f"!{{ method {' '.join(rules.LOOKING)} }}"
    errors = "".join(f"    errorfile {a.status} {a.code.lower()}.http\n" for a in _OWN_ERRORS)
    return f"""\
defaults base
    mode http
    # Unix sockets connect at once or not at all.
    timeout connect 250ms
    timeout client 60s
    timeout server {SERVER_MS}ms
    timeout queue {QUEUE_S}s
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout check 5s
    timeout tunnel 1h
    # Only a connection that was refused is tried again, on another server.
    option redispatch 1
    retries 3
    retry-on conn-failure
    http-reuse safe
    balance leastconn
    option httpchk
    http-check send meth GET uri {rules.READY_PATH} ver HTTP/1.1 hdr host skyriver
    http-check expect status 200-499
{errors}
defaults slots from base
    # What may be sent again is, once, to another server, when its own ended before its answer began: no request ends
    # more than two. It is kept for that if all of it is here when it is sent, and fits into one buffer (16 KiB).
    retry-on conn-failure empty-response
    retries 1
    http-request disable-l7-retry if {{ path_beg {rules.STREAMS} }} !{{ path_end {rules.EVENTS} }} {but}
    # Whoever closes has left, and the server is told; half a close cannot be told from a whole one.
    option abortonclose
    # How long each server takes, and how often; see skyriver.control.outliers.
    http-response set-var(txn.took) date(0,us),sub(txn.arrived)
    http-response set-var-fmt(txn.server) %[be_name]/%[srv_name]
    http-response track-sc2 var(txn.server) table {ANSWERS}
    http-response sc-inc-gpc(0,2)
    http-response sc-add-gpc(1,2) var(txn.took)
    http-request set-timeout server var(txn.left) if {{ var(txn.left) -m int lt {SERVER_MS} }}
    {_return(rules.OVERLOADED)} if {{ avg_queue gt {SERVER_REQUESTS} }}

"""


def _frontend(settings: Settings) -> str:
    """Every rule costs time for each request, those too that do not apply: what most requests do not need stands behind
    an `allow`, which ends the rules for those that are done."""
    as_json = "content-type application/json"
    tls = ""
    if settings.tls is not None:
        address, port = settings.tls
        tls = f"    bind {address}:{port} ssl crt {CERTIFICATE} alpn h2,http/1.1 ssl-min-ver TLSv1.2\n"
    return f"""\
frontend way_in from base
    # HTTP/2 as well, to who begins with it.
    bind {settings.address}:{settings.port}
{tls}    # A filter of this section alone: one more in the backends would look at each request again.
    compression algo gzip
    compression type application/json application/problem+json
    acl for_control path_beg /api/
    acl of_version path,field(5,/) -m str versions
    acl by_version var(txn.version) -m found
    acl up var(txn.slot),nbsrv gt 0
    acl limited var(txn.choices) -m end {LIMITED}
    acl looking method {" ".join(rules.LOOKING)}
    acl read_only var(txn.token),concat({READ_ONLY}),map({TOKENS}) -m found

    http-request set-var(txn.arrived) date(0,us)
    http-request del-header {rules.OWN_HEADERS} -m beg
    # No connection is handed over as a tunnel: what goes through it would pass by the rules below.
    http-request del-header upgrade
    # Servers know paths; which host was asked for is nobody's business here.
    http-request set-uri %[pathq] if {{ url_beg -i http }}
    http-request set-var(txn.id) req.fhdr({rules.ID_HEADER})
    http-request set-var(txn.id) uuid() unless {{ var(txn.id) -m reg ^{rules.ID_PATTERN}$ }}
    http-request set-header {rules.ID_HEADER} %[var(txn.id)]
    http-after-response set-header {rules.ID_HEADER} %[var(txn.id)] if {{ var(txn.id) -m found }}
    http-after-response set-var(txn.code) res.fhdr({CODE_HEADER}) if {{ status ge 400 }}
    http-after-response del-header {CODE_HEADER} if {{ status ge 400 }}
{_recording(settings)}\
    {_return(rules.BAD_REQUEST)} if METH_CONNECT
    http-request return status 200 {as_json} string '{{"live":true}}' if {{ path {" ".join(rules.LIVE_PATHS)} }}
    http-request return status 200 {as_json} string '{{"ready":true}}' if {{ path {rules.READY_PATH} }}

    http-request set-var(txn.token) http_auth_bearer,sha2(256),hex
    http-request set-var(txn.tenant) var(txn.token),map({TOKENS})
    {_return(rules.UNAUTHENTICATED)} unless {{ var(txn.tenant) -m found }}
    {_return(rules.BAD_PATH)} if {{ path_sub -i /. /%2e }}
    {_return(rules.NOT_ALLOWED)} if {{ path_beg {rules.STREAMS} }} !looking read_only
    # Nothing of these names is left by now. `concat` makes a text of a number.
    http-request add-header {rules.TENANT_HEADER} %[var(txn.tenant)]
    http-request add-header {rules.ARRIVED_HEADER} {_ARRIVED}
{_deadline()}
    # The control plane asks who it is itself; a tenant's process never sees a token.
    http-request allow if for_control
    http-request del-header authorization
    # HAProxy knows no least size for compression; to little that was sent, little is answered.
    http-request del-header accept-encoding if METH_POST {{ req.fhdr(accept-encoding) -m found }} \
{{ req.hdr_val(content-length) lt {SMALL_BYTES} }}
    {_return(rules.BODY_TOO_LARGE)} if {{ req.body_size gt {rules.BODY_LIMIT} }}
    # Before the slot is chosen: from there to its server a request waits for nothing, so that `settle` covers it. As
    # long as a head may take, for what has not arrived counts for no limit of requests at once.
    http-request wait-for-body time 10s
{_route()}
{_limits()}
    http-response del-header server

    use_backend %[var(txn.slot)] if {{ var(txn.slot) -m found }}
    use_backend control if for_control

"""


_ARRIVED = "%[var(txn.arrived),concat(),bytes(0,10)].%[var(txn.arrived),concat(),bytes(10,6)]"


def _route() -> str:
    key = "http-request set-var-fmt(txn.key) %[var(txn.tenant)]"
    version = "/version/%[path,field(4,/)]/%[path,field(6,/)]"
    choices = "".join(
        f"    http-request set-var(txn.slot) var(txn.choices),field({n},:) {'' if n == 1 else 'unless up'}\n"
        for n in range(1, CHOICES + 1)
    )
    split = "if { var(txn.choices) -m str split }"
    return f"""
    {key}/model/%[path,field(4,/)] if {{ path_beg /v2/models/ }}
    {key}/model/%[path,field(3,/)] if {{ path_beg /predict/ }}
    {key}/stream/%[path,field(3,/)] if {{ path_beg {rules.STREAMS} }}
    http-request set-var-fmt(txn.version) %[var(txn.tenant)]{version} if {{ path_sub /versions/ }} \
{{ path_beg /v2/models/ }} of_version
    http-request set-var(txn.choices) var(txn.version),map({ROUTES}) if by_version
    http-request set-var(txn.choices) var(txn.key),map({ROUTES}) unless by_version
    http-request set-var(txn.slot) var(txn.choices),field(1,:)
    http-request allow if up !limited

    # What is split, limited, not there, or down.
    http-request set-var-fmt(txn.bucket) %[var(txn.key)]/%[rand({BUCKETS})] {split}
    http-request set-var(txn.choices) var(txn.bucket),map({ROUTES}) {split}
    # Once more, in case that routes.map was swapped between the look-up of the route and that of its bucket.
    http-request set-var(txn.choices) var(txn.key),map({ROUTES}) {split}
    http-request set-var(txn.choices) var(txn.bucket),map({ROUTES}) {split}
{_of_the_protocol()}\
    {_return(rules.UNKNOWN_ROUTE)} unless {{ var(txn.choices) -m found }}
{choices}\
    http-request set-var(txn.slot) var(txn.choices),field(1,:) unless up
    http-request set-var(txn.last) var(txn.slot),map({LAST}) unless up
    {_return(rules.NO_ROOM)} if !up {{ var(txn.choices) -m sub {FULL} }}
    {_return(rules.NO_CAPACITY)} unless up or {{ var(txn.last) -m found }}
    http-request allow unless limited
"""


def _of_the_protocol() -> str:
    """What the Open Inference Protocol asks of a server, whichever its models."""
    metadata = json.dumps(protocol.server_metadata(__version__))
    parts = " ".join(protocol.OF_THE_SERVER)
    return f"""\
    http-request return status 200 content-type application/json string '{metadata}' if looking \
{{ path {" ".join(protocol.METADATA_PATHS)} }}
    {_return(rules.NOT_SUPPORTED)} if {{ path_beg /v2/ }} {{ path,field(3,/) -m str {parts} }}
    {_return(rules.NOT_SUPPORTED)} if {{ path {protocol.ALL_STATISTICS} }} !{{ var(txn.choices) -m found }}
"""


def _deadline() -> str:
    given = "var(txn.until)"
    # In microseconds: whole seconds, then the first six decimals, of 1767225600.25 or 1767225600.
    whole, decimals = f"{given},concat(.000),field(1,.)", f"{given},concat(.000),field(2,.),concat(000000),bytes(0,6)"
    return f"""
    http-request set-var(txn.until) req.fhdr({rules.DEADLINE_HEADER})
    acl waits {given} -m found
    {_return(rules.BAD_DEADLINE)} if waits !{{ {given} -m reg ^{rules.DEADLINE_PATTERN}$ }}
    http-request set-var-fmt(txn.deadline) %[{whole}]%[{decimals}] if waits
    http-request set-var(txn.left) var(txn.deadline),sub(txn.arrived),div(1000) if waits
    {_return(rules.DEADLINE_EXCEEDED)} if {{ var(txn.left) -m int le 0 }}
"""


def _limits() -> str:
    """What is refused is not counted: a client that sends too much gets what it may have, not nothing."""
    text = ""
    for number, (of, table) in enumerate((("key", ROUTE_COUNTS), ("tenant", TENANT_COUNTS))):
        limited = f"if {{ var(txn.limits_{of}) -m found }}"
        text += f"""
    http-request set-var(txn.limits_{of}) var(txn.{of}),concat({LIMITS}),map({ROUTES})
    http-request track-sc{number} var(txn.{of}) table {table} {limited}
    http-request set-var(txn.rate_{of}) var(txn.limits_{of}),field(1,:),add(0) {limited}
    http-request set-var(txn.once_{of}) var(txn.limits_{of}),field(2,:),add(0) {limited}
    {_return(rules.TOO_MANY_AT_ONCE)} if {{ var(txn.once_{of}) -m int gt 0 }} \
{{ sc{number}_conn_cur,sub(txn.once_{of}) gt 0 }}
    {_return(rules.RATE_LIMITED)} if {{ var(txn.rate_{of}) -m int gt 0 }} \
{{ sc{number}_gpc0_rate,sub(txn.rate_{of}) ge 0 }}
"""
    for number, of in enumerate(("key", "tenant")):
        text += f"    http-request sc-inc-gpc0({number}) if {{ var(txn.rate_{of}) -m int gt 0 }}\n"
    return text


def _counts() -> str:
    limits = "type string len 192 size 100k expire 10s store gpc0,gpc0_rate(1s),conn_cur"
    tables = {
        ROUTE_COUNTS: limits,
        TENANT_COUNTS: limits,
        ANSWERS: "type string len 320 size 10k expire 1h store gpc(2)",
    }
    return "".join(f"backend {name} from base\n    stick-table {table}\n\n" for name, table in tables.items())


def _control(settings: Settings) -> str:
    return f"""\
backend control from base
    # Event streams are silent for long.
    timeout server 1h
    retries 0
    errorfile 503 {rules.CONTROL_AWAY.code.lower()}.http
    server control unix@{rules.check_socket(settings.control_socket)}

"""


_ASKED = f"%[path,bytes(0,{rules.ASKED_LENGTH}),json(ascii)]"


def _return(answer: Answer) -> str:
    body = answer.body().decode()
    if "'" in body:
        raise Internal(f"{answer.code}: an apostrophe would end the quoted text.", code="UNSAFE_ANSWER")
    headers = "".join(f" hdr {name} {value}" for name, value in (*answer.headers, (CODE_HEADER, answer.code)))
    text = f"string '{body}'"
    if rules.ASKED in body:
        text = f"lf-string '{body.replace('%', '%%').replace(rules.ASKED, _ASKED)}'"
    return f"http-request return status {answer.status} content-type application/problem+json {text}{headers}"


def _error_files() -> dict[str, str]:
    texts = {}
    for answer in (*_OWN_ERRORS, rules.CONTROL_AWAY):
        body = answer.body().decode()
        head = [
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
            "content-type: application/problem+json",
            f"content-length: {len(body.encode())}",
            *(f"{name}: {value}" for name, value in (*answer.headers, (CODE_HEADER, answer.code))),
        ]
        texts[f"{answer.code.lower()}.http"] = "\r\n".join([*head, "", body])
    return texts
