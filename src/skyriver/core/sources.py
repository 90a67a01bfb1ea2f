"""Declaring where a stream's events come from, beside HTTP: `app.stream(..., source=sr.Mqtt(...))`; and where its log
is: `app.stream(..., log=sr.NatsLog(...))`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from skyriver.core.errors import InvalidInput
from skyriver.core.misread import wrong
from skyriver.core.spec import MqttSpec, NatsLogSpec, NatsSpec


@dataclass(frozen=True)
class Mqtt:
    """An MQTT broker: `Mqtt("mqtt://broker.plant", topic="plant/+/events", durable="risk")`.

    See `skyriver.core.spec.MqttSpec` for what each option does.
    """

    spec: MqttSpec

    def __init__(
        self,
        url: str,
        *,
        topic: str,
        durable: str,
        credentials: str = "",
        in_flight: int = 1_000,
        version: Literal["5", "3.1.1"] = "5",
    ) -> None:
        given = {"durable": durable, "credentials": credentials, "in_flight": in_flight, "version": version}
        with _told_as("sr.Mqtt"):
            spec = MqttSpec.model_validate({"url": url, "topic": topic, **given})
        object.__setattr__(self, "spec", spec)


@dataclass(frozen=True)
class Nats:
    """A stream of NATS JetStream: `Nats("nats://broker.plant", subject="plant.>", durable="risk")`.

    See `skyriver.core.spec.NatsSpec` for what each option does.
    """

    spec: NatsSpec

    def __init__(self, url: str, *, subject: str, durable: str, credentials: str = "", in_flight: int = 1_000) -> None:
        with _told_as("sr.Nats"):
            spec = NatsSpec(url=url, subject=subject, durable=durable, credentials=credentials, in_flight=in_flight)
        object.__setattr__(self, "spec", spec)


@dataclass(frozen=True)
class NatsLog:
    """A log that NATS JetStream holds: `NatsLog("nats://broker.plant", name="risk", credentials="bus")`.

    See `skyriver.core.spec.NatsLogSpec` for what each option does.
    """

    spec: NatsLogSpec

    def __init__(self, url: str, *, name: str, credentials: str) -> None:
        with _told_as("sr.NatsLog"):
            spec = NatsLogSpec(url=url, name=name, credentials=credentials)
        object.__setattr__(self, "spec", spec)


@contextmanager
def _told_as(what: str) -> Iterator[None]:
    """What does not fit, in the user's words. The value is left out: an address may hold a password."""
    try:
        yield
    except ValidationError as error:
        found = error.errors(include_input=False)[0]
        raise InvalidInput(
            f"{what}: {wrong(found)}.",
            code="BAD_SOURCE",
            next_action=f"`help({what})` tells what it takes; nothing was done.",
        ) from None
