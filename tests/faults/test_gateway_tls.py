"""HTTPS at the gateway: with a certificate of its own or a given one, changed while connections are open."""

import contextlib
import http.client
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_port

from skyriver.adapters.haproxy.certificate import Tls, make, read
from skyriver.adapters.haproxy.gateway import HaproxyGateway
from skyriver.client.api import Client
from skyriver.control.gateway_stage import TOKEN, Stage, pool, send, table, upstream, wait_for
from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.core.tls import TlsChoice
from skyriver.wiring.gateway import gateway_of, https_of, keep_tls, renew_own
from skyriver.wiring.home import Home


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="sky") as name:
        home = Home(Path(name))
        home.make()
        home.write_settings({"port": free_port()})
        yield home
        gateway_of(home).stop()


def pair(folder: Path, name: str, *options: str) -> tuple[Path, Path]:
    files = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    command += ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"]
    subprocess.run([*command, *options, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


def expired(folder: Path) -> tuple[Path, Path] | None:
    """None where openssl makes none."""
    request, certificate, key = folder / "over.csr", folder / "over.pem", folder / "over.key"
    asking = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    subprocess.run([*asking, "-subj", "/CN=over", "-out", request, "-keyout", key], check=True, capture_output=True)
    signing = ["openssl", "x509", "-req", "-in", request, "-signkey", key, "-days", "-1", "-out", certificate]
    made = subprocess.run(signing, check=False, capture_output=True).returncode == 0
    return (certificate, key) if made else None


def connect(home: Home, ca: Path) -> http.client.HTTPSConnection:
    port = home.settings()["tls"]["port"]
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=ssl.create_default_context(cafile=ca))


def ask_once(home: Home, ca: Path) -> int:
    with contextlib.closing(connect(home, ca)) as connection:
        return ask(connection)


def ask(connection: http.client.HTTPSConnection) -> int:
    connection.request("POST", "/predict/fraud", b"{}", {"authorization": f"Bearer {TOKEN}"})
    response = connection.getresponse()
    response.read()
    return response.status


def stage_of(home: Home, gateway: HaproxyGateway) -> Stage:
    return Stage(gateway, ("127.0.0.1", home.settings()["port"]), home.control_socket, home.root, lambda: None)


def test_a_certificate_of_its_own_is_made_once_and_is_what_callers_trust(home: Home) -> None:
    found = keep_tls(home, TlsChoice("self-made", port=free_port()))
    assert found is not None
    assert {"localhost", "127.0.0.1"} <= set(found.names)
    assert keep_tls(home, TlsChoice("self-made")) == found
    ca = home.root / "tls" / "certificate.pem"
    assert (home.root / "tls" / "key.pem").stat().st_mode & 0o077 == 0
    gateway = gateway_of(home)
    gateway.start()
    stage = stage_of(home, gateway)
    with upstream(stage, "one") as one:
        gateway.apply(table(pool("fraud:1", one)))
        assert ask_once(home, ca) == 200
        assert send(stage, "/predict/fraud").status == 200, "plain HTTP on loopback is there as well"
    with Client(https_of(home), "x" * 40, ca=ca) as client, pytest.raises(SkyriverError) as refused:
        client.get("models", "any")
    assert refused.value.code == "UNAUTHENTICATED"
    with pytest.raises(InvalidInput) as nothing:
        Client(https_of(home), "x" * 40, ca=home.root / "none.pem")
    assert nothing.value.code == "BAD_CA"


def test_https_speaks_http_2_and_nothing_old(home: Home) -> None:
    keep_tls(home, TlsChoice("self-made", port=free_port()))
    gateway_of(home).start()
    tls = home.settings()["tls"]
    context = ssl.create_default_context(cafile=tls["certificate"])
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", tls["port"]), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        assert connection.selected_alpn_protocol() == "h2"
        assert connection.version() in ("TLSv1.2", "TLSv1.3")


def test_a_renewed_certificate_is_taken_and_open_connections_go_on(home: Home, tmp_path: Path) -> None:
    first, second = pair(tmp_path, "first"), pair(tmp_path, "second")
    keep_tls(home, TlsChoice(certificate=first[0], key=first[1], port=free_port()))
    gateway = gateway_of(home)
    gateway.start()
    stage = stage_of(home, gateway)
    with upstream(stage, "one") as one, contextlib.ExitStack() as connections:
        gateway.apply(table(pool("fraud:1", one)))
        before = connections.enter_context(contextlib.closing(connect(home, first[0])))
        assert ask(before) == 200
        assert not gateway.renew()
        old, port = before.sock, before.sock.getsockname()
        old_files = [path.read_bytes() for path in first]
        for path, new in zip(first, second, strict=True):
            path.write_bytes(new.read_bytes())
        assert gateway.renew()
        assert ask(before) == 200
        assert (before.sock, before.sock.getsockname()) == (old, port), "the connection was closed"
        assert ask_once(home, second[0]) == 200
        first[1].write_bytes(old_files[1])  # a key that is another certificate's: the renewal is half done
        with pytest.raises(InvalidInput, match="is not the key of"):
            gateway.renew()
        assert ask_once(home, second[0]) == 200
        gateway.stop()
        gateway.start()  # with the last that was good
        assert ask_once(home, second[0]) == 200


def test_bad_files_are_refused_before_anything_changes(home: Home, tmp_path: Path) -> None:
    good, other = pair(tmp_path, "good"), pair(tmp_path, "other")
    (tmp_path / "empty.pem").touch()
    wrong = [
        (good[0], other[1], "is not the key of"),
        (tmp_path / "none.pem", good[1], "cannot be read"),
        (good[1], good[1], "no certificate and open key"),
        (tmp_path / "empty.pem", good[1], "no certificate and open key"),
        (good[0], good[0], "no certificate and open key"),
    ]
    if over := expired(tmp_path):
        wrong.append((*over, "expired"))
    before = home.settings()
    for certificate, key, why in wrong:
        with pytest.raises(InvalidInput, match=why) as refused:
            keep_tls(home, TlsChoice(certificate=certificate, key=key))
        assert refused.value.code == "BAD_CERTIFICATE"
    for half in (TlsChoice(certificate=good[0]), TlsChoice(key=good[1]), TlsChoice(port=7)):
        with pytest.raises(InvalidInput) as refused:
            keep_tls(home, half)
        assert refused.value.code == "BAD_TLS"
    assert home.settings() == before


def test_it_can_be_switched_off_again(home: Home) -> None:
    keep_tls(home, TlsChoice("self-made", port=free_port()))
    gateway_of(home).start()
    tls = home.settings()["tls"]
    assert keep_tls(home, TlsChoice("off")) is None
    gateway_of(home).start()
    assert https_of(home) == ""
    wait_for("nobody listens there any more", lambda: not _listens(tls["port"]))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_one_that_ends_within_a_month_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    short = pair(tmp_path, "short", "-days", "20")
    for path, name in zip(short, ("certificate.pem", "key.pem"), strict=True):
        (folder / name).write_bytes(path.read_bytes())
    before = read(Tls("127.0.0.1", 0, *make(folder, "127.0.0.1")))
    assert before.ends > read(Tls("", 0, *short)).ends
    assert read(Tls("127.0.0.1", 0, *make(folder, "127.0.0.1"))) == before
    assert "10.0.0.5" in read(Tls("10.0.0.5", 0, *make(folder, "10.0.0.5"))).names, "its address is another one"


def test_a_certificate_of_its_own_is_renewed_before_it_ends_while_connections_are_open(home: Home) -> None:
    keep_tls(home, TlsChoice("self-made", port=free_port()))
    folder, gateway = home.root / "tls", gateway_of(home)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    gateway.start()
    stage = stage_of(home, gateway)
    renew_own(home)
    assert not gateway.renew(), "it has long to live"
    before, secret = certificate.read_bytes(), key.read_bytes()
    with upstream(stage, "one") as one:
        gateway.apply(table(pool("fraud:1", one)))
        (known := folder.parent / "known.pem").write_bytes(before)
        with contextlib.closing(connect(home, known)) as held:
            assert ask(held) == 200
            renew_own(home, now=time.time() + 800 * 86_400)
            assert certificate.read_bytes() != before
            assert key.read_bytes() != secret
            assert gateway.renew()
            assert ask(held) == 200, "what was open goes on"
            assert ask_once(home, certificate) == 200
            assert ask_once(home, known) == 200, "who trusts the one before trusts it too"
            served = ssl.get_server_certificate(("127.0.0.1", home.settings()["tls"]["port"]))
            assert certificate.read_text().startswith(served.strip())
            assert not gateway.renew(), "once"


def test_a_given_certificate_is_not_ours_to_renew(home: Home) -> None:
    files = pair(home.root, "given", "-days", "3")
    keep_tls(home, TlsChoice("", *files, port=free_port()))
    before = files[0].read_bytes()
    renew_own(home, now=time.time() + 2 * 86_400)
    assert files[0].read_bytes() == before
    assert not (home.root / "tls").exists()
