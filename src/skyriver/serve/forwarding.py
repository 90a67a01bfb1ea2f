"""One connection to a replica of ours, for requests that were held: sends them as they came, reads whole answers.

It understands what serve.http writes, and no more of HTTP: a status, headers, and a body of `content-length` bytes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from skyriver.serve.http import Request

ANSWER_S = 120.0
_OF_THE_CONNECTION = frozenset(
    (b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"expect", b"upgrade", b"te", b"trailer")
)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Line:
    """One request at a time. A line that failed is closed and not used again."""

    def __init__(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.path = path
        self.open = True
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, path: str) -> Line:
        """Raises OSError where nobody listens."""
        return cls(path, *await asyncio.open_unix_connection(path))

    async def exchange(self, request: Request) -> Answer:
        """Raises OSError, EOFError (the replica ended), TimeoutError, ValueError (its answer is not ours)."""
        self._writer.writelines((_head(request), request.body))
        async with asyncio.timeout(ANSWER_S):
            await self._writer.drain()
            head = await self._reader.readuntil(b"\r\n\r\n")
            status, headers = _parsed(head)
            length = 0 if request.method == b"HEAD" else int(headers.pop(b"content-length", b"0"))
            body = await self._reader.readexactly(length) if length else b""
        self.open = headers.pop(b"connection", b"keep-alive").lower() != b"close"
        content_type = headers.pop(b"content-type", b"application/octet-stream")
        passed = tuple((name, value) for name, value in headers.items() if name not in _OF_THE_CONNECTION)
        return Answer(status, content_type, passed, body)

    def close(self) -> None:
        self.open = False
        self._writer.close()


def _head(request: Request) -> bytes:
    query = b"?" + request.query if request.query else b""
    lines = [b"%b %b%b HTTP/1.1" % (request.method, request.path, query)]
    lines += [b"%b: %b" % pair for pair in request.headers.items() if pair[0] not in _OF_THE_CONNECTION]
    lines.append(b"content-length: %d\r\n\r\n" % len(request.body))
    return b"\r\n".join(lines)


def _parsed(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head[:-4].split(b"\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    return int(first.split(b" ", 2)[1]), headers
