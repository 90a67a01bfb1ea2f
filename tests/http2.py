"""One request over HTTP/2, written by hand: enough to know whether a server speaks it."""

import socket

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_STATUS = {0x88: 200, 0x8C: 400, 0x8D: 404}


def get(connection: socket.socket, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and body; a status that HPACK's static table does not hold is 0."""
    named = {":method": "GET", ":scheme": "http", ":path": path, ":authority": "skyriver", **headers}
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in named.items())
    connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _frame(_HEADERS, 5, 1, block))
    status, body, received = 0, b"", connection.makefile("rb")
    while True:
        head = received.read(9)
        assert len(head) == 9, "the server closed the connection"
        payload = received.read(int.from_bytes(head[:3]))
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
        if kind == _HEADERS:
            status = _STATUS.get(payload[0], 0)
        elif kind == _DATA:
            body += payload
        if stream == 1 and kind in (_HEADERS, _DATA) and flags & 1:
            return status, body


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _text(text: str) -> bytes:
    data = text.encode()
    assert len(data) < 127
    return bytes([len(data)]) + data
