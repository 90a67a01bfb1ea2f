"""The certificate of the way in: read, examined before it is used, or made by ourselves."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from skyriver.core.errors import InvalidInput, Unavailable
from skyriver.data.folders import make_folder, replace_file

PARTIAL_CHAIN = 0x80000
"""OpenSSL's X509_V_FLAG_PARTIAL_CHAIN: what is trusted need not be a root. Here that is the certificate itself."""
OWN_DAYS = 825
AUTHORITY_DAYS = 36_500
RENEWED_SECONDS = 30 * 86_400
"""Before its end a certificate of our own gets a successor."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Where HTTPS is listened for, and the two PEM files that it needs: the certificate with its chain, and its key."""

    address: str
    port: int
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Certificate:
    pem: str
    """Certificate, chain and key, as HAProxy takes them."""
    names: tuple[str, ...]
    ends: float
    """Unix time."""


def read(tls: Tls) -> Certificate:
    """Raises InvalidInput (BAD_CERTIFICATE), saying what is wrong with the files."""
    try:
        texts = [path.read_text() for path in (tls.certificate, tls.key)]
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(f"{tls.certificate} and {tls.key} cannot be read: {error}") from error
    told = _examine(tls)
    names = tuple(str(value) for kind, value in told.get("subjectAltName", ()) if kind in ("DNS", "IP Address"))
    # An empty line would end the command that hands it to HAProxy.
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    return Certificate("\n".join([*lines, ""]), names, float(ssl.cert_time_to_seconds(str(told["notAfter"]))))


def _examine(tls: Tls) -> dict[str, tuple[tuple[str, str], ...]]:
    """By a handshake with ourselves: it fails on what a caller would fail on, but for names and authorities."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= PARTIAL_CHAIN
    try:
        server.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
        client.load_verify_locations(tls.certificate)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", "") or str(error)
        if "MISMATCH" in reason:
            raise _refused(f"{tls.key} is not the key of {tls.certificate}") from error
        raise _refused(f"{tls.certificate} and {tls.key} are no certificate and open key in PEM ({reason})") from error
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, theirs = server.wrap_bio(there, back, server_side=True), client.wrap_bio(back, there)
    try:
        for _ in range(4):
            for side in (theirs, ours):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise _refused(f"{tls.certificate} would be refused: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise _refused(f"{tls.certificate} cannot be used: {error.reason}") from error
    found: dict[str, tuple[tuple[str, str], ...]] = theirs.getpeercert() or {}  # type: ignore[assignment]
    return found


def make(folder: Path, address: str, *, now: float | None = None) -> tuple[Path, Path]:
    """A certificate of our own, kept in `folder` and made anew in its last month (`now`: Unix time), or for another
    address. An authority of our own, which is made once and stands behind it in the same file, has signed it: who
    trusts a copy of that file trusts its successors. Raises Unavailable (NO_OPENSSL)."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    with contextlib.suppress(InvalidInput):
        own = read(Tls(address, 0, certificate, key))
        lives = own.ends > (time.time() if now is None else now) + RENEWED_SECONDS
        if lives and (address == "0.0.0.0" or address in own.names):
            return certificate, key
    make_folder(folder)
    authority, its_key = _authority(folder)
    names = ["DNS:localhost", f"DNS:{socket.gethostname()}", "IP:127.0.0.1"]
    if address not in ("127.0.0.1", "0.0.0.0"):
        names.append(f"IP:{address}")
    with tempfile.TemporaryDirectory(dir=folder) as made:
        new, new_key = Path(made) / "certificate.pem", Path(made) / "key.pem"
        told = ["-days", str(OWN_DAYS), "-subj", "/CN=skyriver", "-CA", str(authority), "-CAkey", str(its_key)]
        told += ["-addext", f"subjectAltName={','.join(names)}", "-addext", "basicConstraints=critical,CA:FALSE"]
        _openssl(*told, "-out", str(new), "-keyout", str(new_key))
        replace_file(key, new_key.read_bytes())
        replace_file(certificate, new.read_bytes() + authority.read_bytes())
    return certificate, key


def _authority(folder: Path) -> tuple[Path, Path]:
    """What signs our certificates. Its end is so far away that nobody waits for it."""
    certificate, key = folder / "authority.pem", folder / "authority.key"
    if not certificate.exists():  # written last
        with tempfile.TemporaryDirectory(dir=folder) as made:
            new, new_key = Path(made) / "authority.pem", Path(made) / "authority.key"
            told = ["-days", str(AUTHORITY_DAYS), "-subj", "/CN=skyriver authority"]
            told += ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
            _openssl(*told, "-out", str(new), "-keyout", str(new_key))
            replace_file(key, new_key.read_bytes())
            replace_file(certificate, new.read_bytes())
    return certificate, key


def _openssl(*told: str) -> None:
    """A new key and a certificate of it."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", *told]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(
            f"A certificate could not be made with openssl: {error}.",
            code="NO_OPENSSL",
            next_action="Install openssl 3, or give a certificate with --tls-cert and --tls-key.",
        ) from error


def _refused(why: str) -> InvalidInput:
    return InvalidInput(
        f"{why}.",
        code="BAD_CERTIFICATE",
        next_action="Give a certificate (with its chain) and its key, both in PEM, with --tls-cert and --tls-key.",
    )
