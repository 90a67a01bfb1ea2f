"""The cloud's own parts asked about by name: this machine tells of them, whether the cloud answers or not."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from skyriver.client.shell import machine, state
from skyriver.core.errors import InvalidInput, NotFound, Unavailable

EXPLAINED_LINES = 10
"""Of its log, that an explanation ends with."""
_PARTS = {
    "supervisor": "supervisor",
    "control": "control plane",
    "control plane": "control plane",
    "gateway": "gateway",
}

_FURTHER = re.compile(r"gateway-[1-9][0-9]?")
"""Of several that share the address, all but the first."""


def part_named(name: str) -> str:
    """The part that is meant by `gateway` or `part/gateway`; "" for what is none. Something of the cloud that is called
    so too is asked for by its kind, as in `model/gateway`."""
    short = name.removeprefix("part/")
    return short if _FURTHER.fullmatch(short) else _PARTS.get(short, "")


def explain_part(part: str) -> dict[str, Any]:
    """Its row, and the last lines that it printed. Raises Unavailable when nothing of the cloud runs."""
    found = next((row for row in machine().parts(state["home"]) if row["name"] == part), None)
    if found is None:
        machine().address(state["home"])  # which says why
        raise Unavailable("The cloud is starting.", code="CLOUD_AWAY", next_action="Ask again in some seconds.")
    log: list[str] = []
    with suppress(NotFound):
        log = machine().part_log(state["home"], part, EXPLAINED_LINES)
    return {**found, "log": log}


def part_lines(part: str, lines: int, *, following: bool) -> list[tuple[str, str]]:
    """(who printed it, the line). Raises InvalidInput, and NotFound when it has no log."""
    if following:
        raise InvalidInput(
            f"The log of the {part} is not followed.",
            code="NOT_FOLLOWED",
            next_action=f"Leave -f out, as in `skyriver logs {part.split()[0]}`.",
        )
    return [(f"part/{part}", line) for line in machine().part_log(state["home"], part, lines)]
