"""Immutable bytes in a bucket of S3, or of a store that speaks its protocol, named by their SHA-256.

    s3://BUCKET/PREFIX/ab/abcdef...   the objects, by the first two digits
    s3://BUCKET/PREFIX/identity       32 hex digits, made when they are asked for first

A put is one request, or one upload in parts that becomes visible as a whole, each signed over its bytes: so an object
is there whole or not at all. An upload that is killed leaves parts that nobody sees; a lifecycle rule of the bucket
(AbortIncompleteMultipartUpload) removes them.

`open_path` needs a file: objects are read into a folder of limited size, from which the ones that were used longest
ago go first. It is a cache: whoever has opened a file keeps it, and nothing in it is believed without its digest.

What the library says of an error may hold parts of a request: nothing of it is shown but the store's own error code.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.core.errors import Conflict, Corrupt, InvalidInput, NotAllowed, NotFound, SkyriverError, Unavailable
from skyriver.core.objects import IDENTITY_BYTES, check_digest, identity_of

PART_BYTES = 8 << 20
"""Of an upload in parts; what is smaller goes in one request."""
PARTS_AT_ONCE = 2
_CHUNK = 1 << 20
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_PROBES = 3
_IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where the objects are, and who we are there."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    """http(s)://HOST:PORT of a store other than Amazon's."""
    region: str = ""
    access_key: str = ""
    """"": what the machine itself may do (its role, by the environment)."""
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)

    def __str__(self) -> str:
        at = f" at {self.endpoint}" if self.endpoint else ""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/") + at


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one request may take, and how often and how long it is tried again."""

    connect_s: float = 5.0
    request_s: float = 60.0
    retries: int = 5
    retry_s: float = 60.0


class S3Objects:
    """`Objects` (and `VerifiableObjects`) at `place`. Any number of threads and processes may use it, with one cache
    or several; `cache_bytes` is about what the cache holds at most, beyond the object that is being read."""

    def __init__(self, place: S3Place, cache: Path, *, cache_bytes: int, patience: Patience | None = None) -> None:
        self._place = place
        self._store = _store(place, patience or Patience())
        self._cache = DirectoryObjects(cache)
        self._cache_root, self._cache_bytes = cache, cache_bytes
        self._evicting = threading.Lock()
        self._probed = False

    def probe(self) -> None:
        """Whether the store can be trusted with anything; the first put asks it too.

        Raises Conflict (NO_CONDITIONAL_PUTS) for a store that ignores `If-None-Match`, with which two writers would
        overwrite each other; Unavailable (BUCKET_MISSING, OBJECTS_UNREACHABLE), NotAllowed (OBJECTS_DENIED)."""
        for _ in range(_PROBES):
            key = f"probe/{secrets.token_hex(16)}"
            first, second = self._create(key), self._create(key)
            if second:
                raise Conflict(
                    f"The store {self._place} accepts what it must refuse: a conditional put of a key that exists.",
                    code="NO_CONDITIONAL_PUTS",
                    where=str(self._place),
                    next_action="Use a store that honours `If-None-Match: *`.",
                )
            with self._translated():
                obstore.delete(self._store, key)
            if first:
                self._probed = True
                return  # else its answer was lost and the repetition found the key: nothing is proved
        raise self._unreachable("it answered no plain put")

    @property
    def place(self) -> str:
        return str(self._place)

    def identity(self) -> bytes:
        where = f"{self._place}: {_IDENTITY}"
        for _ in range(_PROBES):
            with suppress(NotFound), self._translated(_IDENTITY):
                return identity_of(bytes(obstore.get(self._store, _IDENTITY).bytes()), where)
            if not self._probed:
                self.probe()
            with suppress(_Exists), self._translated():  # somebody else was first
                obstore.put(self._store, _IDENTITY, secrets.token_hex(IDENTITY_BYTES).encode(), mode="create")
        raise self._unreachable("what was put is not there")

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self._upload(digest, data)
        return digest

    def put_file(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
                if os.fstat(file.fileno()).st_size <= PART_BYTES:
                    return self.put(file.read())
                self._upload(digest, _unchanged(iter(lambda: file.read(_CHUNK), b""), digest, path))
        except FileNotFoundError as error:
            raise NotFound(
                "There is no such file.", where=str(path), next_action="Name a file that is there."
            ) from error
        except OSError as error:
            raise InvalidInput(
                f"The file cannot be read: {error.strerror}.",
                code="UNREADABLE_FILE",
                where=str(path),
                next_action="Check the file's owner and mode, and the disk that it is on.",
            ) from error
        return digest

    def put_stream(self, chunks: Iterator[bytes], limit: int) -> str:
        digest = self._cache.put_stream(chunks, limit)  # its name is known when all of it has come
        try:
            self.put_file(self._cache.open_path(digest))
        except SkyriverError:
            self._cache.delete(digest)
            raise
        self._evict(digest)
        return digest

    def get(self, digest: str) -> bytes:
        data = b"".join(self._read(check_digest(digest)))
        if hashlib.sha256(data).hexdigest() != digest:
            raise self._damaged(digest)
        return data

    def open_path(self, digest: str) -> Path:
        with suppress(NotFound, Corrupt):  # not read yet, or its copy here is damaged: the store has it
            path = self._cache.open_path(digest)
            _touch(path)
            return path
        found = self._cache.put_stream(self._read(digest), 1 << 62)
        if found != digest:
            self._cache.delete(found)
            raise self._damaged(digest)
        self._evict(digest)
        return self._cache.open_path(digest)

    def verify(self, digest: str) -> None:
        sha = hashlib.sha256()
        for chunk in self._read(check_digest(digest)):
            sha.update(chunk)
        if sha.hexdigest() != digest:
            raise self._damaged(digest)

    def has(self, digest: str) -> bool:
        key = _key(check_digest(digest))
        try:
            with self._translated(digest):
                obstore.head(self._store, key)
        except NotFound:
            return False
        return True

    def delete(self, digest: str) -> None:
        key = _key(check_digest(digest))
        self._cache.delete(digest)
        with suppress(NotFound), self._translated(digest):
            obstore.delete(self._store, key)

    def _upload(self, digest: str, content: bytes | Iterator[bytes]) -> None:
        if not self._probed:
            self.probe()
        key = _key(digest)
        with self._translated():
            if isinstance(content, bytes) and len(content) <= PART_BYTES:
                obstore.put(self._store, key, content, use_multipart=False)
            else:
                obstore.put(self._store, key, content, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)

    def _read(self, digest: str) -> Iterator[bytes]:
        with self._translated(digest):
            for chunk in obstore.get(self._store, _key(digest)).stream(min_chunk_size=_CHUNK):
                yield bytes(chunk)

    def _create(self, key: str) -> bool:
        """Whether the key was new, as the store says."""
        try:
            with self._translated():
                obstore.put(self._store, key, b"probe", mode="create")
        except _Exists:
            return False
        return True

    def _evict(self, newest: str) -> None:
        """What was used longest ago goes, beyond the cache's size."""
        with self._evicting:
            found = []
            for path in self._cache_root.glob("??/*"):
                with suppress(FileNotFoundError):  # another process evicts too
                    stat = path.stat()
                    found.append((stat.st_atime_ns, stat.st_size, path.name))
            over = sum(size for _, size, _ in found) - self._cache_bytes
            for _, size, digest in sorted(found):
                if over <= 0:
                    return
                if digest != newest:
                    self._cache.delete(digest)
                    over -= size

    @contextmanager
    def _translated(self, digest: str = "") -> Iterator[None]:
        # `from None`: the library's words may hold parts of a signed request, and logs keep causes.
        try:
            yield
        except (FileNotFoundError, BaseError) as error:
            raise self._translate(error, digest) from None

    def _translate(self, error: Exception, digest: str) -> SkyriverError:
        code = found[1] if (found := _CODE.search(str(error))) else ""
        if isinstance(error, FileNotFoundError) and code != "NoSuchBucket" and digest:
            return NotFound(
                f"There is no object {digest}.",
                where=digest,
                next_action="Put it, or restore it from a copy of the bucket.",
            )
        if isinstance(error, FileNotFoundError):
            return Unavailable(
                f"There is no bucket {self._place.bucket}.",
                code="BUCKET_MISSING",
                where=str(self._place),
                next_action="Make it, or name another one.",
            )
        if isinstance(error, AlreadyExistsError | PreconditionError):
            return _Exists("The key exists.", next_action="What is there is kept.")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return NotAllowed(
                f"The store does not let us in{f' ({code})' if code else ''}.",
                code="OBJECTS_DENIED",
                where=str(self._place),
                next_action="Check the access key, the secret key, and what they may do in that bucket.",
            )
        return self._unreachable(code)

    def _unreachable(self, why: str) -> Unavailable:
        return Unavailable(
            f"The store does not answer as it should{f' ({why})' if why else ''}.",
            code="OBJECTS_UNREACHABLE",
            where=str(self._place),
            next_action="Check that it runs and can be reached from here; it is tried again.",
        )

    def _damaged(self, digest: str) -> Corrupt:
        return Corrupt(
            f"The object {digest} is damaged: its bytes are not what was written.",
            code="OBJECT_CORRUPT",
            where=f"{self._place}: {_key(digest)}",
            next_action="Put the same bytes again, or restore it from a backup.",
        )


