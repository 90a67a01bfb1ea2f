"""A whole cloud at work, whose processes are killed at random moments (`make faults` kills a thousand times)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are no package
from cloud_process import Cloud
from kills.campaign import Campaign
from kills.killer import Manner

KILLS = int(os.environ.get("FAULT_ROUNDS", "50"))
CHEAP = {"supervisor": 0.12, "control": 0.12, "gateway": 0.26, "replica": 0.28, "worker": 0.14, "job": 0.08}
"""Without trainings and rollouts: those take their time on two cores."""


def test_kills_at_random_moments_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    manner = Manner(weights=CHEAP, pause=0.4, aimed=0.1, stops=0.0)
    try:
        outcome = Campaign(cloud, seed=7, manner=manner, trains=False).run(KILLS)
    finally:
        cloud.close()
    assert outcome.problems == []
    assert outcome.failed("control") == []
    assert outcome.failed("nothing") == []
    assert outcome.checked["events"] > 0
    assert outcome.journal.asked["prediction"] > 0
