"""What the command line shows. Data goes to stdout, everything else to stderr; nothing moves without a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from skyriver.core.errors import SkyriverError

_GOOD = frozenset({"READY", "SUCCEEDED", "DONE", "APPROVED", "DEPLOYED", "DECLARED", "RUNNING", "ACTIVE", "LIVE"})
_WHOLE = frozenset({"NAME", "KIND", "PROCESS", "STATE", "REASON"})
"""Columns whose words stay on one line."""
DETAILS = 10
"""Of an error, that are shown; JSON output has all."""
_BAD = frozenset({"FAILED", "REJECTED", "LOST", "DEGRADED", "ROLLED_BACK", "CANCELLED"})


PIPE_WIDTH = 1_000


class Screen:
    """Tables and progress for people, or one JSON document for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        # A pipe has no width: names there stay whole, whatever the terminal's.
        width = None if sys.stdout.isatty() else PIPE_WIDTH
        self.out = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)
        self.err = Console(file=sys.stderr, highlight=False, soft_wrap=True)

    def data(self, document: Any, show: Callable[[], None]) -> None:
        """`document` as JSON where JSON was asked for, else whatever `show` prints."""
        if self.as_json:
            print(json.dumps(document, default=str))
        else:
            show()

    def say(self, text: str) -> None:
        """A line for the person, never data."""
        if not self.as_json:
            self.err.print(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
        for name in columns:
            table.add_column(name, overflow="fold", no_wrap=name in _WHOLE)
        for row in rows:
            table.add_row(*(coloured(str(cell)) for cell in row))
        self.out.print(table)

    @contextmanager
    def progress(self) -> Iterator[Bars]:
        """Bars on stderr; plain lines, one for each state of a step, where there is no terminal."""
        if self.as_json or not self.err.is_terminal:
            yield Bars(None, self)
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
        with Progress(*columns, console=self.err, transient=True) as progress:
            yield Bars(progress, self)


class Bars:
    """Named bars; a bar is made when it is first told of. Without a terminal, a line for each state of a step."""

    def __init__(self, progress: Progress | None, screen: Screen) -> None:
        self._progress = progress
        self._screen = screen
        self._bars: dict[str, TaskID] = {}
        self._lines: dict[str, str] = {}
        """Of each step, the state that was told last."""

    def tell(self, name: str, done: float, total: float) -> None:
        if self._progress is None:
            return
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(escape(name), total=None)
        self._progress.update(self._bars[name], completed=done, total=total or None)

    def done(self, name: str) -> None:
        if self._progress is not None and name in self._bars:
            self._progress.update(self._bars[name], visible=False)

    def _line(self, name: str, state: str, why: str) -> None:
        """Of a step that goes on, ends well, or waits: of its places in a queue, the first that is told. What failed is
        told by the error, and what could not begin then is not the cause."""
        if self._lines.get(name) != state and state not in _BAD:
            self._lines[name] = state
            self._screen.say(f"  {escape(name)} {state}{f'  {escape(why)}' if why else ''}")

    def follow(self) -> Callable[[Mapping[str, Any]], None]:
        """For `Client.wait`: one bar a step of the operation."""

        def told(operation: Mapping[str, Any]) -> None:
            for step in operation["status"].get("steps", ()):
                at = step.get("progress") or {}
                stage = f": {at['stage']}" if at.get("stage") else ""
                name = step["title"]
                waits = step["state"] in ("PENDING", "QUEUED")
                if waits and not step["message"]:
                    continue
                if self._progress is None:
                    self._line(name, step["state"], step["message"] if waits else "")
                elif step["state"] in ("SUCCEEDED", "DONE", "APPROVED"):
                    self.done(name)
                else:
                    self.tell(name, at.get("done", 0), at.get("total", 0))
                    text = f"{name} waits. {step['message']}" if waits else name + stage
                    self._progress.update(self._bars[name], description=escape(text))

        return told


def coloured(text: str) -> str:
    if text in _GOOD:
        return f"[green]{text}[/]"
    if text in _BAD:
        return f"[red]{text}[/]"
    return escape(text)


def age(microseconds: int) -> str:
    """How long ago a wall time was: "5 s", "3 min", "2 h", "4 d"."""
    seconds = max(0.0, time.time() - microseconds / 1e6)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def clock(microseconds: int) -> str:
    """The time of day (UTC) of a wall time."""
    return time.strftime("%H:%M:%S", time.gmtime(microseconds / 1e6))


def show_error(error: SkyriverError, *, as_json: bool) -> None:
    """One clear error on stderr: what, where, why, what to do."""
    if as_json:
        print(json.dumps(error.to_problem()), file=sys.stderr)
        return
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    where = f" [dim]{escape(error.where)}[/]" if error.where else ""
    console.print(f"[bold red]error[/] {error.code}{where}")
    console.print(f"  {escape(error.message)}")
    details = [d for d in error.details if "message" not in d or str(d["message"]) not in error.message]
    if len(error.details) > 1:  # one alone is what the message says
        for detail in details[:DETAILS]:
            console.print(f"  - {escape(_detail(detail))}")
        if len(details) > DETAILS:
            console.print(f"  - and {len(details) - DETAILS} more")
    if error.next_action:
        console.print(f"  [bold]→[/] {escape(error.next_action)}")


def _detail(detail: Mapping[str, Any]) -> str:
    if "message" not in detail:
        return ", ".join(f"{k}: {v}" for k, v in detail.items())
    row = f"row {detail['index'] + 1}: " if isinstance(detail.get("index"), int) else ""
    reason = f" ({detail['reason']})" if detail.get("reason") else ""
    return f"{row}{detail['message']}{reason}"
