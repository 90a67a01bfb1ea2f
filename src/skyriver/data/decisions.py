"""What became of live events, as the log keeps it: of a block of them in columns, a DECISIONS record.

Its payload is msgpack, an array (see `_Payload`); what many events have in common, their outcome, stands there once.
On disk for years: fields are only ever added at an array's end, with a default.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from skyriver.data.columns import Bools, Ints, pack_bits, unpack_bits

Floats = NDArray[np.float32]
Codes = NDArray[np.uint16]


class Status(StrEnum):
    """What became of an event record. It gets exactly one (DESIGN 6.8)."""

    DECIDED = "decided"
    FALLBACK = "fallback"
    """There was no score to be had: no version of the model yet, the released one was late, or the worker overloaded;
    or another version gave one in its place (then there is a score)."""
    LATE = "late"
    DUPLICATE = "duplicate"
    FAILED = "failed"
    """The model raised or gave no finite score."""
    ERASED = "erased"


class Reason(StrEnum):
    """Why an event was not decided by the score of the version that was asked; "" when it was."""

    NONE = ""
    NO_VERSION = "NO_VERSION"
    """No version of the model is released yet, or it cannot be used (trained on other features): the stream tells."""
    NO_DECISIONS = "NO_DECISIONS"
    """The stream declares no decisions; it only takes events in."""
    LATE = "LATE"
    MODEL_FAILED = "MODEL_FAILED"
    SCORE_NOT_FINITE = "SCORE_NOT_FINITE"
    MODEL_LATE = "MODEL_LATE"
    """No score within the deadline."""
    MODEL_ASIDE = "MODEL_ASIDE"
    """It was late again and again, and is not asked for some seconds."""
    BUDGET_SPENT = "BUDGET_SPENT"
    """It has a score, and there were as many of its decision as there may be: it got the overflow."""
    SHED = "SHED"
    """The worker was overloaded, and the event could not be scored within the declared latency any more."""
    CHEAPER = "CHEAPER"
    """The worker was overloaded, and the declared cheaper version scored in place of the one that is released."""


class Outcome(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What became of some events; the fields are those of a DECISION record."""

    status: Status
    decision: str
    model: str
    version: int
    rules_digest: str
    features_digest: str
    reason: Reason
    arm: str = ""
    rule: str = ""
    shadow_decision: str = ""
    shadow_rules: str = ""


class _Payload(msgspec.Struct, array_like=True, frozen=True, gc=False):
    first: int
    """Offset of the first event; the others follow it without a gap."""
    ids: bytes | list[str]
    """int64 [n], or texts."""
    outcomes: list[Outcome]
    codes: bytes
    """uint16 [n]: place of each event's outcome."""
    scores: bytes
    """float32 [n], NaN for none."""
    without: bytes
    """Bits [n]: events without features; empty when all have some."""
    features: bytes
    """float32 [those with features, F]."""
    decided_at_us: int
    latency_us: bytes
    """int64 [n]."""
    shadow_version: int = 0
    shadow: bytes = b""
    """float32 [n], NaN for none; empty without a shadow."""
    probabilities: bytes = b""
    """float32 [n], NaN for none; empty where no version says any."""


_decoder = msgspec.msgpack.Decoder(_Payload)
OVERLOADED = frozenset({Reason.SHED, Reason.CHEAPER})
"""The released version was not asked, nor was one beside it: there was no time for that."""
_UNASKED = frozenset({Status.LATE, Status.ERASED})
"""Of whom nothing is known that a model beside said."""


@dataclass(frozen=True, slots=True)
class DecisionColumns:
    """`features` float32 [those with some, F]; `without` bool [n]: who has none, None when all have some."""

    first: int
    ids: Ints | list[str]
    outcomes: list[Outcome]
    codes: Codes
    scores: Floats
    without: Bools | None
    features: Floats
    decided_at_us: int
    latency_us: Ints
    shadow_version: int = 0
    """Of the version that was asked beside, for each event that is neither late nor erased, and not of an overload."""
    shadow: Floats | None = None
    probabilities: Floats | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(
            _Payload(
                self.first,
                self.ids if isinstance(self.ids, list) else self.ids.tobytes(),
                self.outcomes,
                self.codes.tobytes(),
                self.scores.tobytes(),
                pack_bits(self.without),
                self.features.tobytes(),
                self.decided_at_us,
                self.latency_us.tobytes(),
                self.shadow_version,
                self.shadow.tobytes() if self.shadow is not None else b"",
                self.probabilities.tobytes() if self.probabilities is not None else b"",
            )
        )

    def counts(self) -> list[tuple[Outcome, int]]:
        """How many events have each outcome."""
        return list(zip(self.outcomes, np.bincount(self.codes, minlength=len(self.outcomes)).tolist(), strict=True))

    @property
    def shadow_versions(self) -> Ints:
        """Of each event: the version that was asked beside, 0 for none."""
        asked = [self.shadow_version_of(outcome) for outcome in self.outcomes]
        return np.array(asked, np.int64)[self.codes]

    def shadow_version_of(self, outcome: Outcome) -> int:
        unasked = outcome.status in _UNASKED or outcome.reason in OVERLOADED
        return 0 if unasked else self.shadow_version

    @classmethod
    def decode(cls, payload: bytes, count: int) -> Self:
        """Raises ValueError for a payload that is no block of `count` decisions."""
        try:
            found = _decoder.decode(payload)
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from error
        without = unpack_bits(found.without, count)
        having = count - (int(np.count_nonzero(without)) if without is not None else 0)
        features = np.frombuffer(found.features, "<f4").reshape(having, -1) if having else np.empty((0, 0), "<f4")
        block = cls(
            found.first,
            found.ids if isinstance(found.ids, list) else np.frombuffer(found.ids, "<i8"),
            found.outcomes,
            np.frombuffer(found.codes, "<u2"),
            np.frombuffer(found.scores, "<f4"),
            without,
            features,
            found.decided_at_us,
            np.frombuffer(found.latency_us, "<i8"),
            found.shadow_version,
            np.frombuffer(found.shadow, "<f4") if found.shadow else None,
            np.frombuffer(found.probabilities, "<f4") if found.probabilities else None,
        )
        columns = (block.ids, block.codes, block.scores, block.latency_us, block.shadow, block.probabilities)
        lengths = {len(column) for column in columns if column is not None}
        if lengths != {count} or int(block.codes.max()) >= len(block.outcomes):
            raise ValueError(f"its columns do not fit {count} decisions")
        return block
