"""Who is told of incidents: what this machine knows of receivers, in HOME/alerts/TENANT/NAME.toml, and telling them.

A file is as that of a sink that is a webhook (`skyriver.decide.acting.sinks.Place`), with `least` besides. Messages go
out in threads of their own, one after the other to each receiver, so that one that hangs keeps neither the watching nor
the others waiting. What was told stands in the incident's row: at least once, also over the end of a control plane.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import threading
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from skyriver.adapters.webhook.sink import WebhookSink
from skyriver.core.contract_alerts import Alert, AlertTested
from skyriver.core.errors import InvalidInput, NotFound, SkyriverError
from skyriver.core.names import check_name
from skyriver.core.resources import Resource
from skyriver.core.units import DAY, SECOND, iso_seconds
from skyriver.decide.acting.sinks import WEBHOOK_WORDS, Answer, Delivery, Failed, Place, Taken
from skyriver.trust.secretfile import read_secret

EXAMPLE: Final = 'url = "https://hooks.example/..."'
LEAST: Final = ("warning", "critical")
FIRST_PAUSE_US: Final = 5 * SECOND
MOST_PAUSE_US: Final = 300 * SECOND
GIVE_UP_US: Final = DAY
"""Nobody needs to be told any more what began so long ago."""
AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Receiver:
    name: str
    place: Place
    least: str

    def wants(self, severity: str) -> bool:
        return LEAST.index(severity) >= LEAST.index(self.least)


@dataclass(slots=True)
class _Told:
    """Of one receiver, since this control plane began."""

    taken_at: int = 0
    problem: str = ""
    under_way: bool = False
    """Until the answer stands in what `told` knows: one that came while it looked would be asked for again."""

    def note(self, answer: Answer, now: int) -> None:
        if isinstance(answer, Taken):
            self.taken_at, self.problem = now, ""
        else:
            self.problem = answer.message


class AlertFiles:
    """`control.alerts.Alerts`, and what the watching tells by it. `wall`: microseconds since 1970."""

    def __init__(self, home: Path, wall: Callable[[], int]) -> None:
        self._folder = home / "alerts"
        self._wall = wall
        self._told: dict[tuple[str, str], _Told] = {}
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        """What the rows are to say of who was told what, and do not say yet: they may not be written for long."""
        self._results: list[tuple[tuple[str, str], str, int, Answer]] = []
        self._mutex = threading.Lock()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="alerts")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # The port.

    def list(self, tenant: str) -> Sequence[Alert]:
        return [self._show(tenant, name) for name in self._names(tenant)]

    def test(self, tenant: str, name: str) -> AlertTested:
        receiver = self._read(tenant, name)
        now = self._wall()
        body = {
            "id": f"test.{now}",
            "type": "alert.test",
            "timestamp": iso_seconds(now),
            "text": f"This is a test of the alert {name}.",
            "data": {},
        }
        answer = self._deliver(receiver, body)
        with self._mutex:
            told = self._told.setdefault((tenant, name), _Told())
            told.note(answer, self._wall())
        said = "It took the message." if isinstance(answer, Taken) else f"It did not: {answer.message}."
        return {"name": name, "taken": isinstance(answer, Taken), "message": said}

    # For the watching.

    def failing(self) -> Sequence[tuple[str, str]]:
        """(name, why) of those that did not take the last message."""
        return [(name, told.problem) for (_, name), told in list(self._told.items()) if told.problem]

    def told(self, incidents: Iterable[Resource]) -> Mapping[tuple[str, str], Mapping[str, Any]]:
        """What to write into the rows' status as `told`, by (tenant, incident), until they have it; and begins to tell
        what is due."""
        now, rows = self._wall(), {(row.tenant, row.name): row for row in incidents}
        with self._mutex:
            results, self._results = self._results, []
        self._known = {k: told for k, told in self._known.items() if k in rows and rows[k].status.get("told") != told}
        for key, alert, number, answer in results:
            self._told[key[0], alert].under_way = False
            if key in rows:
                known = self._known.setdefault(key, dict(rows[key].status.get("told", {})))
                known[alert] = _after(known.get(alert), number, answer, now)
        for tenant in {tenant for tenant, _ in rows}:
            for receiver in self._usable(tenant):
                self._begin(tenant, receiver, rows, now)
        return {key: dict(told) for key, told in self._known.items()}

    def _begin(
        self,
        tenant: str,
        receiver: Receiver,
        rows: Mapping[tuple[str, str], Resource],
        now: int,
    ) -> None:
        """The next message to one receiver, if one is due and none is under way."""
        told = self._told.setdefault((tenant, receiver.name), _Told())
        if told.under_way:
            return
        mine = sorted((row for key, row in rows.items() if key[0] == tenant), key=lambda row: row.created_at)
        for row in mine:
            known = self._known.get((tenant, row.name), row.status.get("told", {})).get(receiver.name, {})
            number = _due(row, receiver, known, now)
            if number is not None:
                told.under_way = True
                self._threads.submit(self._tell, (tenant, row.name), receiver, number, message(row, number))
                return

    def _tell(self, key: tuple[str, str], receiver: Receiver, number: int, body: Mapping[str, Any]) -> None:
        try:
            answer = self._deliver(receiver, body)
        except Exception as error:  # one receiver must not be the end of this thread's word
            answer = Failed(f"{type(error).__name__}: {error}")
        with self._mutex:
            self._told[key[0], receiver.name].note(answer, self._wall())
            self._results.append((key, receiver.name, number, answer))

    def _deliver(self, receiver: Receiver, body: Mapping[str, Any]) -> Answer:
        delivery = Delivery(str(body["id"]), "", str(body["type"]), json.dumps(body).encode())

        async def once() -> Answer:
            sink = WebhookSink(receiver.place, self._wall)
            try:
                return await sink.deliver(delivery)
            finally:
                await sink.close()

        return asyncio.run(once())

    # Files.

    def _names(self, tenant: str) -> Sequence[str]:
        try:
            found = sorted(path.stem for path in (self._folder / tenant).glob("*.toml"))
        except OSError:
            return ()
        return [name for name in found if _is_name(name)]

    def _usable(self, tenant: str) -> Sequence[Receiver]:
        found = []
        for name in self._names(tenant):
            try:
                found.append(self._read(tenant, name))
            except SkyriverError:
                continue  # `alert list` tells it
        return found

    def _read(self, tenant: str, name: str) -> Receiver:
        """Raises NotFound, NotAllowed (SECRET_EXPOSED, INSECURE_SINK), InvalidInput (BAD_ALERT_FILE, BAD_SINK_FILE)."""
        path = self._folder / tenant / f"{name}.toml"
        if name not in self._names(tenant):
            raise NotFound(
                f"There is no alert {name!r}.", next_action=f"Write {path}, mode 600, as: {EXAMPLE}", where=str(path)
            )
        try:
            document = tomllib.loads(read_secret(path).decode())
        except ValueError as error:  # what it says may be a part of a secret
            raise InvalidInput(
                "The file of the alert is no TOML.",
                code="BAD_ALERT_FILE",
                where=str(path),
                next_action=f"Write it as lines NAME = VALUE, texts in quotes, as in {EXAMPLE}.",
            ) from error
        least = document.pop("least", LEAST[0])
        if least not in LEAST:
            raise InvalidInput(
                f"least = {least!r} is no severity.",
                code="BAD_ALERT_FILE",
                where=str(path),
                next_action='Write least = "warning", for all incidents, or least = "critical".',
            )
        if unknown := sorted(document.keys() - WEBHOOK_WORDS):
            raise InvalidInput(
                f"{unknown[0]!r} is not known of an alert.",
                code="BAD_ALERT_FILE",
                where=str(path),
                next_action=f"It may have {', '.join(sorted({*WEBHOOK_WORDS, 'least'}))}.",
            )
        if not str(document.get("url", "")).startswith(("http:", "https:")):
            raise InvalidInput(
                "The file of the alert names no url of http or https.",
                code="BAD_ALERT_FILE",
                where=str(path),
                next_action=f"Write {EXAMPLE}.",
            )
        # Who does not check signatures, as most chats, needs no key: then one is made that nobody knows.
        document.setdefault("secrets", [f"whsec_{_random_key()}"])
        return Receiver(name, Place.of(document, str(path)), least)

    def _show(self, tenant: str, name: str) -> Alert:
        told = self._told.get((tenant, name), _Told())
        shown: Alert = {
            "name": name,
            "host": "",
            "least": "",
            "state": "READY",
            "message": "",
            "next_action": "",
            "taken_at": told.taken_at,
        }
        try:
            receiver = self._read(tenant, name)
        except SkyriverError as error:
            return {**shown, "state": "UNUSABLE", "message": error.message, "next_action": error.next_action}
        shown |= {"host": urlsplit(receiver.place.url).hostname or "", "least": receiver.least}
        if told.problem:
            action = f"`skyriver alert test {name}` tries it at once; else it is tried again by itself for a day."
            shown |= {"state": "FAILING", "message": f"It did not take the last message: {told.problem}."}
            shown["next_action"] = action
        return shown


def _is_name(text: str) -> bool:
    try:
        return bool(check_name(text, "an alert"))
    except InvalidInput:
        return False


def _random_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _due(row: Resource, receiver: Receiver, known: Mapping[str, Any], now: int) -> int | None:
    """The number of the event that the receiver is to be told of next. The first events of an incident that was no
    concern of his are passed over, and an end is told only to who was told of the beginning."""
    events = row.status["events"]
    done = int(known.get("done", 0))
    if now < int(known.get("again", 0)):
        return None
    while done < len(events):
        event = events[done]
        over = event["event"] == "resolved" and not known.get("ever")
        if not over and receiver.wants(event["severity"]) and now - event["at"] < GIVE_UP_US:
            return done
        done += 1
    return None


def _after(known: Mapping[str, Any] | None, number: int, answer: Answer, now: int) -> dict[str, Any]:
    before = dict(known or {})
    if isinstance(answer, Taken):
        return {"done": number + 1, "ever": True, "at": now, "tries": 0, "again": 0, "problem": ""}
    tries = int(before.get("tries", 0)) + 1
    asked = answer.wait_us if isinstance(answer, Failed) else 0
    pause = max(asked, min(MOST_PAUSE_US, FIRST_PAUSE_US << min(tries - 1, 10)))
    return {**before, "done": number, "tries": tries, "again": now + pause, "problem": answer.message}


def message(row: Resource, number: int) -> dict[str, Any]:
    """What is sent of an incident's event: `text` for chats, `data` for programs; `id` is the same each time it is
    tried."""
    status, event = row.status, row.status["events"][number]
    word = {"opened": "", "worse": "It got worse. ", "again": "It is back. ", "resolved": ""}[event["event"]]
    more = f" Next: {row.next_action}" if row.next_action and event["event"] != "resolved" else ""
    return {
        "id": f"{row.tenant}.{row.name}.{row.created_at}.{number}",
        "type": f"incident.{event['event']}",
        "timestamp": iso_seconds(event["at"]),
        "text": f"[{event['severity']}] {row.name}: {word}{event['text']}{more}",
        "data": {
            "incident": row.name,
            "tenant": row.tenant,
            "state": row.state,
            "severity": status["severity"],
            "root": status["root"],
            "message": row.message,
            "next_action": row.next_action,
            "opened": iso_seconds(row.created_at),
            "conditions": [{k: c[k] for k in ("subject", "kind", "told", "severity")} for c in status["conditions"]],
            "causes": [{k: c[k] for k in ("subject", "kind", "told", "score")} for c in status["causes"]],
            "healed": [{k: h[k] for k in ("what", "subject", "outcome")} for h in status["healed"]],
        },
    }
