"""The state diagrams of all kinds, made from their tables: `python -m skyriver.wiring.diagrams > docs/states.md`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from skyriver.core.resources import Kind
from skyriver.decide.acting.cases import CASE_TRANSITIONS, CLOSED
from skyriver.wiring.kinds import KINDS

_HEAD = """\
# States

Made from the transition tables by `make docs`; the tests compare. An arrow is an event, and an event that a state has
no arrow for is refused and changes nothing. Every state but the happy one carries a reason, a message, since when, and
what to do next: `skyriver explain NAME` shows them."""


class Machine(NamedTuple):
    """States of something that is no row of the control state."""

    name: str
    initial: str
    transitions: Mapping[tuple[str, str], str]
    final: frozenset[str]


CASE = Machine("case of review", "OPEN", CASE_TRANSITIONS, frozenset(map(str, CLOSED)))


def diagrams(kinds: Mapping[str, Kind]) -> str:
    """Markdown with a Mermaid diagram for each kind, and for what else has states."""
    machines: list[Kind | Machine] = [*(kinds[name] for name in sorted(kinds)), CASE]
    return "\n".join([_HEAD, *(line for machine in machines for line in _diagram(machine))]) + "\n"


def _diagram(kind: Kind | Machine) -> Iterator[str]:
    events: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (before, event), after in kind.transitions.items():
        events[before, after].append(event)
    yield from ("", f"## {kind.name}", "", "```mermaid", "stateDiagram-v2", f"  [*] --> {kind.initial}")
    yield from (f"  {before} --> {after}: {', '.join(names)}" for (before, after), names in events.items())
    yield from (f"  {state} --> [*]" for state in sorted(kind.final))
    yield "```"


if __name__ == "__main__":
    print(diagrams(KINDS), end="")
