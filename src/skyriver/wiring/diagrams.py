"""The state diagrams of all kinds, made from their tables: `python -m skyriver.wiring.diagrams > docs/states.md`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from skyriver.core.resources import Kind
from skyriver.wiring.kinds import KINDS

_HEAD = """\
# States

Made from the transition tables by `make docs`; the tests compare. An arrow is an event, and an event that a state has
no arrow for is refused and changes nothing. Every state but the happy one carries a reason, a message, since when, and
what to do next: `skyriver explain NAME` shows them."""


def diagrams(kinds: Mapping[str, Kind]) -> str:
    """Markdown with a Mermaid diagram for each kind."""
    return "\n".join([_HEAD, *(line for name in sorted(kinds) for line in _diagram(kinds[name]))]) + "\n"


def _diagram(kind: Kind) -> Iterator[str]:
    events: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (before, event), after in kind.transitions.items():
        events[before, after].append(event)
    yield from ("", f"## {kind.name}", "", "```mermaid", "stateDiagram-v2", f"  [*] --> {kind.initial}")
    yield from (f"  {before} --> {after}: {', '.join(names)}" for (before, after), names in events.items())
    yield from (f"  {state} --> [*]" for state in sorted(kind.final))
    yield "```"


if __name__ == "__main__":
    print(diagrams(KINDS), end="")
