"""Brokers: their clients, which extras bring, and what this machine knows of them."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from typing import assert_never

from skyriver.core.brokers import host_of
from skyriver.core.errors import InvalidInput, NotAllowed, NotFound
from skyriver.core.spec import AppSpec, MqttSpec, NatsLogSpec, NatsSpec, SourceSpec
from skyriver.decide.worker.sources import Access, Source
from skyriver.trust.secretfile import read_secret

_MODULES = {"mqtt": "paho.mqtt", "nats": "nats"}


def check_sources(app: AppSpec) -> None:
    """Raises InvalidInput (NO_DRIVER) when the client of a broker that the application names is not installed here."""
    for stream in app.streams:
        needed = [(stream.source.kind, stream.source.url, "source")] if stream.source is not None else []
        needed += [("nats", stream.log.url, "log")] if stream.log is not None else []
        for extra, url, what in needed:
            if _installed(_MODULES[extra]):
                continue
            raise InvalidInput(
                f"The stream {stream.name} has a {what} in a broker, and the client for it is not installed.",
                code="NO_DRIVER",
                where=url,
                next_action=f"Run `pip install 'skyriver[{extra}]'` where the cloud runs, and deploy again.",
            )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even what it is in
        return False


def open_source(spec: SourceSpec, home: Path, tenant: str) -> Source:
    """Not connected yet."""

    def access() -> Access:
        return read_access(spec, home, tenant)

    match spec:
        case MqttSpec():
            from skyriver.adapters.mqtt.source import MqttSource  # an extra

            return MqttSource(spec, access)
        case NatsSpec():
            from skyriver.adapters.nats.source import NatsSource  # an extra

            return NatsSource(spec, access)
        case _:
            assert_never(spec)


def source_name(spec: SourceSpec) -> str:
    """As people know it."""
    return f"{spec.url} {spec.topic if isinstance(spec, MqttSpec) else spec.subject}"


def read_access(spec: SourceSpec | NatsLogSpec, home: Path, tenant: str) -> Access:
    """What the credentials that the source names say, now. Raises NotFound (NO_CREDENTIALS), NotAllowed
    (SECRET_EXPOSED, CREDENTIALS_OF_OTHER_HOST), InvalidInput (BAD_CREDENTIALS), Unavailable (SECRET_UNREADABLE)."""
    if not spec.credentials:
        return Access()
    path = home / "brokers" / tenant / f"{spec.credentials}.toml"
    try:
        document = tomllib.loads(read_secret(path).decode())
    except NotFound as error:
        raise NotFound(
            f"This machine has no credentials {spec.credentials!r}.",
            code="NO_CREDENTIALS",
            where=str(path),
            next_action=f'Write them there, mode 600: hosts = ["{host_of(spec.url)}"], user = "...", password = "...".',
        ) from error
    except ValueError as error:  # what it says may be a part of a secret
        raise InvalidInput(
            "The file of credentials is no TOML.",
            code="BAD_CREDENTIALS",
            where=str(path),
            next_action="Write each line as NAME = VALUE, with texts in quotes.",
        ) from error
    found = Access.of(document, str(path))
    if host_of(spec.url) not in found.hosts:
        raise NotAllowed(
            f"The credentials {spec.credentials!r} are not for {host_of(spec.url)}.",
            code="CREDENTIALS_OF_OTHER_HOST",
            where=str(path),
            next_action="Add it to hosts there, if they are.",
        )
    return found
