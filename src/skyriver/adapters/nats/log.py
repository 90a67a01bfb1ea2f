"""`Log` on a stream of NATS JetStream that syncs before it acknowledges.

Theory of operation
===================
`append` gives records their places and holds them; `sync` publishes them, several in a message, and returns when the
server has acknowledged all. Each message names the number of the one before it on the subject (expected last
sequence): the server takes it only there. Opening publishes a message of its own, with an epoch higher by one: from
then on nothing fits any more that an older holder has in its hands. So there is no lock; who opens takes the log.

What a failed sync has published is deleted again. Where the server went away in the middle nobody knows what it has:
then the log is opened anew, under the next epoch, before anything else is done with it, and what is there counts as
appended. That another holder has come since is seen by its epoch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from nats.aio.client import Client
from nats.js.api import DiscardPolicy, PubAck, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from skyriver.adapters.nats.calling import NatsCaller
from skyriver.adapters.nats.frames import FRAME, HEADER, Head, messages_of
from skyriver.adapters.nats.proof import check_syncs
from skyriver.adapters.nats.reader import Found, NatsReader, Place
from skyriver.core.errors import Conflict, SkyriverError, Unavailable
from skyriver.data.log import Record, place
from skyriver.data.retention import Part, Sizes
from skyriver.decide.worker.sources import Access

MESSAGE_BYTES = 512 * 1024
HEADER_BYTES = 4096
"""Of the server's largest message, that are left for headers."""
PUBLISH_S = 10.0
PREPARE_S = 30.0
"""A stream is made on a disk, which may be busy. What opens a log has no more time than that in all."""
AT_ONCE = 32
"""Messages that are on their way together."""
TRIES = 5
"""To open, while others open too."""
WRONG_LAST = frozenset({10071, 10164})
NO_ROOM = frozenset({10077, 10047, 10023, 10122})
"""Maximum bytes exceeded, insufficient storage, insufficient resources, the stream's maximum messages."""


def open_nats_log(url: str, name: str, access: Callable[[], Access], *, holder: str, began: bool = False) -> NatsLog:
    """Takes the log `name` from whoever holds it; makes it where there is none, unless it has `began`: then it is gone.

    Raises Conflict (OLD_SERVER, DOES_NOT_SYNC, UNFIT_STREAM), InvalidInput (NO_PROOF), Unavailable (BROKER_AWAY,
    LOG_GONE)."""
    caller = NatsCaller(url, access, f"skyriver {name}", partial(check_syncs, url))
    try:
        place = Place.named(name)
        caller.call(lambda client: _prepare(client, place, url, began=began))
        return NatsLog(caller, place, holder, began=began)
    except BaseException:
        caller.close()
        raise


def nats_reader(url: str, name: str, access: Callable[[], Access]) -> NatsReader:
    return NatsReader(NatsCaller(url, access, f"skyriver {name} reader"), Place.named(name))


