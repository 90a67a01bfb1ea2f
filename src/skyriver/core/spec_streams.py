"""Of an application's specification: streams and tables, and what belongs to a stream."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from skyriver.core.brokers import check_broker, check_credentials, check_subject, check_topic
from skyriver.core.errors import InvalidInput
from skyriver.core.spec_base import FieldName, Name, Spec
from skyriver.core.spec_fields import FieldSpec
from skyriver.core.units import SECOND

Durability = Literal["process", "disk"]
OF_TEXTS = "Of a text there are (channel == 'web'), channel.is_missing() and sr.distinct; give a number otherwise."

MOST_LINGER = 10_000
"""Microseconds: meanwhile a stream's worker does nothing else."""


class LabelSpec(Spec):
    name: FieldName
    delay_us: int = Field(ge=0)


class ReferenceSpec(Spec):
    """Rows about something that events name by its id, such as a shop: each is current from its time on, until the
    next one of the same id. One with `until` is a list, which rules read."""

    name: FieldName
    fields: tuple[FieldSpec, ...]
    id: str
    time: str
    # These two are left out where there are none, as those of StreamSpec.
    until: str = Field(default="", exclude_if=lambda value: not value)
    """A field: when a row ends, though no other one has come; missing: it does not."""
    by: str = Field(default="", exclude_if=lambda value: not value)
    """The event's field by which rules look up the list's fields."""

    def field(self, name: str) -> FieldSpec:
        return next(f for f in self.fields if f.name == name)


class MqttSpec(Spec):
    """Topics of an MQTT broker, taken with QoS 1 in a session that the broker keeps while the worker is away."""

    kind: Literal["mqtt"] = "mqtt"
    url: Annotated[str, AfterValidator(partial(check_broker, ports={"mqtt": 1883, "mqtts": 8883}))]
    topic: Annotated[str, AfterValidator(check_topic)]
    durable: Name
    """The client's id: the broker knows by it what was taken. No two clouds may have the same one at one broker."""
    credentials: Annotated[str, AfterValidator(check_credentials)] = ""
    """The name of a file of the worker's machine, HOME/brokers/TENANT/NAME.toml; "": none are needed."""
    in_flight: int = Field(default=1_000, ge=1, le=65_535)
    """Messages that are held at most before they are in the log; the broker waits with the others."""
    version: Literal["5", "3.1.1"] = "5"
    """Of the protocol."""


class NatsSpec(Spec):
    """Subjects of a stream of NATS JetStream, taken by a durable consumer with explicit acknowledgement."""

    kind: Literal["nats"] = "nats"
    url: Annotated[str, AfterValidator(partial(check_broker, ports={"nats": 4222, "tls": 4222}))]
    subject: Annotated[str, AfterValidator(check_subject)]
    durable: Name
    """The consumer's name: the server knows by it what was taken."""
    credentials: Annotated[str, AfterValidator(check_credentials)] = ""
    in_flight: int = Field(default=1_000, ge=1, le=65_535)


class NatsLogSpec(Spec):
    """A log that NATS JetStream holds, in place of files of the worker's machine."""

    url: Annotated[str, AfterValidator(partial(check_broker, ports={"nats": 4222, "tls": 4222}))]
    name: Name
    """The stream of JetStream: no two logs may have the same one at one server."""
    credentials: Name
    """They must be there: they also show that the server syncs before it acknowledges."""


SourceSpec = Annotated[MqttSpec | NatsSpec, Field(discriminator="kind")]


PARTS_OF_STREAMS = ("labels", "decisions", "dead", "rejected")
"""Tables of every stream, `<stream>.<part>`; a reference's table is `<stream>.<reference>`."""


class StreamSpec(Spec):
    """A stream of events; it owns the table of its name (DESIGN 6.9)."""

    name: Name
    fields: tuple[FieldSpec, ...]
    id: str
    time: str
    key: str
    labels: tuple[LabelSpec, ...] = ()
    disorder_us: int = Field(default=5 * SECOND, ge=0)
    ahead_us: int = Field(default=60 * SECOND, ge=0)
    dedupe_us: int = Field(default=86_400 * SECOND, ge=0)
    durability: Durability = "disk"
    zone: str = "UTC"
    max_bad: float = Field(default=0.05, ge=0, le=1)
    source: SourceSpec | None = None
    """A broker from which events come, beside HTTP."""
    log: NatsLogSpec | None = None
    """Where the log is; None: in files of the worker's machine."""
    retention_us: int = Field(default=0, ge=0)
    """How long the log keeps a record, in the time of the events. 0: for ever."""
    retention_bytes: int = Field(default=0, ge=0)
    """How large the log may become. 0: as large as it does."""
    local_bytes: int = Field(default=10_000_000_000, ge=0)
    """How much of the log lies on the worker's disk, where the cloud has a tier for the rest."""
    # These two are left out where there are none, so that a specification from before there were any keeps its digest.
    references: tuple[ReferenceSpec, ...] = Field(default=(), exclude_if=lambda value: not value)
    linger_us: int = Field(default=0, ge=0, le=MOST_LINGER, exclude_if=lambda value: not value)
    """How long an event may wait for others, to be worked on and written together with them."""

    @model_validator(mode="after")
    def _kept(self) -> Self:
        if self.log is not None and (self.durability != "disk" or self.retention_us or self.retention_bytes):
            raise InvalidInput(
                f"The log of {self.name} is in NATS: it is always on the disk, and kept whole.",
                code="BAD_STREAM",
                next_action="Leave out durability=, retention= and retention_bytes=, or log=.",
            )
        return self

    def field(self, name: str) -> FieldSpec:
        return next(f for f in self.fields if f.name == name)


class TableSpec(Spec):
    """A table without a stream, loaded from files."""

    name: Name
    fields: tuple[FieldSpec, ...]
    id: str
    max_bad: float = Field(default=0.05, ge=0, le=1)

    def field(self, name: str) -> FieldSpec:
        return next(f for f in self.fields if f.name == name)
