"""Curves on the screen: a small plot in a terminal, numbers where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, Final

from rich.markup import escape

from skyriver.client.curve_svg import Line, bounds, finite, label, share
from skyriver.client.screen import Screen
from skyriver.core.units import SECOND

COLOURS: Final = ("cyan", "yellow", "green", "magenta", "blue", "red")
COLUMNS: Final = 60
ROWS: Final = 8
MOST_PLOTS: Final = 6
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character, by row and column of its 4 x 2 dots (Unicode, block 2800)."""


def plot(lines: Sequence[Line], columns: int = COLUMNS, rows: int = ROWS) -> Iterator[str]:
    """Lines of a plot, in rich's markup: of several curves each in its colour, the later ones on top."""
    found = bounds(lines)
    if found is None:
        yield "[red]no value of it is a finite number[/]"
        return
    first, last, low, high = found
    bits = [[0] * columns for _ in range(rows)]
    owner = [[0] * columns for _ in range(rows)]
    for place, (_, curve) in enumerate(lines):
        for x, y in _dots(curve, found, columns * 2, rows * 4):
            bits[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
            owner[y // 4][x // 2] = place
    top, bottom = label(high), label(low)
    margin = max(len(top), len(bottom))
    for row in range(rows):
        edge = top if row == 0 else bottom if row == rows - 1 else ""
        yield f"[dim]{edge:>{margin}} │[/]{_cells(bits[row], owner[row])}"
    ends = f"{label(first)}{label(last):>{columns - len(label(first))}}"
    yield f"[dim]{'':>{margin}} └{'─' * columns}[/]"
    yield f"[dim]{'':>{margin}}  {ends}[/]"


def _cells(bits: Sequence[int], owner: Sequence[int]) -> str:
    cells = [(chr(0x2800 + b), COLOURS[o % len(COLOURS)]) if b else (" ", "") for b, o in zip(bits, owner, strict=True)]
    stretches = ((colour, "".join(sign for sign, _ in run)) for colour, run in groupby(cells, lambda cell: cell[1]))
    return "".join(f"[{colour}]{signs}[/]" if colour else signs for colour, signs in stretches)


def _dots(
    curve: Mapping[str, Any], found: tuple[float, float, float, float], width: int, height: int
) -> Iterator[tuple[int, int]]:
    """Along the straight lines between points."""
    first, last, low, high = found
    for stretch in finite(curve["points"]):
        at = [
            (
                round(share(step, first, last) * (width - 1)) if last > first else width // 2,
                round((1 - share(value, low, high)) * (height - 1)),
            )
            for step, value in stretch
        ]
        yield at[0]
        for (x0, y0), (x1, y1) in pairwise(at):
            far = max(abs(x1 - x0), abs(y1 - y0), 1)
            for n in range(1, far + 1):
                yield x0 + round((x1 - x0) * n / far), y0 + round((y1 - y0) * n / far)


def plots(runs: Sequence[Mapping[str, Any]], most: int = MOST_PLOTS) -> Iterator[str]:
    """Lines of the plots of their first metrics, in rich's markup."""
    for name in list(dict.fromkeys(name for run in runs for name in run["curves"]))[:most]:
        lines = [(run["name"], run["curves"][name]) for run in runs if name in run["curves"]]
        legend = "   ".join(
            f"[{COLOURS[place % len(COLOURS)]}]━━[/] {escape(run)}" for place, (run, _) in enumerate(lines)
        )
        yield f"\n[bold]{escape(name)}[/]" + (f"   {legend}" if len(runs) > 1 else "")
        yield from plot(lines)


def curves(screen: Screen, runs: Sequence[Mapping[str, Any]]) -> None:
    """Of one run, or of several over each other."""
    names = list(dict.fromkeys(name for run in runs for name in run["curves"]))
    if screen.out.is_terminal:
        for line in plots(runs):
            screen.out.print(line)
        if len(names) > MOST_PLOTS:
            screen.say(f"{len(names) - MOST_PLOTS} more are not plotted; --save draws all.")
    rows = [row for name in names for run in runs if name in run["curves"] for row in [_numbers(run, name, runs)]]
    if rows:
        first = ("RUN",) if len(runs) > 1 else ()
        screen.out.print()
        screen.table("", ("METRIC", *first, "STEPS", "FIRST", "LOWEST", "HIGHEST", "LAST", ""), rows)


def _numbers(run: Mapping[str, Any], name: str, runs: Sequence[Any]) -> tuple[str, ...]:
    curve = run["curves"][name]
    points = curve["points"]
    values = [value for stretch in finite(points) for _, value in stretch]
    odd = curve["not_finite"]
    note = f"{odd:,} not finite, from step {curve['first_not_finite']:,}" if odd else ""
    ends = (f"{min(values):.4g}", f"{max(values):.4g}") if values else ("", "")
    head = (name, *((run["name"],) if len(runs) > 1 else ()), f"{curve['seen']:,}")
    return (*head, told(points[0][1]), *ends, told(points[-1][1]), note)


def told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def how_far(run: Mapping[str, Any]) -> str:
    """`step 1,200 of 4,000, 62 s, 12,400 samples/s, 1.8 cores, 640 MB (at most 700)`."""
    now = run["now"]
    words = [f"step {run['step']:,}" + (f" of {run['of']:,}" if run["of"] else "")]
    words += [f"{(run['ended_at'] - run['started_at']) / SECOND:,.0f} s"] if run["ended_at"] else []
    words += [f"{now['samples_per_s']:,.0f} samples/s"] if "samples_per_s" in now else []
    words += [f"{now['cores']:.1f} cores"] if "cores" in now else []
    words += [f"{now['rss_mb']:,.0f} MB (at most {now['peak_mb']:,.0f})"] if "rss_mb" in now else []
    return ", ".join(words)
