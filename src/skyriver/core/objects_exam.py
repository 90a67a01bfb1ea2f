"""The exam of `Objects`: runs on every implementation, the twin in memory and one of your own too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from skyriver.core.errors import Corrupt, InvalidInput, NotFound
from skyriver.core.exam import must, must_raise
from skyriver.core.objects import IDENTITY_BYTES, IdentifiedObjects, Objects, VerifiableObjects

Make = Callable[[], Objects]
Damage = Callable[[Objects, str], None]


def check_objects(make: Make, damage: Damage | None = None) -> None:
    """Raises AssertionError naming the law that does not hold.

    `make` gives a new, empty store each time. `damage` changes the stored bytes of a digest behind the store's back;
    without it the law about damaged bytes is not examined.
    """
    for check in OBJECTS_CHECKS:
        check(make)
    if damage is not None:
        damaged_bytes_are_never_given(make, damage)


def a_digest_is_the_sha256_of_the_content(make: Make) -> None:
    objects = make()
    for data in (b"", b"a", b"\0" * 4096, bytes(range(256)) * 5000):
        digest = objects.put(data)
        must(digest == hashlib.sha256(data).hexdigest(), "a digest is the SHA-256 of the content, in hex")
        must(objects.has(digest), "what was put is there")
        must(objects.get(digest) == data, "get gives the bytes that were put")
        must(objects.open_path(digest).read_bytes() == data, "open_path gives a file with the bytes that were put")


def putting_twice_is_one_object(make: Make) -> None:
    objects = make()
    first = objects.put(b"the same")
    must(objects.put(b"the same") == first, "the same bytes have the same digest")
    must(objects.put_stream(iter((b"the ", b"", b"same")), 100) == first, "whichever way they came")
    must(objects.put_file(objects.open_path(first)) == first, "also from a file, even its own")
    must(objects.get(first) == b"the same", "they are still what was put")
    objects.delete(first)
    must(not objects.has(first), "one deletion removes what was put twice")


def files_and_streams_are_kept_whole(make: Make) -> None:
    source, objects = make(), make()
    data = b"0123456789abcdef" * 250_000
    path = source.open_path(source.put(data))
    must(objects.get(objects.put_file(path)) == data, "put_file keeps the whole file")
    must(path.read_bytes() == data, "put_file takes a copy")
    pieces = (data[at : at + 65_537] for at in range(0, len(data), 65_537))
    must(objects.get(objects.put_stream(pieces, len(data))) == data, "a stream of exactly the limit is kept")


def too_much_is_refused_and_nothing_kept(make: Make) -> None:
    objects = make()
    taken = []

    def endless() -> Iterator[bytes]:
        for number in range(1000):
            taken.append(number)
            yield b"x" * 100

    must_raise(
        InvalidInput, lambda: objects.put_stream(endless(), 1000), "more than `limit` is refused", code="TOO_LARGE"
    )
    must(len(taken) <= 11, "nothing is read after the limit")
    must(not objects.has(hashlib.sha256(b"x" * 1000).hexdigest()), "nothing of it is kept")
    must(not objects.has(hashlib.sha256(b"x" * 1100).hexdigest()), "nothing of it is kept")


def a_put_that_fails_leaves_nothing(make: Make) -> None:
    objects = make()

    def breaking() -> Iterator[bytes]:
        yield b"half of it"
        raise EOFError

    try:
        objects.put_stream(breaking(), 1000)
    except EOFError:
        pass
    else:
        must(False, "what the stream raises goes to the caller")
    must(not objects.has(hashlib.sha256(b"half of it").hexdigest()), "a put that fails leaves nothing")
    must(objects.get(objects.put(b"next")) == b"next", "the next put works")


def unknown_digests_are_not_found(make: Make) -> None:
    objects = make()
    unknown = hashlib.sha256(b"never put").hexdigest()
    must(not objects.has(unknown), "what was never put is not there")
    must_raise(NotFound, lambda: objects.get(unknown), "get of an unknown digest")
    must_raise(NotFound, lambda: objects.open_path(unknown), "open_path of an unknown digest")
    objects.delete(unknown)


def what_is_no_digest_is_refused(make: Make) -> None:
    objects = make()
    right = objects.put(b"right")
    for wrong in (
        "",
        "abc",
        right.upper(),
        f" {right}",
        f"{right}\n",
        right[:-1],
        f"../{right[3:]}",
        "/" * 64,
        "é" * 64,
    ):
        for call in (objects.get, objects.open_path, objects.has, objects.delete):
            must_raise(InvalidInput, partial(call, wrong), f"{wrong!r} is no digest")


def deleted_is_gone(make: Make) -> None:
    objects = make()
    kept, gone = objects.put(b"kept"), objects.put(b"gone")
    objects.open_path(gone)
    objects.delete(gone)
    objects.delete(gone)
    must(not objects.has(gone), "what was deleted is gone")
    must_raise(NotFound, lambda: objects.get(gone), "get of what was deleted")
    must_raise(NotFound, lambda: objects.open_path(gone), "open_path of what was deleted")
    must(objects.get(kept) == b"kept", "the others stay")
    must(objects.get(objects.put(b"gone")) == b"gone", "and it can be put again")


def damaged_bytes_are_never_given(make: Make, damage: Damage) -> None:
    for data in (b"important", b"x" * 3_000_000):
        objects = make()
        digest = objects.put(data)
        objects.open_path(digest)
        damage(objects, digest)
        must_raise(Corrupt, partial(objects.get, digest), "get of damaged bytes")
        must_raise(Corrupt, partial(objects.open_path, digest), "open_path of damaged bytes")
        objects.put(data)
        must(objects.get(digest) == data, "putting the same bytes again heals it")
        must(objects.open_path(digest).read_bytes() == data, "putting the same bytes again heals it")


def check_verifiable_objects(
    make: Callable[[], VerifiableObjects], damage: Callable[[VerifiableObjects, str], None]
) -> None:
    """The laws of `VerifiableObjects`, beyond those of `check_objects`; arguments as there."""
    objects = make()
    for data in (b"", b"whole", b"y" * 3_000_000):
        objects.verify(objects.put(data))
    must_raise(NotFound, lambda: objects.verify(hashlib.sha256(b"never put").hexdigest()), "verify of nothing")
    must_raise(InvalidInput, lambda: objects.verify("../etc"), "verify of what is no digest")
    digest = objects.put(b"z" * 3_000_000)
    objects.open_path(digest)
    damage(objects, digest)
    must_raise(Corrupt, lambda: objects.verify(digest), "verify of damaged bytes, whatever was read before")
    objects.put(b"z" * 3_000_000)
    objects.verify(digest)


def check_identified_objects(
    make: Callable[[], IdentifiedObjects], again: Callable[[IdentifiedObjects], IdentifiedObjects]
) -> None:
    """The laws of `IdentifiedObjects`, beyond those of `check_verifiable_objects`. `again` opens the place of a store
    once more."""
    objects, other = make(), make()
    must(bool(objects.place), "a place has a name")
    beside = again(objects)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda store: store.identity(), [objects, beside] * 8))
    must(len(found) == 1, "whoever asks first, all get the same id")
    identity = found.pop()
    must(len(identity) == IDENTITY_BYTES, "an id has 16 bytes")
    must(again(objects).identity() == identity, "a place that is opened again has its id")
    must(other.identity() != identity, "another place has another one")
    digest = objects.put(b"an object")
    objects.delete(digest)
    must(objects.identity() == identity, "objects come and go, the id stays")


OBJECTS_CHECKS: tuple[Callable[[Make], None], ...] = (
    a_digest_is_the_sha256_of_the_content,
    putting_twice_is_one_object,
    files_and_streams_are_kept_whole,
    too_much_is_refused_and_nothing_kept,
    a_put_that_fails_leaves_nothing,
    unknown_digests_are_not_found,
    what_is_no_digest_is_refused,
    deleted_is_gone,
)
