"""The gateway of a home, as its settings say it should be."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from skyriver.adapters.haproxy import certificate
from skyriver.adapters.haproxy import port as ports
from skyriver.adapters.haproxy.access_log import Recorded
from skyriver.adapters.haproxy.certificate import Certificate, Tls
from skyriver.adapters.haproxy.gateway import HaproxyGateway
from skyriver.core.errors import InvalidInput
from skyriver.core.tls import TlsChoice
from skyriver.wiring.home import DEFAULT_PORT, Home

TLS_PORT = 7471
LOOPBACK = "127.0.0.1"


def gateway_of(home: Home) -> HaproxyGateway:
    settings = home.settings()
    return HaproxyGateway(
        home.gateway,
        port=int(settings.get("port", DEFAULT_PORT)),
        control_socket=home.control_socket,
        count=gateways_of(home),
        tls=_tls(settings),
        recorded=recorded_of(home),
    )


def gateways_of(home: Home) -> int:
    """How many processes share the gateway's address."""
    try:
        return int(home.settings().get("gateways", 1))
    except (OSError, ValueError):  # a full disk, or a hand that wrote the file
        return 1


def recorded_of(home: Home) -> Recorded:
    """Which requests are recorded."""
    told = home.settings().get("access_log", "errors")
    return told if told in ("all", "off") else "errors"


def https_of(home: Home) -> str:
    """Where HTTPS is spoken; "" where it is not."""
    tls = _tls(home.settings())
    return f"https://{tls.address}:{tls.port}" if tls else ""


def certificate_of(home: Home) -> int:
    """When the certificate ends, wall microseconds; 0 without HTTPS. Reads it only when its file has changed. Raises
    InvalidInput (BAD_CERTIFICATE), Unavailable (NO_OPENSSL)."""
    tls = _tls(home.settings())
    if tls is None:
        return 0
    return _ends(tls, tls.certificate.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _ends(tls: Tls, changed: int) -> int:
    return int(certificate.read(tls).ends * 1e6)


def keep_tls(home: Home, choice: TlsChoice) -> Certificate | None:
    """Keeps in the settings what was chosen, once it is known to work; what was not given stays as it was. Returns the
    certificate. Raises InvalidInput (BAD_CERTIFICATE, BAD_TLS), Conflict (PORT_IN_USE), Unavailable (NO_OPENSSL)."""
    known = home.settings()
    before: dict[str, Any] = known.get("tls", {})
    if choice.mode == "off":
        home.write_settings({name: value for name, value in known.items() if name != "tls"})
        return None
    address, port = choice.address or before.get("address", LOOPBACK), choice.port or before.get("port", TLS_PORT)
    if choice.mode == "self-made":
        files = certificate.make(home.root / "tls", address)
    elif choice.certificate and choice.key:
        files = (choice.certificate.absolute(), choice.key.absolute())
    elif choice.certificate or choice.key or not before:
        raise InvalidInput(
            "HTTPS needs a certificate and its key.",
            code="BAD_TLS",
            next_action="Give both, --tls-cert FILE and --tls-key FILE, or --tls self-made.",
        )
    else:
        files = (Path(before["certificate"]), Path(before["key"]))
    found = certificate.read(Tls(address, port, *files))
    if (address, port) != (before.get("address"), before.get("port")):
        ports.check_free(address, port)
    told = {"address": address, "port": port, "certificate": str(files[0]), "key": str(files[1])}
    home.write_settings({**known, "tls": told})
    return found


def renew_own(home: Home, *, now: float | None = None) -> None:
    """A certificate that was made here gets its successor before it ends; one that was given is its giver's. Raises
    Unavailable (NO_OPENSSL)."""
    tls, folder = _tls(home.settings()), home.root / "tls"
    if tls is not None and tls.certificate.parent == folder:
        certificate.make(folder, tls.address, now=now)


def _tls(settings: dict[str, Any]) -> Tls | None:
    told = settings.get("tls")
    if told is None:
        return None
    return Tls(told["address"], int(told["port"]), Path(told["certificate"]), Path(told["key"]))