class NatsLog:
    """Made by `open_nats_log`."""

    def __init__(self, caller: NatsCaller, place: Place, holder: str, *, began: bool) -> None:
        self._caller = caller
        self._place = place
        self._holder = holder
        self._reader = NatsReader(caller, place)
        self._held: list[Record] = []
        self._closed = self._lost = self._unsure = False
        self._epoch = 0
        self._last = 0
        """The number of the newest message on the subject."""
        self._synced = 0
        """The offset after what the server has."""
        self._limit = 0
        self._take(began=began)

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def next_offset(self) -> int:
        return self._held[-1].offset + self._held[-1].count if self._held else self._synced

    def append(self, records: Sequence[Record]) -> int:
        self._ready()
        first = self.next_offset
        self._held += place(records, first, self._epoch)
        return first

    def sync(self) -> None:
        """Raises Unavailable (DISK_FULL, BROKER_AWAY): what was held is given up then; Conflict (LOG_LOST)."""
        self._ready()
        held, self._held = self._held, []
        if not held:
            return
        try:
            self._publish(held)
        except APIError as error:
            raise self._refused(error) from error
        except SkyriverError:
            self._unsure = True
            raise
        self._synced = held[-1].offset + held[-1].count

    def sync_to_disk(self) -> None:
        """What the server has acknowledged is as safe as it keeps it."""

    def read(self, start: int = 0, *, end: int | None = None) -> Iterator[Record]:
        """All that was appended, synced or not."""
        self._ready()
        synced = self._reader.read(start, end=end)
        held = [r for r in self._held if r.offset + r.count > start and (end is None or r.offset < end)]
        return _both(synced, held)

    def begin(self) -> tuple[int, int]:
        """It is kept whole."""
        return 0, 0

    # As a log whose beginning could be given up: it is one part, which is being written, and kept whole.

    segment_bytes = 0

    @property
    def first_offset(self) -> int:
        return 0

    @property
    def open_bytes(self) -> int:
        return 0

    def parts(self) -> Sequence[Part]:
        return ()

    def sizes(self) -> Sizes:
        return Sizes()

    def remove_before(self, offset: int) -> int:
        return 0

    def tier_next(self) -> bool:
        return False

    def drop_local(self, limit: int) -> None: ...

    def close(self) -> None:
        if not self._closed:
            try:
                if not self._lost and not self._unsure:
                    self.sync()
            finally:
                self.abandon()

    def abandon(self) -> None:
        """The end of this writer without a word, as the end of its process would be."""
        self._closed = True
        self._caller.close()

    def _ready(self) -> None:
        if self._closed:
            raise Conflict(
                "This log is closed.", code="LOG_CLOSED", where=self._caller.url, next_action="Open it again."
            )
        if self._lost:
            raise self._taken()
        if self._unsure:
            self._caller.drop()
            self._take(began=True)
            self._unsure = False

    def _take(self, *, began: bool) -> None:
        """Opens the next epoch behind what is there. Raises Conflict (LOG_LOST) when another holder has come since the
        last one."""
        for _ in range(TRIES):
            found = self._reader.last()
            if self._epoch and (found is None or found.head.epoch != self._epoch):
                self._lost = True
                raise self._taken()
            if found is None and began:
                raise log_gone(self._caller.url, self._place.stream)
            with contextlib.suppress(_Late):
                self._open_epoch(found)
                return
        raise self._taken()

    def _open_epoch(self, found: Found | None) -> None:
        epoch = found.head.epoch + 1 if found is not None else 1
        offset = found.head.end if found is not None else 0
        last = found.number if found is not None else 0
        content = self._holder.encode()
        try:
            self._last = self._caller.call(
                lambda client: self._send(client, Head(epoch, offset, 0), content, last), PUBLISH_S
            ).seq
        except APIError as error:
            if error.err_code in WRONG_LAST:
                raise _Late from error
            raise self._refused(error) from error
        self._epoch, self._synced = epoch, offset
        self._limit = self._caller.call(_message_limit)

    def _publish(self, records: Sequence[Record]) -> None:
        messages = list(messages_of(records, self._epoch, self._limit))
        sent: list[int] = []

        async def send_all(client: Client) -> None:
            sent.append((await self._send(client, *messages[0], self._last)).seq)
            for start in range(1, len(messages), AT_ONCE):
                some = messages[start : start + AT_ONCE]
                before = sent[-1]
                sending = [self._send(client, *message, before + n) for n, message in enumerate(some)]
                done = await asyncio.gather(*sending, return_exceptions=True)
                sent.extend(ack.seq for ack in done if isinstance(ack, PubAck))
                failed = [error for error in done if isinstance(error, BaseException)]
                if failed:
                    raise failed[0]

        try:
            self._caller.call(send_all, PUBLISH_S * (1 + len(messages) / AT_ONCE))
        except APIError as error:
            if sent and error.err_code not in WRONG_LAST:
                self._take_back(sent)
            raise
        self._last = sent[-1]

    def _take_back(self, numbers: Sequence[int]) -> None:
        async def delete(client: Client) -> None:
            for number in reversed(numbers):
                await client.jetstream().delete_msg(self._place.stream, number)

        try:
            self._caller.call(delete)
        except (APIError, SkyriverError):
            self._unsure = True

    async def _send(self, client: Client, head: Head, content: bytes, last: int) -> PubAck:
        headers = {HEADER: head.written(content), "Nats-Expected-Last-Subject-Sequence": str(last)}
        return await client.jetstream().publish(
            self._place.subject, content, timeout=PUBLISH_S, stream=self._place.stream, headers=headers
        )

    def _refused(self, error: APIError) -> SkyriverError:
        if error.err_code in WRONG_LAST:
            self._lost = True
            return self._taken()
        if error.err_code in NO_ROOM:
            return Unavailable(
                f"The NATS server has no room for the records: {error.description}.",
                code="DISK_FULL",
                where=self._reader.where(self._last),
                next_action="Free space on the server's disk, or raise the limits of its JetStream.",
            )
        self._unsure = True
        return Unavailable(
            f"The NATS server does not take the records: {error.description}.",
            code="LOG_REFUSED",
            where=self._reader.where(self._last),
            next_action="It is tried again by itself; the server's log says more.",
        )

    def _taken(self) -> Conflict:
        return Conflict(
            f"Epoch {self._epoch} of this log is over: another writer has taken it.",
            code="LOG_LOST",
            where=f"{self._caller.url} stream {self._place.stream}",
            next_action="Open the log again to write to it.",
        )


