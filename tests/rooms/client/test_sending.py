"""Rows in requests: those that are too large are sent in halves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from skyriver.client.api import Client
from skyriver.client.sending import declared_types, send_rows
from skyriver.core.errors import InvalidInput, Unavailable

LIMIT = 100


class Stream:
    """Takes requests of at most LIMIT in all."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.requests = 0

    def send(self, stream: str, rows: Sequence[Mapping[str, Any]], *, wait: bool) -> dict[str, Any]:
        self.requests += 1
        if sum(row["size"] for row in rows) > LIMIT:
            raise InvalidInput(
                "A body has at most 100 bytes.", code="BODY_TOO_LARGE", next_action="Send several requests."
            )
        self.taken += [row["id"] for row in rows]
        return {"accepted": len(rows), "duplicates": 0, "rejected": [{"index": 0, "id": rows[0]["id"]}]}


def send(sizes: Sequence[int], batch: int = 100) -> tuple[Stream, Any]:
    stream = Stream()
    rows = [{"id": n, "size": size} for n, size in enumerate(sizes)]
    return stream, send_rows(cast("Client", stream), "payments", rows, batch=batch)


def test_rows_that_are_too_large_together_go_in_smaller_requests() -> None:
    stream, sent = send([1] * 90 + [30] * 20 + [1] * 90)
    assert stream.taken == list(range(200))
    assert sent.accepted == 200
    assert stream.requests < 40
    assert [bad["index"] for bad in sent.rejected] == [bad["id"] for bad in sent.rejected], (
        "each by its place in the file"
    )


def test_a_row_that_is_too_large_alone_is_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        send([10] * 7 + [101] + [10] * 5)
    assert caught.value.message == "Row 8 alone is larger than a request may be. A body has at most 100 bytes."
    assert caught.value.next_action.startswith("Leave it out, or shorten it. The first 7 of 13 rows were sent.")


def test_types_are_those_that_are_declared() -> None:
    class Cloud:
        def get(self, kind: str, name: str) -> dict[str, Any]:
            if name != "payments":
                raise Unavailable("It is away.")
            shops = {"name": "shops", "fields": [{"name": "shop", "type": "text"}]}
            fields = [{"name": "id", "type": "int"}, {"name": "at", "type": "time"}]
            return {"spec": {"stream": {"fields": fields, "labels": [{"name": "fraud"}], "references": [shops]}}}

    cloud = cast("Client", Cloud())
    assert declared_types(cloud, "payments") == {"known_at": "time", "fraud": "float", "id": "int", "at": "time"}
    assert declared_types(cloud, "payments", "shops") == {"shop": "text"}
    assert declared_types(cloud, "payments", "others") == {}
    assert declared_types(cloud, "nobody") == {}
