"""How the cloud's own parts are: supervisor, control plane and gateway, as their run files and the machine tell."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from skyriver.adapters.haproxy.process import file_of, recorded
from skyriver.adapters.processes.identity import Identity, Look, look
from skyriver.core.errors import NotFound
from skyriver.wiring.gateway import gateways_of
from skyriver.wiring.home import Home
from skyriver.wiring.living import processes_of
from skyriver.wiring.watched import PartState, control_of, read_parts, running_supervisor

_NAMES = {"supervisor": "supervisor", "control": "control plane", "gateway": "gateway"}
_LINE_BYTES = 400
"""A line has at most that many bytes on average, or fewer lines are shown."""


def parts_of(home: Home) -> list[dict[str, Any]]:
    """One entry a part, in the words of a resource; none when nothing of this home runs."""
    if not home.run.is_dir() or "port" not in home.settings() or not processes_of(home):
        return []
    states = read_parts(home)
    supervisor = running_supervisor(home)
    return [
        _told("supervisor", supervisor, PartState(since=_started(home)), watched=True),
        _told("control", control_of(home), states["control"], watched=supervisor is not None, trouble=trouble_of(home)),
        *(_gateway(home, n, states, watched=supervisor is not None) for n in range(1, gateways_of(home) + 1)),
    ]


def _gateway(home: Home, number: int, states: Mapping[str, PartState], *, watched: bool) -> dict[str, Any]:
    running = recorded(home.gateway, number)
    name = "gateway" if number == 1 else f"gateway-{number}"
    told = _told("gateway", running.identity if running else None, states.get(name, PartState()), watched=watched)
    return {**told, "name": name}


def part_log(home: Home, part: str, lines: int) -> list[str]:
    """The last `lines` of what it printed; `part` as `parts_of` names it. Raises NotFound when it has no log."""
    logs = {"supervisor": home.logs / "supervisor.log", "control plane": home.logs / "control.log"}
    _, _, number = part.partition("gateway-")
    path = logs.get(part, home.gateway / file_of("log", int(number or 1)))
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - _LINE_BYTES * max(lines, 1))
            file.seek(start)
            found = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError as error:
        raise NotFound(
            f"The {part} has printed nothing.", code="NO_LOG", where=str(path), next_action="`skyriver up` starts it."
        ) from error
    whole = found[1:] if start else found  # the first one was begun before
    return whole[-lines:] if lines else []


def _told(
    part: str, identity: Identity | None, state: PartState, *, watched: bool, trouble: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    seen = look(identity) if identity is not None else None
    word, reason, message, action = _state(part, seen, state, watched=watched)
    if word == "READY" and trouble is not None:
        word, reason = "DEGRADED", trouble["code"]
        message, action = trouble["detail"], trouble.get("next_action", "")
    return {
        "kind": "part",
        "name": _NAMES[part],
        "state": word,
        "reason": reason,
        "message": message,
        "next_action": action,
        "alive": seen is not None,
        "pid": identity.pid if identity is not None and seen is not None else 0,
        "started_at": state.since,
        "rss_mb": seen.rss_mb if seen else 0.0,
        "cpu_seconds": seen.cpu_seconds if seen else 0.0,
        "restarts": state.restarts,
        "ends": state.ends,
        "report": {},
    }


def _state(part: str, seen: Look | None, state: PartState, *, watched: bool) -> tuple[str, str, str, str]:
    """(state, reason, message, next action)."""
    if state.problem is not None:
        problem = state.problem
        return "FAILED", problem["code"], problem["detail"], problem.get("next_action", "")
    if seen is None and watched and part != "supervisor":
        return "STARTING", "ENDED", "It ended and is being started again.", ""
    if seen is None:
        return "LOST", "AWAY", "It does not run.", "`skyriver up` starts it."
    if seen.stopped:
        action = "`skyriver up` starts another." if part == "supervisor" else "The supervisor ends it soon."
        return "DEGRADED", "STOPPED", "It is stopped (SIGSTOP) and does nothing.", action
    return "READY", "", "", ""


def trouble_of(home: Home) -> Mapping[str, Any] | None:
    """What the control plane cannot do now, by its own word."""
    try:
        found = json.loads(home.control_run.read_bytes())["troubles"]
        return dict(found[0]) if found else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _started(home: Home) -> int:
    try:
        return int(json.loads(home.supervisor_run.read_bytes())["started_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
