"""Signatures of what is sent to receivers, as the Standard Webhooks have them: HMAC-SHA256 over id, time and body."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence


def signature(secrets: Sequence[bytes], id: str, seconds: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature for each secret. A receiver takes what one that it knows signed,
    `seconds` being near its own time."""
    content = b"%b.%d.%b" % (id.encode(), seconds, body)
    return " ".join("v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in secrets)


def is_signed(secrets: Sequence[bytes], id: str, seconds: int, body: bytes, given: str) -> bool:
    """What a receiver asks."""
    wanted = [text.encode() for text in signature(secrets, id, seconds, body).split()]
    return any(hmac.compare_digest(text.encode(), known) for text in given.split() for known in wanted)
