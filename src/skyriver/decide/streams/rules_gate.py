"""What stands in the way of a version of rules, and what to do about it: its state, and the gate. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyriver.core.contract import RulesCompared
from skyriver.core.errors import Conflict, InvalidInput, SkyriverError
from skyriver.core.resources import Resource
from skyriver.decide.streams.rules_kind import RULES_TRANSITIONS, version_of

COMPARED_EVENTS = 1_000
"""That a candidate without a measured gain was compared on before it is promoted."""

_TO = {"canary": "decide for a share", "promote": "be promoted"}
_ANYWAY = '--anyway "REASON" does it all the same.'
_OTHERS = "`skyriver rules list {stream}` shows the others."
_AGAIN = "`skyriver rules promote {stream} {number}` lets it decide again."
_ANEW = "`skyriver rules add {stream} FILE` makes such rules a candidate again."
_COMPARES = "`skyriver rules get {stream} {number}` shows how it compares."
_IN_THE_WAY = {
    ("LIVE", "promote"): ("decides already", _OTHERS),
    ("LIVE", "drop"): (
        "decides, and what decides is not dropped",
        "Promote another one in its place: `skyriver rules promote {stream} VERSION`.",
    ),
    ("LIVE", "shadow"): ("decides, and is not compared with itself", _OTHERS),
    ("LIVE", "canary"): ("decides already, for all keys", _OTHERS),
    ("REPLACED", "drop"): ("was replaced: it decides nothing, and stays as the way back", _AGAIN),
    ("REPLACED", "shadow"): ("decided before, and is not tried again", _AGAIN),
    ("REPLACED", "canary"): ("decided before, and is not tried again", _AGAIN),
    ("DROPPED", "drop"): ("is dropped already", "There is nothing to do."),
    ("SHADOW", "shadow"): ("is in shadow already", _COMPARES),
}
_DROPPED = ("was dropped", _ANEW)


def check_move(stream: str, version: Resource, to: str) -> None:
    """Raises Conflict (REFUSED_TRANSITION) for a move that its state does not allow."""
    if (version.state, to) in RULES_TRANSITIONS:
        return
    number = version_of(version)
    why, action = _IN_THE_WAY.get((version.state, to), _DROPPED)
    raise Conflict(
        f"Version {number} of the rules of {stream} {why}.",
        code="REFUSED_TRANSITION",
        where=version.ref,
        next_action=action.format(stream=stream, number=number),
    )


def refusal(version: Resource, live: Resource | None, compared: RulesCompared | None, to: str) -> str:
    """Why the gate refuses a move, "" where it does not. A gain counts while the rules that it was measured against
    are the ones that decide."""
    if to not in _TO or version.state == "REPLACED":  # what decided before may decide again
        return ""
    gain = version.spec.get("gain")
    against = gain.get("rules_version", 0) if gain is not None else 0
    if gain is not None and _counts(gain, live):
        interval = f"{gain['low']:.6g} to {gain['high']:.6g} {gain['unit']}".rstrip()
        if to == "promote" and gain["low"] <= 0:
            return f"its measured gain, {interval} a {gain['per']}, does not exclude a loss."
        return f"what was measured is a loss, {interval} a {gain['per']}." if gain["high"] < 0 else ""
    events = compared["events"] if compared is not None else 0
    if to == "promote" and events < COMPARED_EVENTS:
        unmeasured = "nothing was measured of it"
        if gain is not None:
            others = f"version {against}" if against else "rules that are not said"
            unmeasured = f"its gain was measured against {others}, not against those that decide now"
        compared_with = f"{events:,} events were compared with the rules that decide now, of {COMPARED_EVENTS:,}"
        return f"{unmeasured}, and {compared_with}."
    return ""


def gate_refused(
    stream: str, version: Resource, live: Resource | None, to: str, why: str, *, anyway: str
) -> SkyriverError:
    """The error for what `refusal` says. `anyway`: the reason that was given to pass the gate, which is blank."""
    number, gain = version_of(version), version.spec.get("gain")
    if anyway:
        return InvalidInput(
            "The reason for passing the gate is empty.",
            code="NO_REASON",
            where="anyway",
            next_action='Say why: --anyway "REASON".',
        )
    if gain is not None and _counts(gain, live):
        todo = f"Give it up: `skyriver rules drop {stream} {number}`; {_ANYWAY}"
    elif version.state in ("SHADOW", "CANARY"):
        todo = f"It only needs more events: `skyriver rules get {stream} {number}` shows how many it has; {_ANYWAY}"
    else:
        todo = f"`skyriver rules shadow {stream} {number}` compares it with the rules that decide; {_ANYWAY}"
    return Conflict(
        f"The gate does not let version {number} of the rules of {stream} {_TO[to]}: {why}",
        code="GATE_REFUSED",
        where=version.ref,
        next_action=todo,
    )


def _counts(gain: Mapping[str, Any], live: Resource | None) -> bool:
    return live is not None and gain.get("rules_version", 0) == version_of(live)
