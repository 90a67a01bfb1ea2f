"""Ids of events as text in a dispatcher's tables, where they are compared: one way for all of them."""

from __future__ import annotations

import json

import msgspec

from skyriver.decide.log.records import Id

_encoder = msgspec.json.Encoder()


def stored_id(own: Id) -> str:
    """JSON: a number and a text that spells it are two ids."""
    return _encoder.encode(own).decode()


def stored_ids(own: Id) -> tuple[str, ...]:
    """All ways in which some row may have it: the first releases escaped in deliveries what is not ASCII."""
    return stored_id(own), json.dumps(own)
