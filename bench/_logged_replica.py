"""A replica of one model file on a TCP port, which reports as those of a cloud do, with or without a log of its
predictions: `python _logged_replica.py PORT MODEL_FILE on|off`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import uvloop

from skyriver.release.profiled import profile_model
from skyriver.serve.listening import listen_tcp
from skyriver.serve.replica import Replica, ReplicaSettings, serve_replica
from skyriver.wiring.process import write_atomically
from skyriver.wiring.replica import load

ROWS = 5_000


def main() -> None:
    port, path, log = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "on"
    runner, settings = load(path.read_bytes(), ReplicaSettings(path.stem, 1), {"cores": 1})
    width = runner.signature.inputs[0].shape[1]
    luck = np.random.default_rng(0)
    x, scores = luck.normal(size=(ROWS, width)).astype(np.float32), luck.random(ROWS).astype(np.float32)
    profile = profile_model(tuple(f"f{n}" for n in range(width)), x, np.arange(ROWS), scores)

    def follow(replica: Replica) -> None:
        if log and not replica.logged:
            replica.log_by(profile, "profile")

    def report(document: dict[str, object]) -> None:
        write_atomically(Path("report.json"), json.dumps(document).encode())

    with listen_tcp("127.0.0.1", port) as listening:
        uvloop.run(serve_replica(runner, settings, listening, stop=asyncio.Event(), report=report, follow=follow))


if __name__ == "__main__":
    main()