class _Exists(Conflict):
    """A conditional put found the key."""


def place_of(url: str, settings: dict[str, str]) -> S3Place:
    """`url` is s3://BUCKET[/PREFIX]; `settings` by the names that all S3 programs read: AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL. Raises InvalidInput (BAD_OBJECTS)."""
    parts = urlsplit(url)
    endpoint = settings.get("AWS_ENDPOINT_URL_S3") or settings.get("AWS_ENDPOINT_URL") or ""
    host = urlsplit(endpoint)
    wrong = (
        parts.scheme != "s3" or not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", parts.netloc)
        or bool(parts.query or parts.fragment) or ".." in parts.path.split("/")
    )  # fmt: skip
    if wrong:
        raise _bad("The place of the objects is written s3://BUCKET or s3://BUCKET/PREFIX, without keys.")
    if endpoint and (host.scheme not in ("http", "https") or not host.hostname or host.username or host.password):
        raise _bad("AWS_ENDPOINT_URL is written http://HOST:PORT or https://HOST:PORT, without keys.")
    if bool(settings.get("AWS_ACCESS_KEY_ID")) != bool(settings.get("AWS_SECRET_ACCESS_KEY")):
        raise _bad("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together: one of them is missing.")
    return S3Place(
        parts.netloc,
        parts.path.strip("/"),
        endpoint,
        settings.get("AWS_REGION") or settings.get("AWS_DEFAULT_REGION") or "us-east-1",
        settings.get("AWS_ACCESS_KEY_ID", ""),
        settings.get("AWS_SECRET_ACCESS_KEY", ""),
        settings.get("AWS_SESSION_TOKEN", ""),
    )


