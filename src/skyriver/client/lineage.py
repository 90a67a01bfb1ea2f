"""`skyriver lineage`: where a thing comes from and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.tree import Tree

from skyriver.client.screen import Screen
from skyriver.client.shell import Json, app, connect
from skyriver.core.errors import NotFound

if TYPE_CHECKING:
    from skyriver.client.api import Client
    from skyriver.core.contract_lineage import Edge

_KINDS = ("table", "stream", "job", "version", "rollout", "service", "model", "code", "file", "curve", "decisions")


@app.command()
def lineage(
    thing: Annotated[
        str,
        typer.Argument(help="A table, stream, job, MODEL:VERSION, rollout, service; or a decision, as STREAM/ID."),
    ],
    as_json: Json = False,
) -> None:
    """From which data and code a thing comes, and what serves and decides by it."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        edges = _edges(client, thing)
    screen.data({"items": edges}, lambda: _show(screen, thing, edges))


def _edges(client: Client, thing: str) -> Sequence[Edge]:
    """A decision is known to its stream alone; where it comes from is that of the version that it was made by."""
    head, slash, event = thing.partition("/")
    if not slash or head in _KINDS:
        return client.lineage(thing)
    decision = client.decision(head, event)
    node = f"decision/{thing}"
    if not decision["model"]:
        return [{"from": f"stream/{head}", "to": node, "how": f"{decision['status']}, by no model", "way": "up"}]
    version = f"version/{decision['model']}:{decision['version']}"
    first: Edge = {"from": version, "to": node, "how": f"decided {decision['decision']}", "way": "up"}
    try:
        return [first, *(edge for edge in client.lineage(version) if edge["way"] == "up")]
    except NotFound:
        return [first]


def _show(screen: Screen, thing: str, edges: Sequence[Edge]) -> None:
    ups = [e for e in edges if e["way"] == "up"]
    downs = [e for e in edges if e["way"] == "down"]
    if not edges:
        screen.say(f"{thing} has neither come from anything nor led to anything that is known.")
    for title, steps in (
        ("comes from", [(e["to"], e["from"], e["how"]) for e in ups]),
        ("led to", [(e["from"], e["to"], e["how"]) for e in downs]),
    ):
        leading: dict[str, list[tuple[str, str]]] = {}
        for here, there, how in steps:
            leading.setdefault(here, []).append((there, how))
        reached = {node for nodes in leading.values() for node, _ in nodes}
        for root in [node for node in leading if node not in reached]:
            tree = Tree(f"[bold]{escape(root)}[/] {title}")
            _grow(tree, root, leading, set())
            screen.out.print(tree)


def _grow(tree: Tree, node: str, leading: dict[str, list[tuple[str, str]]], shown: set[str]) -> None:
    """What was shown once is not shown again below it."""
    shown.add(node)
    for following, how in leading.get(node, ()):
        again = following in shown and following in leading
        branch = tree.add(f"{escape(_short(following))} [dim]{how}{', as above' if again else ''}[/]")
        if not again:
            _grow(branch, following, leading, shown)


def _short(node: str) -> str:
    kind, _, name = node.partition("/")
    return f"{kind}/{name[:12]}" if kind in ("code", "file", "curve") and len(name) == 64 else node
