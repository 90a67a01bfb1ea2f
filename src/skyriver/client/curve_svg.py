"""Curves as SVG, and as a page that needs nothing else: it opens from a file, without a server or a script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

COLOURS: Final = ("#1f6feb", "#d1570b", "#1a7f37", "#8250df", "#bf3989", "#57606a")
WIDTH: Final = 680
HEIGHT: Final = 280
LEFT, RIGHT, TOP, BOTTOM = 74, 18, 50, 40
LETTER: Final = 6.6
"""About as wide as one of the legend is, and DASH the line before it with the room around."""
DASH: Final = 36
TICKS: Final = 5
_STYLE = """body{font:14px/1.45 system-ui,sans-serif;margin:24px auto;max-width:1420px;padding:0 16px;color:#1f2328}
h1{font-size:20px}h2{font-size:16px;margin:24px 0 8px}svg{max-width:100%;height:auto}
table{border-collapse:collapse}td,th{padding:3px 18px 3px 0;text-align:left;vertical-align:top}
th{border-bottom:1px solid #d0d7de}.panels{display:flex;flex-wrap:wrap;gap:12px}"""

Line = tuple[str, Mapping[str, Any]]
"""(what it is called, a Curve as the API tells it)."""


def finite(points: Sequence[Sequence[Any]]) -> list[list[tuple[int, float]]]:
    """(step, value) in stretches, which end where a value is no finite number."""
    found: list[list[tuple[int, float]]] = [[]]
    for step, value, *_ in points:
        if isinstance(value, int | float):
            found[-1].append((int(step), float(value)))
        elif found[-1]:
            found.append([])
    return [stretch for stretch in found if stretch]


def bounds(lines: Sequence[Line]) -> tuple[float, float, float, float] | None:
    """First and last step, lowest and highest value; None where there is no finite value."""
    points = [point for _, curve in lines for stretch in finite(curve["points"]) for point in stretch]
    if not points:
        return None
    steps, values = [p[0] for p in points], [p[1] for p in points]
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) * 0.1 or 1.0
        low, high = low - room, high + room
    return float(min(steps)), float(max(steps)), low, high


def share(value: float, low: float, high: float) -> float:
    """Where it lies between the two, from 0 to 1."""
    if math.isinf(high - low):
        value, low, high = value / 2, low / 2, high / 2
    return (value - low) / (high - low)


def ticks(low: float, high: float, most: int = TICKS) -> list[float]:
    """Round numbers from `low` to `high`, at most `most` + 1."""
    span = high / most - low / most  # of huge values the difference alone is infinite
    if not span > 0 or not math.isfinite(span):
        return [low]
    power = 10.0 ** math.floor(math.log10(span))
    step = next((m * power for m in (1, 2, 5, 10) if m * power >= span), 10 * power)
    if not step > 0 or low + step == low:
        return [low, high]
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def label(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.4g}"


def panel(title: str, lines: Sequence[Line], *, from_zero: bool = False) -> str:
    """One metric: a line a run."""
    found = bounds(lines)
    if found is not None and from_zero:
        found = (*found[:2], min(0.0, found[2]), found[3])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    parts = [f'{head} role="img" font-family="system-ui,sans-serif" font-size="12">', f"<title>{escape(title)}</title>"]
    parts.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>')
    parts.append(f'<text x="{LEFT}" y="20" font-size="14" font-weight="600" fill="#1f2328">{escape(title)}</text>')
    if found is None:
        parts.append(f'<text x="{LEFT}" y="{HEIGHT // 2}" fill="#cf222e">No value of it is a finite number.</text>')
        return "".join([*parts, "</svg>"])
    parts += _axes(found)
    for place, (_, curve) in enumerate(lines):
        parts += _curve(curve, found, COLOURS[place % len(COLOURS)])
    if len(lines) > 1:
        parts += _legend([name for name, _ in lines])
    return "".join([*parts, "</svg>"])


def _x(step: float, found: tuple[float, float, float, float]) -> float:
    first, last = found[:2]
    return LEFT + (share(step, first, last) if last > first else 0.5) * (WIDTH - LEFT - RIGHT)


def _y(value: float, found: tuple[float, float, float, float]) -> float:
    low, high = found[2:]
    return HEIGHT - BOTTOM - share(value, low, high) * (HEIGHT - TOP - BOTTOM)


def _axes(found: tuple[float, float, float, float]) -> list[str]:
    parts, right, bottom = [], WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in ticks(*found[2:]):
        y = _y(value, found)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eaeef2"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#57606a">{label(value)}</text>')
    for step in [step for step in ticks(*found[:2]) if step == int(step)]:
        x = _x(step, found)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}" stroke="#8c959f"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle" fill="#57606a">{label(step)}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#8c959f"/>')
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle" fill="#57606a">step</text>')
    return parts


