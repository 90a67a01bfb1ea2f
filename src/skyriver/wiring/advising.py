"""Advice on what services could be declared as, in a process of its own: `python -m skyriver.wiring.advising QUESTION
ANSWER`.

Replaying a week takes a core some seconds, and numpy: the control plane has better to do, and none. QUESTION is a file
that the control plane wrote; ANSWER is replaced as it goes on, by {"done": share}, and at last with "items", of the
services that were done in a turn. It ends when its standard input does: then the control plane is gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from skyriver.control.schedule.advising import Asked, advise
from skyriver.control.schedule.past import history_of
from skyriver.control.schedule.trying import try_out
from skyriver.core.prices import Prices
from skyriver.core.spec import ServiceSpec
from skyriver.wiring.histories import read_history
from skyriver.wiring.process import write_atomically

TELL_S: Final = 0.5
NICE: Final = 10
TURN_S: Final = 20.0
"""After which no other service is begun: somebody else may wait."""


def answer(question: dict[str, Any], path: Path) -> None:
    prices, services = Prices.of_json(question["prices"]), question["services"]
    declared = ServiceSpec.model_validate(question["declared"]) if question["declared"] is not None else None
    items: list[Any] = []
    last, begun = 0.0, time.monotonic()

    def told(share: float) -> None:
        nonlocal last
        if time.monotonic() - last > TELL_S:
            last = time.monotonic()
            write_atomically(path, json.dumps({"done": (len(items) + share) / max(len(services), 1)}).encode())

    for service in services:
        kept = read_history(Path(question["home"]), question["tenant"], service["name"], question["now"])
        asked = Asked(
            name=service["name"],
            app=service["app"],
            serve=ServiceSpec.model_validate(service["serve"]),
            history=history_of(kept),
            p99_s=service["p99_s"],
            memory_mb=service["memory_mb"],
        )
        if declared is not None:
            items.append(try_out(asked, declared, prices, told))
        else:
            items.append(advise(asked, prices, question["now"], told))
        if time.monotonic() - begun > TURN_S:
            break
    write_atomically(path, json.dumps({"done": len(items) / max(len(services), 1), "items": items}).encode())


def _end_with_parent() -> None:
    """The other end of the standard input is the control plane's: whatever ends it closes that."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(NICE)
    answer(json.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
