"""Features by key from a stream's worker: those that its decisions were made with, bit for bit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skyriver.decide.log.blocks import decisions_of
from skyriver.features.plan import plan_features
from skyriver.serve.read_format import ReadAnswer

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness
from worker_process import payment


@pytest.fixture
def reading(tmp_path: Path, kernels: Path) -> Iterator[harness.Worker]:
    found = harness.Worker(tmp_path / "w", kernels, harness.declare(), reads=True)
    found.start()
    yield found
    found.close()


def read(http: Any, features: str, *rows: dict[str, Any]) -> Any:
    """The answer, or the problem."""
    http.request("POST", "/internal/features", json.dumps({"features": features, "rows": rows}), {})
    response = http.getresponse()
    body = response.read()
    return msgspec.msgpack.decode(body, type=ReadAnswer) if response.status == 200 else json.loads(body)


def test_what_is_read_has_the_bits_of_the_last_decision_also_after_a_restart(reading: harness.Worker) -> None:
    digest = plan_features(reading.features, reading.stream).digest
    row = {"customer": 7, "channel": "c1", "amount": 33.3}
    with reading.connection() as http:
        for number in range(20):
            http.send_events(payment(number, customer=number % 3 + 5, amount=number * 0.7))
        assert http.send_events(payment(20, customer=7, amount=33.3))[0] == 200
        found = read(http, digest, row, {"customer": 99, "channel": "c1"})
    log = harness.reader(reading)
    made = next(d for record in log.read(0) for d in decisions_of(record) if d.id == 20)
    width = len(reading.features.features) * 4
    assert found.features[:width] == made.features
    assert (found.keys, found.known) == (("customer", "channel"), [b"\x01\x00", b"\x01\x01"])
    assert 0 <= found.age_us < 60_000_000
    reading.stop()
    reading.start()
    with reading.connection() as http:
        again = read(http, digest, row)
        assert again.features == made.features
        assert again.offset >= found.offset
        assert read(http, "0" * 64, row)["code"] == "FEATURES_NOT_BUILT"
        assert read(http, digest, {"customer": 7})["code"] == "KEY_MISSING"
        assert read(http, digest, row | {"channel": "c" * (1 << 20)})["code"] == "BODY_TOO_LARGE"
        assert read(http, digest, row).features == made.features
