"""`LogReader` on a stream of JetStream. A place is found by halving: the headers of a message say where it is."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import APIError, NotFoundError

from skyriver.adapters.nats.calling import NatsCaller
from skyriver.adapters.nats.frames import HEADER, Head, read_head, records_of
from skyriver.core.errors import Corrupt, InvalidInput
from skyriver.data.log import Record

WINDOW = 64
"""Messages asked for at once, one by one: of a server before 2.11."""
BATCH = 2048
BATCH_BYTES = 8 << 20
"""Of one request to a later server, at least one message."""
BATCHES_SINCE = 1
"""The level of JetStream's interface, that of 2.11."""
ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """One stream of JetStream that holds one log, and its one subject."""

    stream: str
    subject: str

    @classmethod
    def named(cls, name: str) -> Place:
        return cls(name, f"skyriver.log.{name}")


@dataclass(frozen=True, slots=True)
class Found:
    """A message: its number in the stream, its head and its content."""

    number: int
    head: Head
    content: bytes


class NatsReader:
    """Threads may share its caller; one thread at a time reads."""

    def __init__(self, caller: NatsCaller, place: Place) -> None:
        self._caller = caller
        self._place = place

    def close(self) -> None:
        self._caller.close()

    @property
    def next_offset(self) -> int:
        found = self.last()
        return found.head.end if found is not None else 0

    @property
    def first_offset(self) -> int:
        """It is kept whole."""
        return 0

    def begin(self) -> tuple[int, int]:
        """The first offset, and T of the last record that was given up before it (0: none was)."""
        return 0, 0

    def sync(self) -> int:
        """What is there is on the disk; the offset after it."""
        return self.next_offset

    def last(self) -> Found | None:
        """The newest message; None where there is none."""
        return self._caller.call(self._last)

    def read(self, start: int = 0, *, end: int | None = None) -> Iterator[Record]:
        if start < 0:
            raise InvalidInput(f"Offset {start} is below 0.", code="BAD_OFFSET", next_action="Read from offset 0 on.")
        last = self.last()
        there = last.head.end if last is not None else 0
        stop = there if end is None else min(end, there)
        return self._records(start, stop, last) if last is not None and start < there else iter(())

    def where(self, number: int) -> str:
        return f"{self._caller.url} stream {self._place.stream} message {number}"

    def _records(self, start: int, stop: int, last: Found) -> Iterator[Record]:
        expected = -1
        for found in self._whole(self._find(start, last.number), last.number):
            head = found.head
            if not head.count:
                continue
            if expected < 0 and head.offset > start:
                raise self._hole(start, found)
            if expected >= 0 and head.offset != expected:
                raise self._hole(expected, found)
            expected = head.offset + head.count
            for record in records_of(head, found.content, self.where(found.number)):
                if record.offset >= stop:
                    return
                if record.offset + record.count > start:
                    yield record
            if expected >= stop:
                return
        raise Corrupt(
            f"The records from offset {max(expected, start)} on are not there any more.", where=self.where(last.number)
        )

    def _hole(self, offset: int, found: Found) -> Corrupt:
        return Corrupt(
            f"The record with offset {offset} is not there any more; the next one has {found.head.offset}.",
            where=self.where(found.number),
        )

    def _whole(self, first: int, last: int) -> Iterator[Found]:
        """Messages from `first` on; the parts of a record are put together. Parts without their last are of a writer
        that died half-way, and are not there."""
        parts: list[Found] = []
        for found in self._messages(first, last):
            head = found.head
            if head.parts == 1:
                parts = []
                yield found
                continue
            if head.part != len(parts) or (
                parts and (parts[0].head.epoch, parts[0].head.offset) != (head.epoch, head.offset)
            ):
                parts = []
            if head.part == len(parts):
                parts.append(found)
            if len(parts) == head.parts:
                content = b"".join(part.content for part in parts)
                yield Found(parts[0].number, Head(head.epoch, head.offset, head.count), content)
                parts = []

    def _messages(self, first: int, last: int) -> Iterator[Found]:
        number = first
        while number <= last:
            got = self._caller.call(lambda client, begin=number: self._get_some(client, begin, last), 60.0)  # type: ignore[misc]
            if not got:
                return
            for found in got:
                if number <= found.number <= last:
                    number = found.number + 1
                    yield found
            number = max(number, got[-1].number + 1)

    def _find(self, start: int, last: int) -> int:
        """The number from which reading comes to the record that covers `start`."""
        low, high = 1, last
        while low < high:
            middle = (low + high) // 2
            found = self._caller.call(lambda client, number=middle: self._get(client, number))  # type: ignore[misc]
            if found is None or found.number > high or found.head.offset + found.head.count > start:
                high = middle
            else:
                low = found.number + 1
        return self._first_part(low)

    def _first_part(self, number: int) -> int:
        found = self._caller.call(lambda client: self._get(client, number))
        return max(1, number - found.head.part) if found is not None else number

    # On the caller's loop

    async def _last(self, client: Client) -> Found | None:
        """Asked of the leader, which has what it acknowledged."""
        try:
            message = await client.jetstream().get_last_msg(self._place.stream, self._place.subject)
        except NotFoundError:
            return None
        return self._found(message.seq or 0, message.headers or {}, message.data or b"")

    async def _get_some(self, client: Client, begin: int, last: int) -> list[Found]:
        """The next messages from the number `begin` on, in order; none where there are none up to `last`."""
        if int(client._server_info.get("api_lvl") or 0) >= BATCHES_SINCE:
            got = await self._get_batch(client, begin, min(BATCH, last + 1 - begin))
            if got:
                return got
        numbers = range(begin, min(begin + WINDOW, last + 1))
        found = await asyncio.gather(*(self._get(client, number) for number in numbers))
        return [one for one in found if one is not None]

    async def _get_batch(self, client: Client, begin: int, count: int) -> list[Found]:
        """Fewer where a follower that is behind answers; what it lacks is asked of the leader, one by one."""
        got: list[tuple[dict[str, str], bytes]] = []
        whole = asyncio.Event()

        async def take(answer: Msg) -> None:
            headers = answer.headers or {}
            if headers.get("Status"):
                whole.set()
            else:
                got.append((headers, answer.data))

        inbox = client.new_inbox()
        answers = await client.subscribe(inbox, cb=take)
        request = {"seq": begin, "batch": count, "max_bytes": BATCH_BYTES, "next_by_subj": self._place.subject}
        try:
            await client.publish(f"$JS.API.DIRECT.GET.{self._place.stream}", json.dumps(request).encode(), inbox)
            await asyncio.wait_for(whole.wait(), ANSWER_S)
        finally:
            await answers.unsubscribe()
        return [self._found(int(headers["Nats-Sequence"]), headers, content) for headers, content in got]

    async def _get(self, client: Client, number: int) -> Found | None:
        """The message with this number, or the next one that there is."""
        request = json.dumps({"seq": number, "next_by_subj": self._place.subject}).encode()
        answer = await client.request(f"$JS.API.DIRECT.GET.{self._place.stream}", request, ANSWER_S)
        headers = answer.headers or {}
        if headers.get("Status"):
            return await self._get_of_leader(client, number)
        return self._found(int(headers["Nats-Sequence"]), headers, answer.data)

    async def _get_of_leader(self, client: Client, number: int) -> Found | None:
        """A follower that is behind does not have yet what the leader has."""
        request = json.dumps({"seq": number, "next_by_subj": self._place.subject}).encode()
        answer: Msg = await client.request(f"$JS.API.STREAM.MSG.GET.{self._place.stream}", request, ANSWER_S)
        document: dict[str, Any] = json.loads(answer.data)
        if "error" in document:
            if document["error"].get("code") == 404:
                return None
            raise APIError(**{k: v for k, v in document["error"].items() if k in ("code", "description", "err_code")})
        message = document["message"]
        headers: dict[str, str] = {}
        if message.get("hdrs"):
            headers = _headers(base64.b64decode(message["hdrs"]))
        return self._found(message["seq"], headers, base64.b64decode(message.get("data") or ""))

    def _found(self, number: int, headers: dict[str, str], content: bytes) -> Found:
        return Found(number, read_head(headers.get(HEADER, ""), content, self.where(number)), content)


def _headers(raw: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in raw.split(b"\r\n")[1:]:
        with contextlib.suppress(ValueError):
            name, value = line.split(b":", 1)
            found[name.decode()] = value.strip().decode()
    return found
