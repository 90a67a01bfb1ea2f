"""The process that acts on a stream's decisions: `python -m skyriver.wiring.dispatcher CONFIG_FILE`.

Its configuration: {"stream": StreamSpec, "directory": the stream's, "begin": the offset of the first decision that is
acted on}; live settings: what is declared, by `decide.streams.live.DISPATCHED`, and "began": whether it has begun
already (a missing state is an error then).

It follows the stream's log as any reader does, so the worker never waits for it, and keeps what it has to do in one
SQLite file, DIRECTORY/dispatch/state.sqlite. It goes on while the control plane and the worker are away. SIGTERM: it
lets what is under way end for some seconds, and ends with 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import uvloop
from pydantic import ValidationError

from skyriver.adapters.flock.lock import DirectoryLock, LockHeld, take_lock
from skyriver.adapters.processes.asking import SocketAsker
from skyriver.adapters.processes.starting import socket_path
from skyriver.adapters.sqlite.file import SqliteFile
from skyriver.core.errors import Conflict, InvalidInput, NotFound, SkyriverError, Unavailable, disk_error
from skyriver.core.spec import StreamSpec
from skyriver.data.folders import make_folder
from skyriver.data.log import WholeReader
from skyriver.decide.acting.database import Transaction
from skyriver.decide.acting.deliveries import Deliveries
from skyriver.decide.acting.dispatching import Ask, Dispatch, Part
from skyriver.decide.acting.reviewing import Reviewing
from skyriver.decide.acting.sending import Senders
from skyriver.decide.log.following import Follower
from skyriver.decide.log.records import Id
from skyriver.serve.http import JSON, PROBLEM, HttpServer, Request
from skyriver.serve.listening import unix_listener
from skyriver.serve.metrics import resident_bytes
from skyriver.wiring.answers import Answers
from skyriver.wiring.home import Home
from skyriver.wiring.logs import log_reader, on_disk
from skyriver.wiring.process import ProcessContext, SystemClock, run_to_end
from skyriver.wiring.rounds import Rounds
from skyriver.wiring.sinks import SinksOfMachine
from skyriver.wiring.upkeep import tier_of

LOOK_S = 0.05
"""Between two looks at the log's end; a decision waits half as long for its dispatcher."""
TICK_S = 1.0
LIVE_S = 0.2
ANSWERS_S = 0.1
GRACE_S = 5.0
LOCK_US = 10_000_000
BEGIN = "begin"
ERASE = b"/internal/erase"

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DispatcherSettings:
    stream: StreamSpec
    directory: Path
    begin: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> DispatcherSettings:
        """Raises InvalidInput (BAD_CONFIG)."""
        try:
            return cls(
                StreamSpec.model_validate(config["stream"]), Path(config["directory"]), int(config.get("begin", 0))
            )
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise InvalidInput(
                f"The dispatcher's configuration is wrong: {error!r}.",
                code="BAD_CONFIG",
                next_action="`skyriver down`, then `skyriver up`: all its parts are then of one version.",
            ) from error

    @property
    def folder(self) -> Path:
        return self.directory / "dispatch"


