"""The port for brokers from which a stream's events come, beside HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from skyriver.core.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Message:
    """What the broker delivered. `handle` is the source's own, by which it acknowledges."""

    payload: bytes
    redelivered: bool = False
    """The broker has delivered it before, as far as it says."""
    handle: Any = field(default=None, compare=False, repr=False)


class Source(Protocol):
    """One durable subscription at a broker; its name there outlives processes and connections.

    MUST: a message that the broker has for the subscription is delivered until it is acknowledged, and each one at
    most once a connection. After `connect` come first those that were delivered on an earlier connection, by whatever
    process, and not acknowledged, in the broker's order; then the newer ones. What was acknowledged before an orderly
    `close` does not come again. No more than the declared number of messages are delivered and not acknowledged.
    `connect` raises Unavailable (BROKER_AWAY) where the broker does not answer, and NotAllowed, InvalidInput, NotFound
    or Conflict where it answers and refuses. It may be called again after any error, and after `close`. `receive` waits
    for at least one message and raises Unavailable once the connection is lost; `acknowledge` of messages of a
    connection that is lost does nothing. One task at a time, but for `lag`.
    """

    async def connect(self) -> None: ...

    async def receive(self) -> list[Message]:
        """What waits, in the broker's order; at most some megabytes."""
        ...

    async def acknowledge(self, messages: Sequence[Message]) -> None: ...

    async def lag(self) -> int | None:
        """Messages that the broker has for this subscription and has not delivered; None where it cannot tell."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Access:
    """What a machine knows of one broker: where it may be used, and what for. `ca`, `certificate`, `key` and `creds`
    are files of the machine."""

    hosts: tuple[str, ...] = ()
    """HOST:PORT: to no other are secrets sent, whatever address an application names."""
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca: str = ""
    certificate: str = ""
    key: str = ""
    creds: str = ""
    """A file of NATS with a JWT and its seed."""
    monitor: str = ""
    """The monitoring address of a NATS server that holds a log, or a user of its system account: see
    `skyriver.adapters.nats.proof`."""
    system_user: str = ""
    system_password: str = field(default="", repr=False)

    @classmethod
    def of(cls, document: Mapping[str, Any], where: str) -> Access:
        """Raises InvalidInput (BAD_CREDENTIALS), which names no value."""
        hosts = document.get("hosts")
        texts = {key: value for key, value in document.items() if key != "hosts"}
        unknown = sorted(set(texts) - set(cls.__slots__))
        if unknown:
            raise _bad(f"{unknown[0]!r} is not known", where)
        wrong = [key for key, value in texts.items() if not isinstance(value, str)]
        if wrong:
            raise _bad(f"{wrong[0]} is no text", where)
        if not isinstance(hosts, list) or not hosts or not all(isinstance(host, str) and host for host in hosts):
            raise _bad("hosts does not list the brokers that they are for", where)
        return cls(hosts=tuple(hosts), **texts)


def _bad(why: str, where: str) -> InvalidInput:
    return InvalidInput(
        f"The file of credentials is wrong: {why}.",
        code="BAD_CREDENTIALS",
        where=where,
        next_action='Write TOML: hosts = ["broker.plant:1883"], user, password, token, ca, certificate, key, creds,'
        " monitor, system_user, system_password.",
    )
