"""Reading what processes print, from the end and as it grows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skyriver.client.patience import Patience

if TYPE_CHECKING:
    from skyriver.client.api import Client

POLL_SECONDS = 0.5
LINE_BYTES = 400
"""A line has at most that many bytes on average, or fewer lines are shown."""
PAGES = 16
"""Read of one log at once: what prints faster than it is read must not be kept from the screen."""
_ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})

Lines = list[tuple[str, str]]
"""(who printed it, the line)"""


class LogReader:
    """Where the reading stands in the log of each process of `name`."""

    def __init__(self, client: Client, name: str, patience: Patience) -> None:
        self._client = client
        self._patience = patience
        self._name = name
        self._next: dict[str, int] = {}
        self._rest: dict[str, str] = {}

    def last(self, lines: int) -> Lines:
        """The last lines of each. Raises NotFound."""
        found: Lines = []
        for item in self._read(self._name, -LINE_BYTES * max(lines, 1)):
            who = item["name"]
            self._next[who] = item["next"]
            read = self._take(who, item["text"])
            while more := self._more(who):
                read = [*read, *more][-max(lines, 1) :]
            found += read[-lines:] if lines else []
        return found

    def new(self) -> Lines:
        """The next lines that came since, of processes that came since too; none once all are told."""
        for item in self._read(self._name, -1):
            self._next.setdefault(item["name"], 0)
        return [line for who in list(self._next) for line in self._more(who)]

    def _more(self, who: str) -> Lines:
        """Some pages, at most up to the end of the log."""
        found: Lines = []
        for _ in range(PAGES):
            item = next((i for i in self._read(who, self._next[who]) if i["name"] == who), None)
            if item is None or item["next"] == self._next[who]:
                break
            self._next[who] = item["next"]
            found += self._take(who, item["text"])
        return found

    def _read(self, name: str, offset: int) -> Sequence[Mapping[str, Any]]:
        return self._patience.call(lambda: self._client.logs(name, offset=offset))

    def _take(self, who: str, text: str) -> Lines:
        *whole, self._rest[who] = (self._rest.get(who, "") + text).split("\n")
        return [(who, line) for line in whole]


def follow(client: Client, name: str, reader: LogReader, patience: Patience) -> Iterator[Lines]:
    """New lines as they come, until all that is called `name` has ended (a job does, after its last attempt, a stream
    does not). A control plane that is away is waited for; nothing is told twice or left out."""
    while True:
        ended = all(item["state"] in _ENDED for item in patience.call(lambda: client.explain(name)))
        while lines := reader.new():
            yield lines
        if ended:
            return
        time.sleep(POLL_SECONDS)
