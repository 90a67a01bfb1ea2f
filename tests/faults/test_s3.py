"""A bucket that is away, missing, closed to us or careless: told at once, in our words, and without our keys."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import obstore
import pytest
from s3_server import S3Server

from skyriver.adapters.s3.objects import Patience, S3Objects, S3Place, place_of
from skyriver.core.errors import Conflict, Corrupt, InvalidInput, NotAllowed, SkyriverError, Unavailable
from skyriver.core.exam import must_raise

HASTY = Patience(connect_s=1, request_s=2, retries=2, retry_s=4)
CALM = Patience(connect_s=60, request_s=60, retries=2, retry_s=60)
SECRET = "a-secret-that-nobody-may-see"


class Careless(BaseHTTPRequestHandler):
    """Takes everything, whatever its conditions."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("etag", '"1"')
        self.send_header("content-length", "0")
        self.end_headers()

    def do_DELETE(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Silent(Careless):
    """Takes requests and never answers."""

    def do_PUT(self) -> None:
        self.server.gate.wait(120)  # type: ignore[attr-defined]


@pytest.fixture(params=[Careless, Silent])
def odd(request: pytest.FixtureRequest) -> Iterator[tuple[type, str]]:
    server = HTTPServer(("127.0.0.1", 0), request.param)
    server.gate = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield request.param, f"http://127.0.0.1:{server.server_port}"
    server.gate.set()  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def opened(place: S3Place, tmp_path: Path, *, cache_bytes: int = 1 << 20, patience: Patience = CALM) -> S3Objects:
    return S3Objects(place, tmp_path / "cache", cache_bytes=cache_bytes, patience=patience)


def shown(error: SkyriverError) -> str:
    """All that a log or an answer could show of it."""
    return f"{error!r} {error} {error.to_problem()} {error.__cause__!r} {error.__suppress_context__}"


def test_a_good_store_passes_the_probe_and_keeps_nothing_of_it(s3: S3Server, tmp_path: Path) -> None:
    objects = opened(s3.place(secrets.token_hex(8)), tmp_path)
    objects.probe()
    objects.probe()


def test_a_store_without_conditional_puts_is_refused_and_a_silent_one_does_not_hold_us(
    odd: tuple[type, str], tmp_path: Path
) -> None:
    kind, endpoint = odd
    patience = HASTY if kind is Silent else CALM
    objects = opened(S3Place("exam", "p", endpoint, "us-east-1", "key", SECRET), tmp_path, patience=patience)
    begun = time.monotonic()
    if kind is Careless:
        error: SkyriverError = must_raise(Conflict, objects.probe, "refused", code="NO_CONDITIONAL_PUTS")
    else:
        error = must_raise(Unavailable, objects.probe, "told", code="OBJECTS_UNREACHABLE")
    assert time.monotonic() - begun < 60
    assert error.next_action
    assert SECRET not in shown(error)


def test_what_is_wrong_with_the_place_is_told(s3: S3Server, tmp_path: Path) -> None:
    place = replace(s3.place("p"), secret_key=SECRET)
    digest = hashlib.sha256(b"x").hexdigest()
    cases: list[tuple[S3Place, type[SkyriverError], str]] = [
        (place, NotAllowed, "OBJECTS_DENIED"),
        (replace(place, access_key="nobody"), NotAllowed, "OBJECTS_DENIED"),
        (replace(s3.place("p"), bucket="not-there"), Unavailable, "BUCKET_MISSING"),
        (replace(place, endpoint="http://127.0.0.1:9"), Unavailable, "OBJECTS_UNREACHABLE"),
    ]
    for wrong, kind, code in cases:
        objects = opened(wrong, tmp_path)
        for call in (objects.probe, lambda o=objects: o.put(b"x"), lambda o=objects: o.get(digest)):
            error = must_raise(kind, call, f"{wrong} is refused", code=code)
            assert error.next_action
            assert error.where.startswith("s3://")
            assert error.__suppress_context__
            assert SECRET not in shown(error)
            assert "exam-secret" not in shown(error)
    assert SECRET not in repr(place)


def test_a_store_that_comes_back_is_used_again(tmp_path: Path) -> None:
    server = S3Server()
    try:
        objects = opened(server.place("p"), tmp_path)
        digest = objects.put(b"kept")
        server.kill()
        must_raise(Unavailable, lambda: objects.put(b"lost"), "away", code="OBJECTS_UNREACHABLE")
        must_raise(Unavailable, lambda: objects.get(digest), "away", code="OBJECTS_UNREACHABLE")
        must_raise(Unavailable, lambda: objects.has(digest), "away is not gone", code="OBJECTS_UNREACHABLE")
        server.start()
        assert objects.get(objects.put(b"again")) == b"again"
    finally:
        server.close()


def test_the_cache_is_bounded_and_believed_by_its_digest_alone(s3: S3Server, tmp_path: Path) -> None:
    objects = opened(s3.place(secrets.token_hex(8)), tmp_path, cache_bytes=1000)
    digests = [objects.put(bytes([n]) * 300) for n in range(10)]
    for n, digest in enumerate(digests):
        with objects.open_path(digest).open("rb") as file:
            assert file.read() == bytes([n]) * 300
        held = list((tmp_path / "cache").glob("??/*"))
        assert sum(path.stat().st_size for path in held) <= 1000
    path = objects.open_path(digests[-1])
    path.chmod(0o600)
    path.write_bytes(b"rotten")
    assert objects.open_path(digests[-1]).read_bytes() == bytes([9]) * 300


def test_a_file_that_changes_while_it_is_sent_is_refused(s3: S3Server, tmp_path: Path) -> None:
    objects = opened(s3.place(secrets.token_hex(8)), tmp_path)
    path = tmp_path / "file"
    before, after = b"a" * (20 << 20), b"b" * (20 << 20)
    path.write_bytes(before)
    real = hashlib.file_digest

    def digest_then_change(file: Any, name: str) -> Any:
        found = real(file, name)
        path.write_bytes(after)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashlib, "file_digest", digest_then_change)
        must_raise(InvalidInput, lambda: objects.put_file(path), "it changed", code="UNREADABLE_FILE")
    for content in (before, after):
        assert not objects.has(hashlib.sha256(content).hexdigest())
    assert objects.get(objects.put_file(path)) == after