class _Late(Exception):
    """Another one opened in the meantime."""


def _both(synced: Iterator[Record], held: Sequence[Record]) -> Iterator[Record]:
    yield from synced
    yield from held


def log_gone(url: str, stream: str) -> Unavailable:
    return Unavailable(
        f"The stream {stream} of NATS, which holds the log, is gone.",
        code="LOG_GONE",
        where=url,
        next_action="Bring it back from a copy: a new one in its place would give old offsets to new events.",
    )


async def _message_limit(client: Client) -> int:
    return max(FRAME.size + 1, min(MESSAGE_BYTES, client.max_payload - HEADER_BYTES))


async def _prepare(client: Client, place: Place, url: str, *, began: bool) -> None:
    context = client.jetstream(timeout=PREPARE_S)
    try:
        found = (await context.stream_info(place.stream)).config
    except NotFoundError:
        if began:
            raise log_gone(url, place.stream) from None
        config = StreamConfig(
            name=place.stream,
            subjects=[place.subject],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            allow_direct=True,
            deny_purge=True,
        )
        found = (await context.add_stream(config)).config
    wrong = _unfit(found, place)
    if wrong:
        raise Conflict(
            f"The stream {place.stream} of NATS cannot hold a log: {wrong}.",
            code="UNFIT_STREAM",
            where=url,
            next_action="Choose another name, or remove that stream: it is made as it must be.",
        )


def _unfit(config: StreamConfig, place: Place) -> str:
    """Why a stream would lose records by itself; "" where it would not."""
    if list(config.subjects or ()) != [place.subject]:
        return f"its subjects are {', '.join(config.subjects or ())}"
    if config.storage != StorageType.FILE:
        return "it is held in memory"
    if config.retention != RetentionPolicy.LIMITS or config.max_age or (config.max_msgs or -1) > 0:
        return "it forgets messages"
    if config.discard != DiscardPolicy.NEW:
        return "it would drop the oldest records when it is full"
    if getattr(config, "max_msgs_per_subject", -1) not in (-1, 0, None):
        return "it holds a limited number of messages"
    if getattr(config, "persist_mode", None) not in (None, "", "default"):  # servers from 2.12 on
        return "it acknowledges before it writes"
    if not config.allow_direct:
        return "it does not allow direct access"
    return ""
