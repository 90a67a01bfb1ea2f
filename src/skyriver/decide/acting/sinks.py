"""The port for receivers of decisions, and what a machine's operator says of one: where it is, and its secrets."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

from skyriver.core.errors import InvalidInput, NotAllowed
from skyriver.decide.worker.sources import Access

TIMEOUT_S = 10.0
MOST_TIMEOUT_S = 120.0
SECRET_BYTES = range(24, 65)
"""Of a key that signs, as the Standard Webhooks have it."""
SECRET_PREFIX = "whsec_"
_OF_NATS = ("user", "password", "token", "creds")
_OF_ACCESS = ("ca", "certificate", "key", *_OF_NATS)
_OF_BOTH = ("url", "ca", "certificate", "key", "timeout_s")
WEBHOOK_WORDS = frozenset({*_OF_BOTH, "secrets", "headers", "allow_http"})
"""What a file may say of a receiver over HTTP."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One decision on its way to one receiver. `id` is the same each time it is tried: by it the receiver knows what
    it has."""

    id: str
    stream: str
    decision: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Taken:
    """The receiver has it for good."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The receiver will never take it as it is: trying again is of no use before something was changed."""

    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It may have it or not; it is to be tried again, `wait_us` from now at the earliest."""

    message: str
    wait_us: int = 0


Answer = Taken | Refused | Failed


class Sink(Protocol):
    """One receiver.

    MUST: `deliver` returns Taken only once the receiver has said that it has it for good; whatever else happens within
    its time limit is Failed or Refused. It raises a SkyriverError where nothing was sent, for what this machine knows
    of the receiver cannot be used. Any number of deliveries may be under way at once; it may be called again after
    anything. It sends to no other place than its file names.
    """

    async def deliver(self, delivery: Delivery) -> Answer: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sink is. `access` is for TLS and for NATS, `subject` for NATS, the others for webhooks."""

    url: str
    access: Access = field(default_factory=Access)
    timeout_s: float = TIMEOUT_S
    subject: str = ""
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """Each signs; while one is exchanged there are two."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, document: Mapping[str, Any], where: str) -> Place:
        """Raises InvalidInput (BAD_SINK_FILE), NotAllowed (INSECURE_SINK); no message has a value of it."""
        url = document.get("url")
        if not isinstance(url, str):
            _bad("url says where it is", where)
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            _bad("url is not understood", where)
        fits = url.isascii() and url.isprintable() and " " not in url
        if parts.scheme not in ("https", "http", "nats", "tls") or not host or not fits:
            _bad("url is not understood", where)
        if parts.username is not None or parts.fragment:
            _bad("url holds a user or a fragment", where)
        nats = parts.scheme in ("nats", "tls")
        known = {*_OF_BOTH, "subject", *_OF_NATS} if nats else WEBHOOK_WORDS
        unknown = sorted(set(document) - known)
        if unknown:
            _bad(f"{unknown[0]!r} is not known of a sink with {parts.scheme}://", where)
        timeout = document.get("timeout_s", TIMEOUT_S)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= MOST_TIMEOUT_S:
            _bad(f"timeout_s is no number of seconds up to {MOST_TIMEOUT_S:g}", where)
        access = Access.of({"hosts": [host], **_given(document, _OF_ACCESS, where)}, where)
        if nats:
            return cls(url, access, float(timeout), _subject(document, where))
        if parts.scheme == "http" and document.get("allow_http") is not True and not _is_loopback(host):
            raise NotAllowed(
                "The sink's address is http, and not of this machine: anybody on the way could read and change it.",
                code="INSECURE_SINK",
                where=where,
                next_action="Use https, or write allow_http = true into the file.",
            )
        return cls(url, access, float(timeout), "", _secrets(document, where), _headers(document, where))


def _given(document: Mapping[str, Any], names: Sequence[str], where: str) -> dict[str, str]:
    return {name: _text(document, name, where) for name in names if name in document}


def _subject(document: Mapping[str, Any], where: str) -> str:
    subject = _text(document, "subject", where)
    tokens = subject.replace("{stream}", "s").replace("{decision}", "d").split(".")
    if not all(t and t.isprintable() and not set(t) & set(" *>{}") for t in tokens):
        _bad("subject is no subject of NATS; {stream} and {decision} may stand in it", where)
    return subject


def _secrets(document: Mapping[str, Any], where: str) -> tuple[bytes, ...]:
    given = document.get("secrets")
    if not isinstance(given, list) or not 1 <= len(given) <= 3 or not all(isinstance(text, str) for text in given):
        _bad('secrets lists no keys that sign, as in ["whsec_..."]', where)
    found = []
    for text in given:
        try:
            key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) not in SECRET_BYTES or not text.startswith(SECRET_PREFIX):
            _bad(
                f"a secret is not {SECRET_PREFIX} and the base64 of {SECRET_BYTES[0]} to {SECRET_BYTES[-1]} bytes",
                where,
            )
        found.append(key)
    return tuple(found)


def _headers(document: Mapping[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    given = document.get("headers", {})
    if not isinstance(given, dict):
        _bad("headers is no table", where)
    for name, value in given.items():
        fine = isinstance(value, str) and value.isascii() and value.isprintable()
        if not fine or not name.replace("-", "").isalnum() or not name.isascii():
            _bad(f"the header {name!r} cannot be sent", where)
        if name.lower() in _OURS or name.lower().startswith("webhook-"):
            _bad(f"the header {name!r} is Skyriver's to set", where)
    return tuple(given.items())


_OURS = frozenset({"content-type", "content-length", "host", "idempotency-key", "transfer-encoding", "connection"})


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _text(document: Mapping[str, Any], key: str, where: str) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not value:
        _bad(f"{key} is no text", where)
    return value


def _bad(why: str, where: str) -> NoReturn:
    raise InvalidInput(
        f"The file of the sink is wrong: {why}.",
        code="BAD_SINK_FILE",
        where=where,
        next_action='Write TOML: url = "https://...", secrets = ["whsec_..."], and if needed headers, timeout_s, ca,'
        " certificate, key; or for NATS url, subject, user, password, token, creds, ca.",
    )