class Dispatcher:
    """Joins the parts, for as long as the process lives."""

    def __init__(self, context: ProcessContext, settings: DispatcherSettings, live: Mapping[str, Any]) -> None:
        self._context = context
        self._settings = settings
        self._clock = SystemClock()
        self._database = SqliteFile(settings.folder / "state.sqlite")
        deliveries = Deliveries(settings.stream, context.tenant)
        reviewing = Reviewing(settings.stream, self._clock, deliveries.add)
        parts: list[Part] = [reviewing, deliveries]
        """What acts on decisions."""
        self._dispatch = Dispatch(self._database, parts, [reviewing])
        sinks = SinksOfMachine(context.home, context.tenant, self._clock.wall)
        self._senders = Senders(deliveries, self._transact, sinks, self._clock)
        self._dispatch.declare(live)
        self._follower = Follower(settings.stream, self._dispatch.wants)
        self._erasures = 0
        """Before those that the follower knows of: it keeps events."""
        self._database_thread = ThreadPoolExecutor(1, "database")
        self._log_thread = ThreadPoolExecutor(1, "log")
        self._rounds = Rounds()
        self._reader: WholeReader | None = None
        self._readers = contextlib.ExitStack()
        self._found: Mapping[str, Any] = {}
        self._told: dict[str, Any] = {}
        self._end = 0
        """Of the log, as it was seen last."""
        self._full = ""
        self._ready = False
        worker = socket_path(Home.at(context.home).sockets, f"{context.tenant}.worker.{settings.stream.name}-0")
        asker = SocketAsker()
        self._answers = Answers(settings.stream, reviewing, asker, worker, self._transact, self._caught_up)

    async def run(self, listening: socket.socket, stop: asyncio.Event, *, began: bool) -> None:
        settings = self._settings
        opening = partial(self._dispatch.open, settings.begin, began=began, again=begin_again(settings))
        await self._with_database(opening)
        (settings.folder / BEGIN).unlink(missing_ok=True)
        server = HttpServer(self._on_request)
        await server.start(listening)
        rounds = [
            self._rounds.start("Decisions are not followed", self._follow, LOOK_S),
            self._rounds.start("The report is not renewed", self._tick, TICK_S),
            self._rounds.start("What is declared is not followed", self._watch_live, LIVE_S),
            self._rounds.start("Nothing is sent", self._senders.run),
            self._rounds.start("Answers of reviewers are not sent", self._answers.send, ANSWERS_S),
        ]
        self._ready = True
        await stop.wait()
        self._ready = False
        for task in rounds:
            task.cancel()
        await asyncio.wait(rounds)
        await server.stop(GRACE_S)
        await self._senders.end(GRACE_S)
        self._answers.close()
        self._log_thread.shutdown(cancel_futures=True)
        self._database_thread.shutdown(cancel_futures=True)
        self._readers.close()
        self._database.close()
        self._tell()

    def _with_database(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._database_thread, work)

    def _transact(self, work: Callable[[Transaction], Result]) -> asyncio.Future[Result]:
        return self._with_database(partial(self._dispatch.transact, work))

    def _caught_up(self) -> bool:
        """The log was read, by this process, up to where it ended some milliseconds ago."""
        return 0 < self._end <= self._dispatch.offset

    # Following the log

    async def _follow(self) -> None:
        """Takes all decisions that are durable by now."""
        loop = asyncio.get_running_loop()
        start = self._dispatch.offset
        end = await loop.run_in_executor(self._log_thread, self._look, start)
        self._dispatch.check_end(end)
        self._end = end
        self._full = self._dispatch.full()
        if end == start or self._full:
            return
        try:
            taken = partial(loop.call_soon_threadsafe, self._senders.wake)
            self._full = await loop.run_in_executor(self._log_thread, self._read, start, end, taken)
        except NotFound as error:
            if error.code != "OFFSET_GONE":
                raise
            first = await loop.run_in_executor(self._log_thread, lambda: self._open().first_offset)
            _log.error("the log gave up offsets %d to %d before they were read", start, first - 1)
            await self._with_database(partial(self._dispatch.skip, first))

    def _look(self, start: int) -> int:
        """The end of what is durable; in the log's thread. At durability "process" what was acknowledged may be lost
        with the power, and this file's position is not: so the log is synced first."""
        try:
            reader = self._open()
            end = reader.next_offset
        except NotFound:  # the worker has not begun
            return start
        return end if end <= start or on_disk(self._settings.stream) else reader.sync()

    def _read(self, start: int, end: int, taken: Callable[[], object]) -> str:
        """Why it may not go on; in the log's thread. It ends where something was erased meanwhile, of which it may have
        read a part that is rewritten since."""
        erasures = self._dispatch.erasures
        follower = (
            Follower(self._settings.stream, self._dispatch.wants) if erasures != self._erasures else self._follower
        )
        self._follower, self._erasures = follower, erasures
        for step in follower.steps(self._open(), start, end):
            taking = self._database_thread.submit(self._dispatch.take, step, self._clock.wall(), erasures)
            full = taking.result()
            if full is None:
                return ""
            if step.decided:
                taken()
            if full or not self._ready:
                return full
        return ""

    def _open(self) -> WholeReader:
        if self._reader is None:
            settings, context = self._settings, self._context
            opened = log_reader(
                settings.stream, settings.directory, context.home, context.tenant, tier_of(context.home)[0]
            )
            self._reader = self._readers.enter_context(opened)
        return self._reader

    # Live settings and report

    async def _watch_live(self) -> None:
        live = self._context.live()
        if live is not None:
            await self._with_database(partial(self._dispatch.declare, live))

    async def _tick(self) -> None:
        try:
            self._found = await self._with_database(partial(self._dispatch.tick, self._clock.wall()))
        finally:  # also that it cannot be written
            self._tell()

    def _tell(self) -> None:
        report = self._report()
        if report == self._told:
            return
        if self._context.tell(report):
            self._told = report

    def _report(self) -> dict[str, Any]:
        problems = [*self._rounds.problems.values(), *self._senders.problems()]
        first = problems[0] if problems else None
        texts = [str(problem.message) for problem in problems] + ([self._full] if self._full else [])
        if self._dispatch.missed:
            texts.append(
                f"Its stream's log gave up {self._dispatch.missed} offsets before their decisions were acted on: the"
                f" table {self._settings.stream.name}.decisions has them."
            )
        senders = self._senders.report()
        nothing = {"failures": 0, "last_error": "", "under_way": 0}
        found = dict(self._found)
        found["sinks"] = [{**sink, **senders.get(sink["sink"], nothing)} for sink in found.get("sinks", ())]
        return {
            "ready": self._ready,
            "offset": self._dispatch.offset,
            "behind": max(0, self._end - self._dispatch.offset),
            "missed": self._dispatch.missed,
            **found,
            "rss_mb": round(resident_bytes() / 1e6),
            "reason": first.code if first is not None else found.get("reason", ""),
            "message": " ".join([*texts, *filter(None, [found.get("message")])]),
            "next_action": first.next_action if first is not None else found.get("next_action", ""),
        }

    # Requests

    def _on_request(self, request: Request) -> None:
        if request.method == b"GET" and request.path in (b"/livez", b"/internal/ready"):
            request.answer(200 if self._ready else 503, b'{"ready":%s}' % (b"true" if self._ready else b"false"))
            return
        method, path = request.method.decode("latin-1"), request.path.decode("latin-1")
        if (request.method, request.path) == (b"POST", ERASE):  # the gateway and the control plane forward none of it
            erasing = self._with_database(partial(self._erase, _body(request)))
            erasing.add_done_callback(partial(_answer, request))
            return
        ask = Ask(
            actor=request.headers.get(b"x-actor", b"").decode("latin-1"),
            query=dict(parse_qsl(request.query.decode("latin-1"))),
            body=_body(request),
            now=self._clock.wall(),
            key=request.headers.get(b"idempotency-key", b"").decode("latin-1"),
        )
        answering = self._with_database(partial(self._dispatch.answer, method, path, ask))
        answering.add_done_callback(partial(_answer, request))
        answering.add_done_callback(lambda _: self._senders.wake())

    def _erase(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        ids = body.get("ids")
        if not isinstance(ids, list) or not all(isinstance(own, int | str) for own in ids):
            raise InvalidInput(
                "ids is to be a list of ids of events.",
                code="BAD_REQUEST",
                where="ids",
                next_action="Give ids as the events have them.",
            )
        return {"erased": self._dispatch.erase(ids, self._clock.wall())}


def erase_in_file(file: Path, stream: StreamSpec, tenant: str, ids: Sequence[Id]) -> int:
    """As a dispatcher does, where there is none. Raises Conflict (DISPATCH_HELD) where there is one all the same."""
    try:
        lock = take_lock(file.parent, "erasure", take_over=False, wait_us=LOCK_US)
    except LockHeld as error:
        raise Conflict(
            f"A dispatcher has what is to be erased: {error}.", code="DISPATCH_HELD", next_action="Erase it again."
        ) from error
    clock, database = SystemClock(), SqliteFile(file)
    try:
        deliveries = Deliveries(stream, tenant)
        dispatch = Dispatch(database, [Reviewing(stream, clock, deliveries.add), deliveries])
        dispatch.open(0)
        return dispatch.erase(ids, clock.wall())
    finally:
        database.close()
        lock.release()


def _body(request: Request) -> Mapping[str, Any]:
    if not request.body:
        return {}
    try:
        found = json.loads(request.body)
    except ValueError as error:
        raise InvalidInput(
            "The body is no JSON.", code="NOT_JSON", next_action='Send one object of JSON, as {"reason": "seen"}.'
        ) from error
    if not isinstance(found, dict):
        raise InvalidInput(
            "The body is no object of JSON.",
            code="NOT_JSON",
            next_action='Send one object of JSON, as {"reason": "seen"}.',
        )
    return found


def _answer(request: Request, done: asyncio.Future[Mapping[str, Any]]) -> None:
    error = (
        done.exception()
        if not done.cancelled()
        else Unavailable(
            "The dispatcher is being stopped.", next_action="Try again in some seconds: it is started again by itself."
        )
    )
    if isinstance(error, SkyriverError):
        request.answer(error.http_status, json.dumps(error.to_problem()).encode(), PROBLEM)
    elif error is not None:
        _log.error("%s failed", request.path.decode("latin-1"), exc_info=error)
        request.answer(500, b'{"code":"INTERNAL","detail":"The request failed."}', PROBLEM)
    else:
        request.answer(200, json.dumps(done.result()).encode(), JSON)


def begin_again(settings: DispatcherSettings) -> int | None:
    """The offset that somebody wrote for a dispatcher whose state is lost. Raises InvalidInput (BAD_BEGIN)."""
    try:
        text = (settings.folder / BEGIN).read_text()
    except FileNotFoundError:
        return None
    if not text.strip().isdecimal():
        raise InvalidInput(
            f"{text[:40]!r} is no offset.",
            code="BAD_BEGIN",
            where=str(settings.folder / BEGIN),
            next_action="Write one number into it: the offset from which decisions are acted on again, 0 for all.",
        )
    return int(text)


async def run(context: ProcessContext, settings: DispatcherSettings, live: Mapping[str, Any]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    dispatcher = Dispatcher(context, settings, live)
    with unix_listener(context.socket) as listening:
        await dispatcher.run(listening, stop, began=bool(live.get("began")))


def _take(settings: DispatcherSettings, name: str) -> DirectoryLock:
    """From whoever holds it. Raises Conflict (DISPATCH_HELD), Unavailable."""
    try:
        make_folder(settings.folder)
        return take_lock(settings.folder, name, take_over=True, wait_us=LOCK_US)
    except LockHeld as error:
        raise Conflict(
            f"Another dispatcher has the stream: {error}.",
            code="DISPATCH_HELD",
            next_action="It goes on by itself once that one has ended; `skyriver ps` shows both.",
        ) from error
    except OSError as error:
        raise disk_error(error, "The dispatcher cannot take its folder", str(settings.folder)) from error


def work(context: ProcessContext) -> None:
    settings = DispatcherSettings.of(context.config)
    context.tell({"ready": False, "message": "It opens its state."})
    live = context.live() or {}
    lock = _take(settings, context.name)
    uvloop.run(run(context, settings, live))
    lock.release()


if __name__ == "__main__":
    run_to_end("dispatcher", work)
