"""Advice on what services could be declared as, in a process of its own: `python -m skyriver.wiring.advising QUESTION
ANSWER`.

Replaying a week takes a core some seconds, and numpy: the control plane has better to do, and none. QUESTION is a file
that the control plane wrote; ANSWER is replaced as it goes on, by {"done": share, "items"}, of the services that were
done in a turn; of one that cannot be replayed, an item says why, and the others are replayed. It ends when its standard
input does: then the control plane is gone.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from skyriver.control.schedule.advising import Asked, advise
from skyriver.control.schedule.lanes import Told
from skyriver.control.schedule.past import history_of
from skyriver.control.schedule.trying import try_out
from skyriver.core.contract_advice import NoAdvice, ServiceAdvice
from skyriver.core.errors import SkyriverError
from skyriver.core.misread import misread
from skyriver.core.prices import Prices
from skyriver.core.spec import ServiceSpec
from skyriver.wiring.histories import read_history
from skyriver.wiring.process import write_atomically

TELL_S: Final = 0.5
UNFORESEEN: Final = "REPLAY_FAILED"
SEE_LOG: Final = "`skyriver logs control` has the rest; report it with that."
NICE: Final = 10
TURN_S: Final = 20.0
"""After which no other service is begun: somebody else may wait."""

_log = logging.getLogger("skyriver.advice")


def answer(question: dict[str, Any], path: Path) -> None:
    prices, services = Prices.of_json(question["prices"]), question["services"]
    declared = ServiceSpec.model_validate(question["declared"]) if question["declared"] is not None else None
    items: list[Any] = []
    last, begun = 0.0, time.monotonic()

    def tell(share: float) -> None:
        nonlocal last
        last = time.monotonic()
        done = (len(items) + share) / max(len(services), 1)
        write_atomically(path, json.dumps({"done": done, "items": items}).encode())

    def told(share: float) -> None:
        if time.monotonic() - last > TELL_S:
            tell(share)

    tell(0.0)
    for service in services:
        try:
            items.append(_answered(question, service, declared, prices, told))
        except Exception as error:  # whatever is wrong with one is not wrong with the others
            problem = _why(service, error)
            foreseen = problem["code"] != UNFORESEEN
            _log.error("no advice on %s/%s: %s", question["tenant"], service["name"], error, exc_info=not foreseen)
            items.append({"name": service["name"], "problem": problem})
        tell(0.0)  # should the next one end the process, these are done
        if time.monotonic() - begun > TURN_S:
            break


def _answered(
    question: dict[str, Any], service: dict[str, Any], declared: ServiceSpec | None, prices: Prices, told: Told
) -> ServiceAdvice:
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
        return try_out(asked, declared, prices, told)
    return advise(asked, prices, question["now"], told)


def _why(service: dict[str, Any], error: Exception) -> NoAdvice:
    match error:
        case SkyriverError():
            place = f"{error.where}: " if error.where else ""
            said = error.code, f"{place}{error.message}", error.next_action
        case ValidationError():
            said = "BAD_SPEC", f"Its declaration is not understood: {misread(error)}.", "Deploy its application again."
        case _:
            said = UNFORESEEN, f"Its replay failed: {type(error).__name__}: {error}", SEE_LOG
    code, message, next_action = said
    return {
        "name": service["name"],
        "app": service["app"],
        "code": code,
        "message": message,
        "next_action": next_action,
    }


def _end_with_parent() -> None:
    """The other end of the standard input is the control plane's: whatever ends it closes that."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(NICE)
    answer(json.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
