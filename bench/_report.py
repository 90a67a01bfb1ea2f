"""Writes docs/benchmarks.md from the documents that the benches print.

python bench/road.py > road.json
python bench/_report.py road.json > docs/benchmarks.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def report(documents: list[dict[str, Any]]) -> str:
    lines = ["# Benchmarks", "", "Written by `bench/_report.py` from what `make bench` prints. Absolute figures are of"]
    lines += ["shared, noisy machines: compare within one run.", ""]
    for document in documents:
        machine = document["machine"]
        facts = ", ".join(f"{name} {value}" for name, value in machine.items())
        lines += [f"## {document['bench']}", "", facts + ".", "", "| goal | value | target | unit | holds |"]
        lines += ["|---|---|---|---|---|"]
        for goal in document["goals"]:
            value = goal["value"]
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            word = {True: "yes", False: "no", None: "left out:"}[goal["holds"]]
            holds = "yes" if goal["holds"] else f"{word} {goal.get('reason', '')}".strip()
            lines.append(f"| {goal['name']} | {shown} | {goal['target']} | {goal['unit']} | {holds} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report([json.loads(Path(name).read_text()) for name in sys.argv[1:]]), end="")
