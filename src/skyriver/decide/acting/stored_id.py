"""Ids of events as text in a dispatcher's tables, where they are compared: one way for all of them."""

from __future__ import annotations

import json

import msgspec

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import StreamSpec
from skyriver.decide.log.records import Id

_encoder = msgspec.json.Encoder()


def stored_id(own: Id) -> str:
    """JSON: a number and a text that spells it are two ids."""
    return _encoder.encode(own).decode()


def stored_ids(own: Id) -> tuple[str, ...]:
    """All ways in which some row may have it: the first releases escaped in deliveries what is not ASCII."""
    return stored_id(own), json.dumps(own)


def asked_event(stream: StreamSpec, text: str) -> tuple[str, ...]:
    """The ways in which some row may have the event that somebody asks for; none where nobody does. Raises InvalidInput
    (BAD_ID)."""
    if not text:
        return ()
    if stream.field(stream.id).type == "text":
        return stored_ids(text)
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
        raise InvalidInput(
            f"{text[:80]!r} is no id of {stream.name}: they are whole numbers of 64 bits.",
            code="BAD_ID",
            where="event",
            next_action="Give it as it was sent.",
        )
    return stored_ids(int(text))