def _bad(message: str) -> InvalidInput:
    return InvalidInput(message, code="BAD_OBJECTS", next_action="Correct this setting, then start the cloud again.")


def _store(place: S3Place, patience: Patience) -> S3Store:
    config = {
        "aws_endpoint": place.endpoint,
        "aws_region": place.region,
        "aws_access_key_id": place.access_key,
        "aws_secret_access_key": place.secret_key,
        "aws_session_token": place.session_token,
    }
    return S3Store(
        place.bucket,
        prefix=place.prefix or None,
        config={name: value for name, value in config.items() if value},  # type: ignore[arg-type]
        client_options={
            "allow_http": place.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=patience.connect_s),
            "timeout": timedelta(seconds=patience.request_s),
        },
        retry_config={
            "max_retries": patience.retries,
            "retry_timeout": timedelta(seconds=patience.retry_s),
            "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2},
        },
    )


def _key(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


def _unchanged(chunks: Iterator[bytes], digest: str, path: Path) -> Iterator[bytes]:
    """The chunks; fails before the last part is sent, and with it the upload, if together they have another digest."""
    sha = hashlib.sha256()
    for chunk in chunks:
        sha.update(chunk)
        yield chunk
    if sha.hexdigest() != digest:
        raise InvalidInput(
            "The file changed while it was read.",
            code="UNREADABLE_FILE",
            where=str(path),
            next_action="Put it again when nobody writes to it.",
        )


def _touch(path: Path) -> None:
    """It was used now. Its time of change stays: by that it is known to be the one that was verified."""
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
