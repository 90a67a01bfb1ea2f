"""Cases as the API tells them (`skyriver.core.contract.ReviewCase`)."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Sequence
from typing import Any

from skyriver.core.units import iso_time
from skyriver.decide.acting.cases import CLOSED, Case, CaseState, Opinion
from skyriver.decide.log.records import Value

_BLIND = frozenset({CaseState.SECOND, CaseState.SECOND_CLAIMED})
"""What the first person said is not told before the second one has spoken: only then two opinions are two."""


def in_short(case: Case) -> dict[str, Any]:
    return {
        "id": case.id,
        "event": case.event,
        "key": case.key,
        "decision": case.decision,
        "state": str(case.state),
        "lane": case.lane,
        "overdue": case.overdue,
        "opened_at": case.opened_at,
        "due_at": case.due_at,
        "expires_at": case.expires_at or None,
        "probability": case.probability,
        "miss_cost": case.miss_cost,
        "expected_cost": case.probability * case.miss_cost,
        "holder": case.holder,
        "claim": case.claim,
        "lease_until": case.lease_until or None,
        "second_opinion": case.second,
        "answers": dict(case.answers),
        "outcome": case.outcome,
        "closed_at": case.closed_at or None,
        "closed_why": str(case.closed_why),
    }


def in_full(case: Case, earlier: Sequence[Case], now: int, times: Collection[str] = ()) -> dict[str, Any]:
    """`times`: fields of the event that are points in time."""
    record = case.record
    vector = struct.unpack(f"<{len(case.names)}f", record.features) if case.names else ()
    return {
        **in_short(case),
        "values": {name: _time(value) if name in times else value for name, value in case.values.items()},
        "features": {n: None if math.isnan(v) else v for n, v in zip(case.names, vector, strict=True)},
        "score": record.score,
        "rule": record.rule,
        "status": str(record.status),
        "reason": str(record.reason),
        "model": record.model,
        "version": record.version,
        "label": case.label,
        "opinions": [_opinion(opinion, blind=case.state in _BLIND) for opinion in case.opinions],
        "escalated_by": case.escalated_by,
        "escalated_why": case.escalated_why,
        "truth": case.truth,
        "earlier": [_earlier(other) for other in earlier],
        "now": now,
    }


def _time(value: Value) -> Value:
    return iso_time(value) or value if isinstance(value, int) else value


def _opinion(opinion: Opinion, *, blind: bool) -> dict[str, Any]:
    return {
        "by": opinion.by,
        "answer": "" if blind else opinion.answer,
        "reason": "" if blind else opinion.reason,
        "at": opinion.at,
        "took_us": opinion.took_us,
    }


def _earlier(case: Case) -> dict[str, Any]:
    said = [opinion.reason for opinion in case.opinions if opinion.answer == case.outcome]
    return {
        "id": case.id,
        "event": case.event,
        "state": str(case.state),
        "opened_at": case.opened_at,
        "outcome": case.outcome,
        "reason": said[-1] if case.state in CLOSED and said else "",
        "truth": case.truth,
    }
