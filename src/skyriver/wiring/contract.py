"""The API's contract as a file: `python -m skyriver.wiring.contract > docs/openapi.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skyriver.adapters.memory.asking import MemoryAsker
from skyriver.adapters.memory.objects import MemoryObjects
from skyriver.control.api import Cloud, create_api
from skyriver.wiring.control import ACTIONS
from skyriver.wiring.simulation import Simulation


def contract() -> dict[str, Any]:
    """What the API of a cloud says of itself, without starting one."""
    parts = Simulation()
    cloud = Cloud(
        parts.store,
        MemoryObjects(),
        parts.compute,
        parts.loop,
        parts.clock,
        parts.fence,
        ACTIONS,
        Path("uploads"),
        MemoryAsker(),
    )
    return create_api(cloud).openapi()


def written() -> str:
    return json.dumps(contract(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(written(), end="")
