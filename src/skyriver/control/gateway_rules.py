"""What every gateway answers by itself, and which route tables it refuses: the same words whoever forwards."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from skyriver.core.errors import InvalidInput, QuotaExceeded, SkyriverError
from skyriver.core.names import check_name
from skyriver.core.resources import Pool, RequestLimit, Route, RouteTable, Server

TENANT_HEADER = "x-skyriver-tenant"
OWN_HEADERS = "x-skyriver-"
"""Headers that begin so are the cloud's own; what comes from outside is removed."""
ARRIVED_HEADER = "x-skyriver-arrived"
"""When the request reached the gateway: Unix time in seconds, with decimals."""
ID_HEADER = "x-request-id"
ID_PATTERN = r"[A-Za-z0-9._:/+=@-]{1,128}"
"""An id from outside that is not so is replaced: it goes into logs."""
DEADLINE_HEADER = "x-request-deadline"
"""Until when somebody waits for the answer: Unix time in seconds, with up to nine decimals."""
DEADLINE_PATTERN = r"[0-9]{1,11}([.][0-9]{1,9})?"
BODY_LIMIT = 64 * 1024 * 1024
OWN_LIMIT = 16 * 1024 * 1024
"""Of what replicas and workers take in one request, which they refuse themselves."""
"""Bytes of a request to a replica or worker, by its content-length; uploads to the control plane are not limited."""
LIVE_PATHS = ("/livez", "/v2/health/live")
READY_PATH = "/v2/health/ready"
"""Of the gateway itself, without a token. On a server's own socket the same path says whether that server is ready:
any answer below 500 counts as alive, so that 404 will do for a server that does not know the path."""

STREAMS = "/streams/"
EVENTS = "/events"
"""How the paths end by which streams are sent events, each of which counts once however often it comes."""
LOOKING = ("GET", "HEAD")
"""The methods that a token of `read_only` may use on streams; any other could write."""

LIMIT_MAX = 1_000_000
NAMED_POOLS = 5
SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's path on Linux (sun_path without its final zero)."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SERVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,250}")
_POOL = re.compile(r"[a-z][a-z0-9_-]{0,62}(:[1-9][0-9]{0,8})?")
_SOCKET = re.compile(r"/[\w./+=~@:-]+")  # no space, quote, $ or ; may reach a configuration file or command


