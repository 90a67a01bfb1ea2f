"""How brokers are named in an application: addresses, topics, subjects. No secret may stand in any of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NoReturn
from urllib.parse import SplitResult, urlsplit

from skyriver.core.errors import InvalidInput
from skyriver.core.names import check_name

_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}|[0-9A-Fa-f:.]{2,45}")
_TOPIC_BYTES = 65_535


def check_broker(url: str, *, ports: Mapping[str, int]) -> str:
    """SCHEME://HOST:PORT, with the port that the scheme has unless another is named. What is wrong is told without the
    address: it may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        _refuse("The broker's address is not understood.", _example(ports))
    if "@" in parts.netloc or parts.username is not None:
        _refuse(
            "The broker's address holds a user or a password: it would stand in the specification, for all to read.",
            'Write them into a file of the worker\'s machine and name it: credentials="plant".',
            code="SECRET_IN_URL",
        )
    if parts.scheme not in ports or not parts.hostname or not _HOST.fullmatch(parts.hostname):
        _refuse("The broker's address is not understood.", _example(ports))
    if parts.path.strip("/") or parts.query or parts.fragment:
        _refuse("The broker's address goes on behind its port.", "Name topics with topic=, subjects with subject=.")
    return f"{parts.scheme}://{_place(parts)}:{port or ports[parts.scheme]}"


def host_of(url: str) -> str:
    """HOST:PORT of a checked address."""
    return url.partition("://")[2]


def check_topic(topic: str) -> str:
    """A topic filter of MQTT: `+` stands for one level, `#` at the end for all below."""
    levels = topic.split("/")
    fits = 0 < len(topic.encode()) <= _TOPIC_BYTES and "\0" not in topic
    fits = fits and all(level == "+" or "+" not in level for level in levels)
    fits = fits and "#" not in "".join(levels[:-1]) and levels[-1].count("#") == levels[-1:].count("#")
    if not fits:
        _refuse(f"{topic!r} is no topic of MQTT.", 'Write e.g. "plant/+/events", or "plant/#" for all below.')
    return topic


def check_subject(subject: str) -> str:
    """A subject of NATS: `*` stands for one token, `>` at the end for all that follow."""
    tokens = subject.split(".")
    fits = all(tokens) and not any(c.isspace() or not c.isprintable() for c in subject)
    fits = fits and all(token == "*" or "*" not in token for token in tokens)
    fits = fits and ">" not in "".join(tokens[:-1]) and tokens[-1].count(">") == tokens[-1:].count(">")
    if not fits:
        _refuse(f"{subject!r} is no subject of NATS.", 'Write e.g. "plant.*.events", or "plant.>" for all below.')
    return subject


def check_credentials(name: str) -> str:
    return check_name(name, "credentials") if name else name


def _place(parts: SplitResult) -> str:
    host = parts.hostname or ""
    return f"[{host}]" if ":" in host else host


def _example(ports: Mapping[str, int]) -> str:
    return (
        "Write " + " or, with TLS, ".join(f'"{scheme}://broker.plant:{port}"' for scheme, port in ports.items()) + "."
    )


def _refuse(message: str, next_action: str, *, code: str = "BAD_SOURCE") -> NoReturn:
    raise InvalidInput(message, code=code, next_action=next_action)
