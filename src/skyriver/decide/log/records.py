"""What stands in a stream's log, as bytes (see `skyriver.data.log` for the kinds of records).

All payloads are msgpack but CONTROL (JSON, for people) and HISTORY (Arrow IPC, `decide.log.history`). They are on
disk for years: fields are only ever added at the end, with a default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from skyriver.core.errors import Corrupt
from skyriver.data.decisions import Reason, Status

Value = int | float | str | bool | None
"""A cleaned value of a field; a time is whole microseconds."""
Id = int | str

LATE = 1
"""Flag of an EVENT: later than the stream's disorder, so it enters the table and never the windows (DESIGN 6.1)."""
RAW_LIMIT = 64 * 1024
"""Bytes of a refused event that are kept."""


class DecisionRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The outcome of one event. `features` is float32 little endian in feature order (missing is NaN), b"" if none."""

    event_offset: int
    id: Id
    status: Status
    decision: str
    score: float | None
    features: bytes
    model: str
    version: int
    rules_digest: str
    features_digest: str
    reason: Reason
    decided_at_us: int
    latency_us: int
    """From the event's arrival to its decision, before the log was synced."""
    arm: str = ""
    """"canary" where a canary's version was asked."""
    shadow_version: int = 0
    """Of the version that was asked beside and decides nothing yet; 0: none was."""
    shadow_score: float | None = None
    """What that said; None where it said nothing in time."""
    rule: str = ""
    """Name of the rule that fired; "" where none did, and in logs of before it was kept."""
    probability: float | None = None
    """What the score says by the calibration of the version that gave it; None where that has none."""
    shadow_decision: str = ""
    """What rules that were evaluated beside say (see `skyriver.decide.decision.trial`); "" where there were none."""
    shadow_rules: str = ""
    """Their digest."""


class LabelRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """`subject_offset` is -1 when no event of that id is known; the label then enters the table alone."""

    label_index: int
    subject_id: Id
    value: float
    known_at_us: int
    subject_offset: int


class DeadRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A refused event: `reason` is a stable code, `field` the offending field ("" when it is the whole)."""

    reason: str
    field: str
    message: str
    raw: bytes


class ModelInUse(msgspec.Struct, frozen=True):
    name: str
    version: int
    artifact: str
    """Digest of the ONNX file in Objects."""


class TrialInUse(msgspec.Struct, frozen=True):
    """Rules that are evaluated beside those that decide, and taken for `percent` of the keys."""

    number: int
    """Of their version."""
    percent: float
    rules: tuple[tuple[str, ...], ...]
    """As those of a CONTROL record."""
    rules_digest: str


class LoadStep(msgspec.Struct, frozen=True):
    """Announces the HISTORY record that follows it directly; without one it is void (the append was cut off), unless
    the block was `empty`: it held duplicates alone, and this is all that tells of it."""

    load: str
    sequence: int
    duplicates: int
    last: bool
    empty: bool = False


class ControlRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What every record after it was decided with, until the next (DESIGN 6.8)."""

    model: ModelInUse | None
    rules: tuple[tuple[str, ...], ...]
    """(decision, when) or (decision, when, name), in order."""
    otherwise: str
    fallback: str
    rules_digest: str
    features_digest: str
    disorder_us: int
    ahead_us: int
    at: int
    """Wall time, microseconds."""
    fields: tuple[str, ...] = ()
    """`name type` of the stream's fields: what the values of an EVENT are, by their place."""
    labels: tuple[str, ...] = ()
    """Names of the stream's labels, by their index."""
    load: LoadStep | None = None
    canary: ModelInUse | None = None
    canary_percent: float = 0.0
    """Of the keys of the stream (see `skyriver.decide.decision.scoring`)."""
    shadow: ModelInUse | None = None
    last: ModelInUse | None = None
    """The version before, where it stands in for the released one."""
    deadline_us: int = 0
    fallback_by: tuple[str, ...] = ()
    features: dict[str, Any] | None = None
    """FeatureSetSpec, as JSON, of `features_digest`: how the features of the decisions after it were computed. None
    where there are none, beside a load, and in logs of before it was kept."""
    features_before: dict[str, Any] | None = None
    """Those of the decisions before it, where it changes them: the log may give up what told of them."""
    references: tuple[tuple[str, ...], ...] = ()
    """Of each reference of the stream, by its index: its name, `name type` of its fields, and `/role name` of those
    that are its id, time, until and by (not in logs of before)."""
    rules_version: int = 0
    """Of `rules`; 0 in logs of before rules had versions."""
    trial: TrialInUse | None = None
    budgets: tuple[dict[str, Any], ...] = ()
    """BudgetSpecs, as JSON."""
    counters: tuple[dict[str, Any], ...] = ()
    """CounterSpecs, as JSON."""
    combine: tuple[str, ...] = ()
    cheaper: ModelInUse | None = None
    """The version that scores while the worker is overloaded: records with the reason CHEAPER say which events."""


_encoder = msgspec.msgpack.Encoder()
_event = msgspec.msgpack.Decoder(list[int | float | str | bool | None])
_decision = msgspec.msgpack.Decoder(DecisionRecord)
_label = msgspec.msgpack.Decoder(LabelRecord)
_dead = msgspec.msgpack.Decoder(DeadRecord)
_control = msgspec.json.Decoder(ControlRecord)

encode = _encoder.encode
"""The payload of a DecisionRecord, LabelRecord or DeadRecord."""


def encode_event(flags: int, values: Sequence[Value]) -> bytes:
    """`values` in the order of the stream's fields."""
    return _encoder.encode([flags, *values])


def decode_event(payload: bytes) -> tuple[int, list[Value]]:
    """(flags, values). Raises Corrupt for a payload that is no event."""
    try:
        flags, *values = _event.decode(payload)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _unreadable("EVENT", error) from error
    if not isinstance(flags, int):
        raise _unreadable("EVENT", TypeError(f"flags are {flags!r}"))
    return flags, values


def encode_reference(index: int, values: Sequence[Value]) -> bytes:
    """A row of the stream's reference `index`; `values` in the order of its fields."""
    return _encoder.encode([index, *values])


def decode_reference(payload: bytes) -> tuple[int, list[Value]]:
    """(index, values). Raises Corrupt for a payload that is no row of a reference."""
    try:
        index, *values = _event.decode(payload)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _unreadable("REFERENCE", error) from error
    if not isinstance(index, int):
        raise _unreadable("REFERENCE", TypeError(f"its reference is {index!r}"))
    return index, values


def decode_decision(payload: bytes) -> DecisionRecord:
    try:
        return _decision.decode(payload)
    except msgspec.MsgspecError as error:
        raise _unreadable("DECISION", error) from error


def decode_label(payload: bytes) -> LabelRecord:
    try:
        return _label.decode(payload)
    except msgspec.MsgspecError as error:
        raise _unreadable("LABEL", error) from error


def decode_dead(payload: bytes) -> DeadRecord:
    try:
        return _dead.decode(payload)
    except msgspec.MsgspecError as error:
        raise _unreadable("DEAD", error) from error


def encode_control(record: ControlRecord) -> bytes:
    return msgspec.json.encode(record)


def decode_control(payload: bytes) -> ControlRecord:
    try:
        return _control.decode(payload)
    except msgspec.MsgspecError as error:
        raise _unreadable("CONTROL", error) from error


def _unreadable(kind: str, error: Exception) -> Corrupt:
    """Its checksum held, so another program version wrote it, or the wrong reader reads it."""
    return Corrupt(f"A record of kind {kind} cannot be read: {error}.", code="UNREADABLE_RECORD")
