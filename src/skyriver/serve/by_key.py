"""`POST /predict` by the keys of a stream's features: what is asked, and what is answered of it; pure.

One object {"entity": {"customer": 17}, "event": {"amount": 80}} asks for one row, {"rows": [...]} for many. `entity`
has a value for each key that the features look by, `event` the other fields of the stream's event: those that features
read must be there unless they may be missing, others do no harm. An object that has neither has named fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import DeadlineExceeded, InvalidInput, NotFound, SkyriverError, Unavailable
from skyriver.core.names import BY_KEY
from skyriver.data.border import Reason, Rejection, RowCleaner
from skyriver.serve.faults import fault_of, invalid_fields, listed
from skyriver.serve.fields import ROWS
from skyriver.serve.protocol import BadJson, decode_body
from skyriver.serve.read_format import MOST_ROWS
from skyriver.serve.reader import AWAY, FeaturesFound, Place
from skyriver.serve.tensors import show

if TYPE_CHECKING:
    from skyriver.core.spec_fields import FieldSpec

ENTITY, EVENT = BY_KEY
_PARTS = frozenset(BY_KEY)
_SHAPE = '{"entity": {key: value, ...}, "event": {field: value, ...}}'

UNREAD = frozenset((AWAY, "FEATURES_NOT_BUILT", "STATE_OLD"))
"""Codes of what is answered where the stream cannot tell."""

_decoder = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class FromStream:
    """As `FromStreamSpec`, with what the control plane knows beside it. `keys`: fields that features look by; `reads`:
    those of the event that they read."""

    place: Place
    keys: tuple[str, ...]
    reads: tuple[str, ...]
    fields: tuple[FieldSpec, ...]
    """Of the stream's events."""
    on_unknown: str = "answer"
    on_old: str = "refuse"
    max_age_us: int = 0
    fallback: float | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> FromStream:
        """Raises InvalidInput (BAD_CONFIG)."""
        from skyriver.core.spec_fields import FieldSpec  # replicas of other models need none of it

        try:
            fields = tuple(FieldSpec.model_validate(field) for field in told["fields"])
            keys, reads = tuple(told["keys"]), tuple(told["reads"])
            if missing := {*keys, *reads} - {field.name for field in fields}:
                raise ValueError(f"there is no field {min(missing)}")
            return cls(
                Place(told["stream"], told["socket"], told["features"]),
                keys,
                reads,
                fields,
                told["on_unknown"],
                told["on_old"],
                int(told["max_age_us"]),
                told["fallback"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"Where features are read is told wrong: {error!r}.",
                code="BAD_CONFIG",
                next_action="`skyriver down`, then `skyriver up`: all its parts are then of one version.",
            ) from error


@dataclass(frozen=True, slots=True)
class AskedByKey:
    """A checked request: rows of JSON as the worker takes them."""

    rows: tuple[bytes, ...]
    single: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """features: of the rows that the model is to answer, float32 [n, F]; instead: for each row that was asked for, why
    it gets the fallback, or "" where the model answers. as_of: what the answer says of it."""

    features: NDArray[np.float32]
    instead: tuple[str, ...]
    as_of: dict[str, int | None] | None


class ByKey:
    def __init__(self, declared: FromStream) -> None:
        self.declared = declared
        keys, reads = frozenset(declared.keys), frozenset(declared.reads)
        own = {f.name: f for f in declared.fields}
        self._keys = RowCleaner([own[name].model_copy(update={"fill": None}) for name in declared.keys])
        others = [f if f.name in reads else f.model_copy(update={"nullable": True}) for f in declared.fields]
        self._event = RowCleaner([f for f in others if f.name not in keys])
        self._wanted = f"Send {_SHAPE}, with the key{'s' if len(keys) > 1 else ''} {', '.join(declared.keys)}" + (
            f" and the fields {listed([name for name in declared.reads if name not in keys])}." if reads - keys else "."
        )

    def decode(self, body: bytes) -> AskedByKey | None:
        """None: this is no request by key. Raises BadJson, InvalidInput naming row, field, value and rule."""
        if b'"entity"' not in body and b'"event"' not in body:
            return None
        given = decode_body(_decoder, body)
        if not isinstance(given, dict):
            return None
        single = ROWS not in given
        rows = [given] if single else given[ROWS]
        if not isinstance(rows, list) or not any(isinstance(row, dict) and not _PARTS.isdisjoint(row) for row in rows):
            return None
        if not single and len(given) > 1:
            extra = next(name for name in given if name != ROWS)
            raise BadJson(f'{extra!r} stands beside "rows": what is asked goes into each row.', code="BAD_REQUEST")
        if len(rows) > MOST_ROWS:
            raise InvalidInput(
                f"{len(rows)} rows are asked for by key, {MOST_ROWS} may be.",
                code="TOO_MANY_ROWS",
                next_action="Ask for them in parts.",
            )
        errors: list[dict[str, Any]] = []
        taken = []
        for number, row in enumerate(rows):
            self._check_form(row, "" if single else f"row {number}: ")
            values = self._row(row)
            if isinstance(values, dict):
                errors.append(values if single else {"row": number} | values)
            else:
                taken.append(values)
        if errors:
            raise invalid_fields(errors, self._wanted)
        return AskedByKey(tuple(taken), single)

    def _check_form(self, row: object, place: str) -> None:
        if not isinstance(row, dict):
            raise BadJson(f"{place}{show(row)} is no object.", code="BAD_REQUEST", next_action=self._wanted)
        if _PARTS.isdisjoint(row):
            raise BadJson(
                f"{place}it has named fields, other rows have an entity: all of a request are asked alike.",
                code="MIXED_FORMS",
                next_action=self._wanted,
            )
        if extra := next((name for name in row if name not in _PARTS), None):
            raise BadJson(
                f"{place}{show(extra)} stands beside {'entity' if ENTITY in row else 'event'}: a row is asked by the"
                " keys of an entity, or by named fields.",
                code="MIXED_FORMS",
                next_action=self._wanted,
            )
        for part in (ENTITY, EVENT):
            if part in row and not isinstance(row[part], dict):
                raise BadJson(
                    f"{place}{part} is {show(row[part])}, an object is wanted.",
                    code="BAD_REQUEST",
                    next_action=self._wanted,
                )

    def _row(self, row: Mapping[str, Mapping[str, Any]]) -> bytes | dict[str, Any]:
        """As it is sent to the worker, or what is wrong with it. The worker cleans what was given once more, as it does
        with events, so that is what it gets."""
        entity, event = row.get(ENTITY, {}), row.get(EVENT, {})
        wrong = self._in_the_other_part(entity, event)
        for part, given, cleaner in ((ENTITY, entity, self._keys), (EVENT, event, self._event)):
            if wrong is None and isinstance(cleaned := cleaner.clean(given), Rejection):
                wrong = _fault(part, cleaned)
        if wrong is not None:
            return wrong
        return msgspec.json.encode({**entity, **event})

    def _in_the_other_part(self, entity: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, Any] | None:
        keys = self.declared.keys
        if (name := next((name for name in event if name in keys), None)) is not None:
            return _fault(EVENT, Rejection(name, event[name], Reason.UNKNOWN_FIELD, f"{name} is a key, of the entity."))
        known = {f.name for f in self.declared.fields}
        if (name := next((name for name in entity if name not in keys and name in known), None)) is not None:
            message = f"{name} is no key of the features, which look by {', '.join(keys)}: it is of the event."
            return _fault(ENTITY, Rejection(name, entity[name], Reason.UNKNOWN_FIELD, message))
        if (name := next((name for name in entity if name not in known), None)) is not None:
            message = f"{show(name)} is no key of the features, which look by {', '.join(keys)}."
            return _fault(ENTITY, Rejection(name, entity[name], Reason.UNKNOWN_FIELD, message))
        return None

    # What was found.

    def judge(self, asked: AskedByKey, found: FeaturesFound | SkyriverError) -> Verdict:
        """Raises what the application wants refused: the error itself, Unavailable (STATE_OLD), NotFound (UNKNOWN_KEY);
        and what is wrong with the request."""
        declared, rows = self.declared, len(asked.rows)
        if isinstance(found, SkyriverError):
            falls_back = isinstance(found, Unavailable) and not isinstance(found, DeadlineExceeded)
            if not falls_back or declared.on_old != "fallback":
                raise found
            return Verdict(_NO_ROWS, (found.code,) * rows, None)
        as_of = {"offset": found.offset, "age_ms": None if found.age_us is None else max(0, found.age_us) // 1000}
        if declared.max_age_us and (found.age_us is None or found.age_us > declared.max_age_us):
            if declared.on_old != "fallback":
                raise self._old(found)
            return Verdict(_NO_ROWS, ("STATE_OLD",) * rows, as_of)
        unknown = [row for row, key in enumerate(found.unknown) if key]
        if not unknown or declared.on_unknown == "answer":
            return Verdict(found.features, ("",) * rows, as_of)
        if declared.on_unknown == "refuse":
            raise self._unknown(asked, unknown[0], found.unknown[unknown[0]])
        instead = tuple("UNKNOWN_KEY" if key else "" for key in found.unknown)
        return Verdict(found.features[[not why for why in instead]], instead, as_of)

    def _old(self, found: FeaturesFound) -> Unavailable:
        stream, limit = self.declared.place.stream, self.declared.max_age_us
        last = "has had no event yet" if found.age_us is None else f"had its last event {found.age_us / 1e6:.1f} s ago"
        return Unavailable(
            f"{stream} {last}, and its features may be {limit / 1e6:g} s old.",
            code="STATE_OLD",
            next_action=f"See whether events reach it: `skyriver stream get {stream}`.",
        )

    def _unknown(self, asked: AskedByKey, row: int, key: str) -> NotFound:
        value = msgspec.json.decode(asked.rows[row])[key]
        return NotFound(
            f"{self.declared.place.stream} knows nothing of {key} {show(value)}: no event of it is in any window.",
            code="UNKNOWN_KEY",
            where=f"entity.{key}" if asked.single else f"row {row}, entity.{key}",
            next_action="Send its features as named fields, or its event to the stream.",
        )

    def answers(self, verdict: Verdict, answered: Sequence[dict[str, object]]) -> list[dict[str, object]]:
        """One for each row that was asked for; `answered` are those of the model."""
        own = iter(answered)
        return [next(own) if not why else {"score": self.declared.fallback, "fallback": why} for why in verdict.instead]


_NO_ROWS: NDArray[np.float32] = np.empty((0, 0), np.float32)


def _fault(part: str, wrong: Rejection) -> dict[str, Any]:
    return fault_of(wrong) | {"field": f"{part}.{wrong.field}", "message": f"{part}: {wrong.message}"}
