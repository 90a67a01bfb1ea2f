"""The port for the way in: one address, tokens checked, requests sent to replicas and workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from skyriver.core.resources import Pool, RouteTable


class Gateway(Protocol):
    """Listens on loopback and forwards.

    What a client meets, and every implementation MUST do:
    - `/livez`, `/v2/health/live` and `/v2/health/ready` answer 200 without a token while the gateway itself lives.
    - anything else needs `Authorization: Bearer TOKEN` with a token of the table, else 401; errors are
      `application/problem+json` with `code`, `detail`, `next_action`.
    - `/api/...` goes to the control plane's socket (503 CONTROL_AWAY while it is away).
    - `/v2/models/NAME/...`, `/predict/NAME` and `/streams/NAME/...` go by the routes of the token's tenant:
      404 UNKNOWN_ROUTE without a route, 503 with `Retry-After` while its pools are empty or down;
      `/v2/models/NAME/versions/V/...` goes straight to the pool `NAME:V`.
    - `GET /v2` says what a server of the Open Inference Protocol is; what of the protocol is not there and names no
      model is 501 NOT_SUPPORTED. Every problem says it in `error` too, where that protocol's clients look.
    - a target with a host in it (`http://host/path`) is the same as its path.
    - on `/streams/...` a token of `read_only` gets 403 NOT_ALLOWED for all but GET and HEAD, and nothing of the
      request reaches a worker: workers ask nobody who they are.
    - the request carries `x-skyriver-tenant` with the token's tenant and `x-skyriver-arrived` with the time of its
      arrival; those from outside are removed.
    - each request has an id: the `x-request-id` that it came with, if that is harmless, else a new one. Servers get
      it, and each answer carries it, the gateway's own ones too.
    - a request whose `x-request-deadline` is over gets 504 DEADLINE_EXCEEDED and reaches no server; one that is
      under way then gets 504 as well. One that is no time gets 400 BAD_DEADLINE.
    - beyond a route's or a tenant's `RequestLimit` a request to models and streams gets 429 with `Retry-After`,
      RATE_LIMITED or TOO_MANY_AT_ONCE, and reaches no server; what is refused does not count against a limit.
      Limits change with the table, without losing what was counted.
    - a request that reads, predicts or gives events, and whose server ended before its answer began, is sent once more,
      to another server; 502 UPSTREAM_FAILED when that one ends too, and for all other requests. It MAY be answered so
      at once where the request is large. A connection that answered before MAY be closed in place of that answer.
    - a client that leaves, or closes its sending side, before its answer: its server sees the connection end.
    - what cannot be answered soon is refused rather than kept waiting: 503 with `Retry-After` for servers that have
      all they may have, and as much again in the queue.
    - while somebody looks, a server that answers much slower than its siblings, or fails when they do not, gets no
      more requests within 2 s, and is let in again by steps (see `outliers`); what it has it may end. At most half of
      a pool's servers that are up are out, and when the others end, those that are out get what comes.
    - `apply` changes running traffic without failing a request, and is on disk before it takes effect, so that a
      gateway started anew without the control plane serves the same table. Applying the same table again
      changes nothing and is cheap, for it is done in every pass; unless somebody else applied another one in between:
      then it is put right. A server that is taken out gets no new requests and ends those it has.
    """

    def start(self) -> None:
        """Starts listening, or adopts the one that runs. Raises Conflict (PORT_IN_USE) naming the port."""
        ...

    def apply(self, table: RouteTable) -> Sequence[Pool]:
        """Returns the pools for which there was no room: what asks for them is answered 503 TOO_MANY_POOLS. All else
        of the table is in force, tokens and limits before all; pools that have room keep it, and one tenant's pools
        never take all of it. Raises when it is not known to be in force: then servers of this table and of the last
        one may get requests."""
        ...

    def table(self) -> RouteTable:
        """The last table that was applied, by whichever control plane; empty before the first."""
        ...

    def sessions(self) -> Mapping[str, int]:
        """Requests under way per server name, of all servers known to the gateway (also those being drained)."""
        ...

    def look(self) -> Mapping[str, int]:
        """Looks how servers answered since the last look, and gives them their weights. Whoever looks after the gateway
        does so every LOOK_SECONDS, from one object; without looks all goes on with the weights there are. Returns the
        servers that have less than their full weight, with it in percent; none while it is away."""
        ...

    def stop(self) -> None: ...
