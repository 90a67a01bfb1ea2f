"""Receivers of decisions: what this machine knows of them, in HOME/sinks/TENANT/NAME.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from skyriver.adapters.webhook.sink import WebhookSink
from skyriver.core.errors import InvalidInput, NotFound, SkyriverError
from skyriver.core.spec import AppSpec
from skyriver.decide.acting.sinks import Place, Sink
from skyriver.trust.secretfile import read_secret

EXAMPLE = 'url = "https://...", secrets = ["whsec_..."]'


def sink_file(home: Path, tenant: str, name: str) -> Path:
    return home / "sinks" / tenant / f"{name}.toml"


def read_place(home: Path, tenant: str, name: str) -> Place:
    """What its file says, now. Raises NotFound (NO_SINK_FILE), NotAllowed (SECRET_EXPOSED, INSECURE_SINK), InvalidInput
    (BAD_SINK_FILE), Unavailable (SECRET_UNREADABLE)."""
    path = sink_file(home, tenant, name)
    try:
        document = tomllib.loads(read_secret(path).decode())
    except NotFound as error:
        raise NotFound(
            f"This machine does not know the sink {name!r}.",
            code="NO_SINK_FILE",
            where=str(path),
            next_action=f"Write it there, mode 600: {EXAMPLE}.",
        ) from error
    except ValueError as error:  # what it says may be a part of a secret
        raise InvalidInput(
            "The file of the sink is no TOML.",
            code="BAD_SINK_FILE",
            where=str(path),
            next_action='Write it as lines NAME = VALUE, texts in quotes, as in url = "https://shop.example/decisions".',
        ) from error
    return Place.of(document, str(path))


def unusable_sinks(app: AppSpec, home: Path, tenant: str) -> Iterator[tuple[str, str]]:
    """(sink, why) of those that an application names and this machine cannot use now: what they are for waits."""
    for name in sorted({sink.to for decide in app.decides for sink in decide.sinks}):
        try:
            read_place(home, tenant, name)
        except SkyriverError as error:
            yield name, f"cannot be used yet: {error}"


class SinksOfMachine:
    """`skyriver.decide.acting.sending.Sinks`: one whose file has changed is opened anew."""

    def __init__(self, home: Path, tenant: str, wall: Callable[[], int]) -> None:
        self._home = home
        self._tenant = tenant
        self._wall = wall
        self._open: dict[str, tuple[object, Sink]] = {}

    def open(self, name: str) -> Sink:
        """Raises as `read_place`, and Unavailable (BAD_CERTIFICATE), InvalidInput (NO_DRIVER)."""
        stamp = _stamp(sink_file(self._home, self._tenant, name))
        known = self._open.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        place = read_place(self._home, self._tenant, name)
        sink = self._make(place, name)
        self._open[name] = stamp, sink
        return sink

    def forget(self, name: str) -> None:
        self._open.pop(name, None)

    def _make(self, place: Place, name: str) -> Sink:
        if place.url.startswith(("http:", "https:")):
            return WebhookSink(place, self._wall)
        try:
            from skyriver.adapters.nats.sink import NatsSink  # an extra
        except ImportError as error:
            raise InvalidInput(
                f"The sink {name!r} is in NATS, and the client for it is not installed.",
                code="NO_DRIVER",
                next_action="Run `pip install 'skyriver[nats]'` where the cloud runs.",
            ) from error
        return NatsSink(place, f"skyriver sink {name}")


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size, found.st_mode
