"""What a receiver is told of a decision: one object of JSON."""

from __future__ import annotations

import json
from typing import Any

from skyriver.core.spec import StreamSpec
from skyriver.core.units import iso_time
from skyriver.decide.log.following import Decided


def delivery_id(tenant: str, stream: str, event_offset: int, after: str = "") -> str:
    """The same for each try, each sink and each time that the log is read: a receiver that several sinks lead to, or
    several tenants, still takes it for what it is."""
    return f"{tenant}/{stream}:{event_offset}{f':{after}' if after else ''}"


class BodyWriter:
    def __init__(self, stream: StreamSpec, tenant: str) -> None:
        self._stream = stream
        self._tenant = tenant
        self._times = frozenset(field.name for field in stream.fields if field.type == "time")

    def write(self, decided: Decided, after: str = "") -> bytes:
        """Times are ISO 8601 in UTC."""
        record, stream = decided.record, self._stream.name
        event = {
            name: _time(value) if name in self._times and isinstance(value, int) else value
            for name, value in decided.values.items()
        }
        body: dict[str, Any] = {
            "id": delivery_id(self._tenant, stream, record.event_offset, after),
            "tenant": self._tenant,
            "stream": stream,
            "event_id": record.id,
            "event_offset": record.event_offset,
            "decision": record.decision,
            "rule": record.rule,
            "status": record.status,
            "reason": record.reason,
            "score": record.score,
            "probability": record.probability,
            "model": record.model,
            "version": record.version,
            "arm": record.arm,
            "rules_digest": record.rules_digest,
            "decided_at": _time(record.decided_at_us),
            "event": event or None,
        }
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _time(microseconds: int) -> str:
    return iso_time(microseconds) or f"{microseconds} us"
