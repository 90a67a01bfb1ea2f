"""A worker that more comes to than its model can score within the declared latency."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
import worker_process as harness
from worker_process import payment

from skyriver.adapters.segments.log import SegmentReader
from skyriver.decide.log.blocks import decisions_of

EVENTS = 3_000
OBJECTIVE = {"latency_us": 200_000, "share": 0.99}


def test_an_overloaded_worker_sheds_says_so_and_comes_back(tmp_path: Path, kernels: Path) -> None:
    hold = {"skyriver.decide.worker.overload.LEAST_HOLD_US": 1_000_000, "skyriver.decide.worker.overload.HOLDS": 1}
    worker = harness.Worker(tmp_path / "w", kernels, harness.declare(), changed=hold)
    model = worker.model(1, data=harness.heavy_model_bytes(3, 400))
    worker.write_live(model, objective=OBJECTIVE)
    try:
        worker.start()
        with worker.connection() as http:
            began = time.monotonic()
            _, calm = http.send_events([payment(n, amount=95.0) for n in range(10)])
            assert {d["reason"] for d in calm["decisions"]} == {""}
            all_scored = (time.monotonic() - began) * EVENTS / 10
            began = time.monotonic()
            status, answer = http.send_events([payment(n, amount=95.0) for n in range(10, EVENTS)])
            took = time.monotonic() - began
            decisions: list[dict[str, Any]] = answer["decisions"]
            reasons = Counter(d["reason"] for d in decisions)
            assert (status, len(decisions), set(reasons)) == (200, EVENTS - 10, {"", "SHED"})
            for decision in decisions:
                told = (decision["status"], decision["decision"], decision["version"], decision["score"] is None)
                by_fallback = decision["reason"] == "SHED"
                assert told == (("fallback", "approve", 0, True) if by_fallback else ("decided", "block", 1, False))
                assert decision["features"]["amount"] == 95.0
            assert reasons["SHED"] > EVENTS // 2, "a model of milliseconds cannot score them all within the latency"
            assert took < max(5, all_scored / 3), "and nobody waits for it"
            report = worker.wait_for(lambda r: r["by_reason"].get("SHED") == reasons["SHED"])
            assert report["pace"]["shed_events"] == reasons["SHED"]
            back = worker.wait_for(lambda r: r["pace"]["step"] == "full" and r["pace"]["since"] > 0)
            assert "events/s come" in back["pace"]["why"]
            assert "to shedding: " in worker.printed()
            assert "back to full: " in worker.printed()
            shed = next(d["id"] for d in decisions if d["reason"] == "SHED")
            again = http.send_events([payment(n) for n in (shed, EVENTS)])[1]
            assert (again["duplicates"], [d["reason"] for d in again["decisions"]]) == (1, ["SHED", ""])
            text = http.ask("GET", "/streams/payments/metrics")[1]["text"]
            assert "skyriver_shedding" in text
            assert f'skyriver_shed_events_total{{stream="payments",partition="0"}} {reasons["SHED"]}' in text
            # With a cheaper version nothing need be shed: the same once more.
            worker.write_live(model, objective=OBJECTIVE, cheaper=worker.model(2, factor=0.005))
            worker.wait_for(lambda r: (r.get("cheaper") or {}).get("version") == 2)
            _, answer = http.send_events([payment(n, amount=95.0) for n in range(EVENTS + 1, 2 * EVENTS)])
            by = Counter((d["reason"], d["status"], d["version"], d["decision"]) for d in answer["decisions"])
            cheap = by["CHEAPER", "fallback", 2, "approve"]
            assert cheap > EVENTS // 2
            assert cheap + by["", "decided", 1, "block"] == EVENTS - 1
            worker.wait_for(lambda r: r["pace"]["step"] == "full" and r["by_reason"].get("CHEAPER") == cheap)
            assert "to cheaper: " in worker.printed()
        worker.kill()
        worker.start()
        assert worker.report()["by_reason"]["SHED"] == reasons["SHED"], "it is what the log says"
        assert worker.stop() == 0
        reader = SegmentReader(worker.log_directory)
        offsets = [d.event_offset for record in reader.read(0) for d in decisions_of(record)]
        assert len(offsets) == len({*offsets}) == 2 * EVENTS
        assert worker.verify(reader).compared == 2 * EVENTS
    finally:
        worker.close()