ASKED = "{asked}"
"""In an answer's words: the path that was asked for."""
ASKED_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that the gateway gives itself."""

    status: int
    code: str
    detail: str
    next_action: str
    headers: tuple[tuple[str, str], ...] = ()

    def body(self, asked: str = ASKED) -> bytes:
        """`asked`: the path. `error` is what clients of the Open Inference Protocol look for."""
        problem = SkyriverError(self.detail, code=self.code, next_action=self.next_action).to_problem()
        told = {"status": self.status, "error": f"{self.detail} {self.next_action}"}
        return json.dumps(problem | told).replace(ASKED, json.dumps(asked[:ASKED_LENGTH])[1:-1]).encode()


_AGAIN = (("retry-after", "1"),)

UNAUTHENTICATED = Answer(
    401,
    "UNAUTHENTICATED",
    "The request carries no token, or one that nobody issued.",
    "Send the header `Authorization: Bearer TOKEN` with the token that the first `skyriver up` showed.",
    (("www-authenticate", "Bearer"),),
)
NOT_ALLOWED = Answer(
    403,
    "NOT_ALLOWED",
    "This token may look at streams and send nothing to them: its role does not hold the permission streams:write.",
    "Use a token with the role operator, developer or admin; an admin of the tenant can issue one.",
)
UNKNOWN_ROUTE = Answer(
    404,
    "UNKNOWN_ROUTE",
    f"There is nothing at {ASKED} that is served to this token.",
    "`skyriver service list` and `skyriver stream list` show what there is. A model that is only in the registry"
    " (`skyriver model list`) serves once an application declares it and names a version champion.",
)
NOT_SUPPORTED = Answer(
    501,
    "NOT_SUPPORTED",
    f"The extension of the protocol that {ASKED} belongs to is not there.",
    "GET /v2 tells the extensions that are; models are deployed with `skyriver deploy`.",
)
NO_CAPACITY = Answer(
    503,
    "NO_CAPACITY",
    "Nothing that could answer is up at the moment.",
    "Send the request again; `skyriver ps` shows what runs, and of a model without a version that serves what to do.",
    _AGAIN,
)
NO_ROOM = Answer(
    503,
    "TOO_MANY_POOLS",
    "The gateway has no room for this: too many services, versions and streams are served at once.",
    "Remove services, streams or old versions that are no longer needed; `skyriver doctor` names what has no room.",
    (("retry-after", "60"),),
)
CONTROL_AWAY = Answer(
    503,
    "CONTROL_AWAY",
    "The control plane is away; predictions and streams go on without it.",
    "Send the request again; `skyriver up` starts it.",
    _AGAIN,
)
BODY_TOO_LARGE = Answer(
    413,
    "BODY_TOO_LARGE",
    f"The request is larger than {BODY_LIMIT} bytes. Predictions and events have {OWN_LIMIT} at most.",
    "Send it in parts; `skyriver predict` and `skyriver table load` take whole files.",
)
BAD_REQUEST = Answer(
    400,
    "BAD_REQUEST",
    "The request is not valid HTTP, or whoever sent it closed the connection before the answer.",
    "Send it through an HTTP library or the client, and keep the connection open, in both directions.",
)
BAD_PATH = Answer(
    400, "BAD_PATH", "A part of the path begins with a dot.", "Send the path as it is documented, without dots."
)
REQUEST_TIMEOUT = Answer(
    408, "REQUEST_TIMEOUT", "The request did not arrive whole in time.", "Send it again, on a faster connection."
)
UPSTREAM_FAILED = Answer(
    502,
    "UPSTREAM_FAILED",
    "The process that had the request ended before its answer was whole; the request may have been carried out.",
    "Send it again; an event with the same id is counted once.",
)
UPSTREAM_TIMEOUT = Answer(
    504,
    "UPSTREAM_TIMEOUT",
    "The process that has the request did not answer in time; the request may have been carried out.",
    "Send it again with more time, or less at once; if that is always so, the model takes longer than the request has:"
    " `skyriver explain MODEL` tells. An event with the same id is counted once.",
)
BAD_DEADLINE = Answer(
    400,
    "BAD_DEADLINE",
    "X-Request-Deadline is no Unix time in seconds, such as 1767225600.250.",
    "Send the time until which you wait for the answer, by a clock that is right, or leave the header out.",
)
DEADLINE_EXCEEDED = Answer(
    504,
    "DEADLINE_EXCEEDED",
    "The deadline of the request was over before it could be answered.",
    "Send it again with a later X-Request-Deadline; if this comes often, see how long the model takes, by `skyriver"
    " explain MODEL`, and look at the clocks of both machines.",
)
RATE_LIMITED = Answer(
    429,
    "RATE_LIMITED",
    "More requests a second came than the model, the stream or the tenant may get.",
    "Send it again in a second, and fewer at a time.",
    _AGAIN,
)
TOO_MANY_AT_ONCE = Answer(
    429,
    "TOO_MANY_AT_ONCE",
    "As many requests are under way as the model, the stream or the tenant may have at once.",
    "Send it again when another one was answered.",
    _AGAIN,
)
OVERLOADED = Answer(
    503,
    "OVERLOADED",
    "More requests wait already than could be answered soon.",
    "Send it again in a second, or give the service more replicas.",
    _AGAIN,
)
GATEWAY_FAILED = Answer(500, "INTERNAL", "The gateway failed.", "Report it with the gateway's log.")


def too_many_pools(left: Sequence[Pool]) -> QuotaExceeded:
    """What is told of pools for which a gateway has no room."""
    named = [f"{pool.tenant}/{pool.name}" for pool in left]
    others = f" and {len(named) - NAMED_POOLS} more" if len(named) > NAMED_POOLS else ""
    return QuotaExceeded(
        f"The gateway has no room for {', '.join(named[:NAMED_POOLS])}{others}: they are answered 503.",
        code="TOO_MANY_POOLS",
        next_action=f"Remove services, streams or old versions of {', '.join(sorted({p.tenant for p in left}))} that "
        "are no longer needed.",
    )


def may_come_twice(method: str, path: str) -> bool:
    """Whether a request may be sent to another server after its own ended without an answer: it reads, or predicts, or
    gives events."""
    return method in LOOKING or not path.startswith(STREAMS) or path.endswith(EVENTS)


def placed(pool: Pool) -> Iterable[Server]:
    """The servers of a pool that can be reached: one without a socket is not placed yet."""
    return (server for server in pool.servers if server.socket)


def check_socket(path: str) -> str:
    """`path` itself, if a gateway can reach a Unix socket there. Raises InvalidInput."""
    if len(path.encode()) > SOCKET_PATH_LIMIT:
        raise InvalidInput(
            f"The socket path {path!r} has {len(path.encode())} bytes; Linux allows {SOCKET_PATH_LIMIT}.",
            code="SOCKET_PATH_TOO_LONG",
            next_action="Choose a shorter SKYRIVER_HOME.",
        )
    if not _SOCKET.fullmatch(path):
        raise InvalidInput(
            f"The socket path {path!r} must be absolute, of letters, digits and _ . / + = ~ @ : -",
            code="BAD_SOCKET_PATH",
            next_action="Choose a SKYRIVER_HOME without spaces and quotes.",
        )
    return path


def check_table(table: RouteTable) -> None:
    """Refuses a table that no gateway could carry out, or that could say more than it means in a gateway's own
    files and commands. Raises InvalidInput (BAD_ROUTE_TABLE, or the code of the name or path that is wrong)."""
    for route in table.routes:
        _check_route(route)
    for pool in table.pools:
        _check_pool(pool)
    for digest, tenant in table.tokens:
        check_name(tenant, "a tenant")
        if not _DIGEST.fullmatch(digest):
            raise _refused("a token is not given as the SHA-256 of it in small hex digits")
    if strange := set(table.read_only) - {digest for digest, _ in table.tokens}:
        raise _refused(f"{min(strange)!r} may only look, and is no token of the table")
    _check_unique("route", ((r.tenant, r.kind, r.name) for r in table.routes))
    _check_unique("pool", ((p.tenant, p.name) for p in table.pools))
    _check_unique("token", (digest for digest, _ in table.tokens))
    _check_unique("token that may only look", table.read_only)
    for tenant, limit in table.limits:
        check_name(tenant, "a tenant")
        _check_limit(limit, f"tenant {tenant!r}")
    _check_unique("limit of tenant", (tenant for tenant, _ in table.limits))


def steadied(table: RouteTable) -> RouteTable:
    """With all requests at the versions that are known to be good: nobody watches the others."""
    routes = tuple(replace(route, split=((route.steady, 100),)) if route.steady else route for route in table.routes)
    return replace(table, routes=routes)


def _check_route(route: Route) -> None:
    check_name(route.tenant, "a tenant")
    check_name(route.name, f"a {route.kind}")
    for name, weight in route.split:
        if not _POOL.fullmatch(name) or weight < 0:
            raise _refused(f"{weight}% to {name!r} is no part of a split")
    _check_limit(route.limit, f"{route.kind} {route.name!r}")
    if route.steady and route.steady not in dict(route.split):
        raise _refused(f"{route.steady!r} is to be known as good, and is no part of the split of {route.name!r}")
    if route.split and sum(weight for _, weight in route.split) != 100:
        raise _refused(f"the weights of {route.kind} {route.name!r} do not add up to 100")
    _check_unique(f"pool of {route.kind} {route.name!r}", (name for name, _ in route.split))


def _check_limit(limit: RequestLimit, of: str) -> None:
    if not (0 <= limit.per_second <= LIMIT_MAX and 0 <= limit.at_once <= LIMIT_MAX):
        raise _refused(f"the limit of {of} is not between 0 and {LIMIT_MAX:,}")


def _check_pool(pool: Pool) -> None:
    check_name(pool.tenant, "a tenant")
    if not _POOL.fullmatch(pool.name):
        raise _refused(f"{pool.name!r} names no pool")
    for server in placed(pool):
        check_socket(server.socket)
        if not _SERVER.fullmatch(server.name):
            raise _refused(f"{server.name!r} names no server")
    _check_unique(f"server of {pool.name!r}", (server.name for server in pool.servers))


def _check_unique(what: str, values: Iterable[object]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise _refused(f"{what} {twice[0]!r} is given twice")


def _refused(why: str) -> InvalidInput:
    return InvalidInput(
        f"The route table is refused: {why}.",
        code="BAD_ROUTE_TABLE",
        next_action="What was routed before stays. The control plane alone makes routes: report this with its log.",
    )
