"""Every error that a user can meet says what to do about it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from skyriver.core import errors

ROOT = Path(__file__).parents[2] / "src" / "skyriver"
RAISED = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.SkyriverError) and not kind.default_action
}
"""Of a kind that has no next action of its own; `refuse` takes it as its third argument."""


def silent(source: str) -> Iterator[int]:
    """Lines of errors without a next action."""
    tree = ast.parse(source)
    raised = RAISED | {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id in RAISED for base in node.bases)
        and "next_action" not in ast.unparse(node)
        and "default_action" not in ast.unparse(node)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        said = given.get("next_action", node.args[2] if node.func.id == "refuse" and len(node.args) > 2 else None)
        empty = said is None or (isinstance(said, ast.Constant) and not said.value)
        if (node.func.id in raised or node.func.id == "refuse") and empty and None not in given:
            yield node.lineno


def test_no_error_is_without_a_next_action() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}" for path in sorted(ROOT.rglob("*.py")) for line in silent(path.read_text())
    ]
    assert found == []


def test_one_without_is_found() -> None:
    assert list(silent("raise InvalidInput('x')\nrefuse('a', 'B')\nraise NotFound('x', next_action='')")) == [1, 2, 3]
    assert not list(silent("raise Corrupt('x')\nrefuse('a', 'B', 'Do.')\nraise NotFound('x', next_action=f'Do {it}.')"))