def _curve(curve: Mapping[str, Any], found: tuple[float, float, float, float], colour: str) -> list[str]:
    parts = []
    for stretch in finite(curve["points"]):
        at = [(_x(step, found), _y(value, found)) for step, value in stretch]
        if len(at) == 1:
            parts.append(f'<circle cx="{at[0][0]:.1f}" cy="{at[0][1]:.1f}" r="2.5" fill="{colour}"/>')
        else:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    if curve.get("first_not_finite") is not None:
        step = curve["first_not_finite"]
        x = min(max(_x(step, found), LEFT), WIDTH - RIGHT)
        dashes = f'stroke="{colour}" stroke-dasharray="3 3"'
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" {dashes}/>')
        anchor = "end" if x > WIDTH / 2 else "start"
        parts.append(
            f'<text x="{x + (-4 if anchor == "end" else 4):.1f}" y="{TOP + 12}" text-anchor="{anchor}" fill="#cf222e">'
            f"not finite from step {step:,}</text>"
        )
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    """Below the title. Of a long name the end is shown: runs are told apart by it."""
    parts, left = [], float(LEFT)
    most = int(((WIDTH - LEFT - RIGHT) / len(names) - DASH) / LETTER)
    for place, name in enumerate(names):
        shown = name if len(name) <= most else f"…{name[1 - most :]}"
        colour = COLOURS[place % len(COLOURS)]
        parts.append(
            f'<line x1="{left:.0f}" x2="{left + 16:.0f}" y1="36" y2="36" stroke="{colour}" stroke-width="3"/>'
            f'<text x="{left + 22:.0f}" y="40" fill="#1f2328">{escape(shown)}</text>'
        )
        left += DASH + LETTER * len(shown)
    return parts


def panels(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """One a metric that any of the runs told, and one for each of what their processes took."""
    found = []
    for part, titles in (("curves", {}), ("system", SYSTEM)):
        names = dict.fromkeys(name for run in runs for name in run[part])
        for name in names:
            lines = [(run["name"], run[part][name]) for run in runs if name in run[part]]
            found.append(panel(titles.get(name, name), lines, from_zero=part == "system"))
    return found


SYSTEM: Final[Mapping[str, str]] = {
    "cores": "cores in use",
    "rss_mb": "memory, MB",
    "samples_per_s": "samples a second",
}


def sheet(title: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """All panels as one drawing, below each other."""
    found = panels(runs)
    height = HEIGHT * len(found)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    inner = (each.replace("<svg ", f'<svg y="{HEIGHT * place}" ', 1) for place, each in enumerate(found))
    return f"{head}<title>{escape(title)}</title>{''.join(inner)}</svg>\n"


def page(title: str, runs: Sequence[Mapping[str, Any]], tables: Sequence[tuple[str, Sequence[Sequence[str]]]]) -> str:
    """`tables`: (heading, rows), the first row of each being its head."""
    body = [f"<h1>{escape(title)}</h1>"]
    for heading, (head, *rows) in tables:
        cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        body.append(f"<h2>{escape(heading)}</h2><table><tr>{cells}</tr>{lines}</table>")
    body.append(f'<h2>Curves</h2><div class="panels">{"".join(panels(runs)) or "Nothing was told."}</div>')
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'