def test_a_store_that_gives_less_is_not_believed(s3: S3Server, tmp_path: Path) -> None:
    objects = opened(s3.place(secrets.token_hex(8)), tmp_path)
    digest = objects.put(b"all of it")
    obstore.put(objects._store, f"{digest[:2]}/{digest}", b"all of")
    for call in (objects.get, objects.open_path, objects.verify):
        error = must_raise(Corrupt, lambda c=call: c(digest), "less is not it")
        assert digest in error.where


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://B", "s3://bucket?x=1", "s3://bucket/../x", "http://x/y",
                                 "s3://key:secret@bucket/p", ""])  # fmt: skip
def test_a_place_that_is_none_is_refused(url: str) -> None:
    error = must_raise(InvalidInput, lambda: place_of(url, {}), "no place", code="BAD_OBJECTS")
    assert "secret@" not in str(error)


def test_a_place_is_read_from_the_usual_names() -> None:
    place = place_of("s3://bucket/a/b/", {"AWS_ENDPOINT_URL": "http://h:1", "AWS_ACCESS_KEY_ID": "k",
                                          "AWS_SECRET_ACCESS_KEY": SECRET})  # fmt: skip
    assert str(place) == "s3://bucket/a/b at http://h:1"
    for wrong in ({"AWS_ACCESS_KEY_ID": "k"}, {"AWS_ENDPOINT_URL": f"http://user:{SECRET}@h"}):
        error = must_raise(InvalidInput, lambda w=wrong: place_of("s3://bucket", w), "wrong", code="BAD_OBJECTS")
        assert SECRET not in str(error)
