"""The HTTP routes of a stream's worker.

    POST /streams/S/events[?wait=decision]   events; answered once they (and their decisions) are durable
    POST /streams/S/labels                   labels of events
    POST /streams/S/references/R             rows of a reference or a list: all of a request, or none; of a list also
                                             ?check (nothing is taken, bad rows are told), ?aside (bad rows become
                                             dead letters), ?off (ids that are taken off)
    GET  /streams/S/references/L[?from=N]    ids on a list now, with their rows, from its Nth id on; ?id=ID: one, with
                                             its history
    GET  /streams/S                          the report
    GET  /streams/S/dead                     the last dead letters, newest first
    GET  /streams/S/metrics                  as /metrics, which the gateway does not forward
    GET  /streams/S/decisions/ID             the decision of an event, and its reasons
    POST /internal/history                   a block of a load (x-load, x-sequence, x-last: 1)
    POST /internal/features                  features by key as of now (see `serve.read_format`)
    POST /internal/erase/NAME                begins an erasure that a job prepared, and tells how far it is
    GET  /internal/ready, /v2/health/ready, /livez, /metrics

Errors are `application/problem+json`. There is no authentication: the socket's file mode and the gateway in front are
it; the gateway does not forward `/internal`, and only GET and HEAD for a token that may not write to streams. So GET
MUST change nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

from msgspec.structs import asdict

from skyriver.core.errors import InvalidInput, NotFound, SkyriverError, Unavailable
from skyriver.core.spec import StreamSpec
from skyriver.data.decisions import Reason
from skyriver.decide.decision.tallies import budgets_beyond
from skyriver.decide.log.checkpoint import BlockAnswer
from skyriver.decide.log.history import read_block
from skyriver.decide.log.records import DecisionRecord, Id, LoadStep
from skyriver.decide.partition.clock import ReceivingClock
from skyriver.decide.partition.engine import AsOf
from skyriver.decide.partition.receipt import LabelReceipt, Receipt, ReferenceSubmission
from skyriver.decide.worker.answers import (
    DecisionWriter,
    Form,
    dead_letter_json,
    encode_json,
    labels_answer,
    parse_rows,
    problem,
)
from skyriver.decide.worker.border import EventBorder, LabelBorder, ReferenceBorder
from skyriver.decide.worker.explaining import Explaining, Told
from skyriver.decide.worker.list_answers import one_of_list, page_of_list
from skyriver.decide.worker.reading import ReadBorder, encode_as_of
from skyriver.decide.worker.station import Station
from skyriver.decide.worker.work import EventWork, FindWork, LabelWork, LoadWork, ReadWork, ReferenceWork
from skyriver.serve.http import JSON, PROBLEM, TEXT, Request
from skyriver.serve.read_format import MOST_BYTES, READ_PATH

BODY_LIMIT = 16 << 20
HISTORY_LIMIT = 64 << 20
"""65,536 rows of some 1,000 bytes."""

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")
MSGPACK = b"application/msgpack"
_AGAIN = ((b"retry-after", b"1"),)
_ERASE = b"/internal/erase/"


class Routes:
    """What the HTTP server calls. `report` gives the stream's report, `metrics` its text for Prometheus."""

    def __init__(
        self,
        stream: StreamSpec,
        station: Station,
        border: EventBorder,
        writer: DecisionWriter,
        clock: ReceivingClock,
        report: Callable[[], Mapping[str, object]],
        metrics: Callable[[], bytes],
        explaining: Explaining,
        erase: Callable[[str], Mapping[str, object]] | None = None,
    ) -> None:
        self.draining = False
        self._stream = stream
        self._station = station
        self.border = border
        self._labels = LabelBorder(stream)
        self._references = [ReferenceBorder(stream, place) for place in range(len(stream.references))]
        self._reads = ReadBorder(stream)
        self._writer = writer
        self._clock = clock
        self._report = report
        self._metrics = metrics
        self._explaining = explaining
        self._erase = erase
        self._text_id = stream.field(stream.id).type == "text"
        base = b"/streams/" + stream.name.encode()
        self._decisions = base + b"/decisions/"
        self._reference = base + b"/references/"
        self._routes: dict[tuple[bytes, bytes], Callable[[Request], None]] = {
            (b"POST", base + b"/events"): self._on_events,
            (b"POST", base + b"/labels"): self._on_labels,
            (b"GET", base): self._on_status,
            (b"GET", base + b"/dead"): self._on_dead,
            (b"GET", base + b"/metrics"): self._on_metrics,
            (b"POST", b"/internal/history"): self._on_history,
            (b"POST", READ_PATH): self._on_read,
            (b"GET", b"/internal/ready"): self._on_ready,
            (b"GET", b"/v2/health/ready"): self._on_ready,
            (b"GET", b"/livez"): self._on_live,
            (b"GET", b"/metrics"): self._on_metrics,
        }

    def handle(self, request: Request) -> None:
        route = self._routes.get((request.method, request.path))
        try:
            if route is not None:
                route(request)
            elif request.method == b"GET" and request.path.startswith(self._decisions):
                self._on_decision(request)
            elif request.method == b"POST" and request.path.startswith(self._reference):
                self._on_references(request)
            elif request.method == b"GET" and request.path.startswith(self._reference):
                self._on_list(request)
            elif request.method == b"POST" and request.path.startswith(_ERASE) and self._erase is not None:
                name = request.path[len(_ERASE) :].decode("latin-1")
                request.answer(200, encode_json(self._erase(name)))
            else:
                self._unknown(request)
        except SkyriverError as error:
            _fail(request, error)

    def _unknown(self, request: Request) -> None:
        allowed = [method for method, path in self._routes if path == request.path]
        if allowed:
            method = request.method.decode("latin-1")
            ways = allowed[0].decode()
            error = WrongMethod(f"{method} is not possible here, {ways} is.", next_action=f"Ask with {ways}.")
            request.answer(error.http_status, problem(error), PROBLEM, ((b"allow", b", ".join(allowed)),))
            return
        raise NotFound(
            f"There is no {request.path.decode('latin-1')}.",
            code="UNKNOWN_ROUTE",
            next_action=f"Events are sent with POST /streams/{self._stream.name}/events.",
        )

    # Events and labels

    def _on_events(self, request: Request) -> None:
        self._check(request)
        wants = request.query == b"wait=decision"
        if request.query and not wants:
            raise InvalidInput(
                f"?{request.query.decode('latin-1')} is not known.",
                code="BAD_QUERY",
                next_action="There is ?wait=decision.",
            )
        arrived = self._clock.monotonic()
        submission = self.border.read(request.body, _form(request), arrived, wants)
        self._station.submit(
            EventWork(submission, partial(self._answer_events, request, wants), size=len(request.body))
        )

    def _answer_events(self, request: Request, wanted: bool, receipt: Receipt | SkyriverError) -> None:
        if isinstance(receipt, SkyriverError):
            _fail(request, receipt)
            return
        status, body = self._writer.events(receipt, with_decisions=wanted)
        request.answer(status, body, JSON if status == 200 else PROBLEM)
        self._station.meter.answer_us.add((time.perf_counter_ns() - request.arrived_ns) // 1000)

    def _on_labels(self, request: Request) -> None:
        self._check(request)
        rows = parse_rows(request.body, _form(request))
        now = self._clock.now()
        submission = self._labels.take(rows, now, self._clock.limit(now))
        self._station.submit(LabelWork(submission, partial(_answer_labels, request), size=len(request.body)))

    def _on_references(self, request: Request) -> None:
        self._check(request)
        index = self._reference_of(request)
        border, how = self._references[index], request.query
        if how and (how not in (b"check", b"aside", b"off") or not self._stream.references[index].until):
            raise InvalidInput(
                f"?{how.decode('latin-1')} is not known.",
                code="BAD_QUERY",
                next_action="Of a list there are ?check, ?aside and ?off.",
            )
        rows = parse_rows(request.body, _form(request))
        now = self._clock.now()
        if how == b"off":
            submission = border.take_off(rows)
        elif how:
            submission = border.sort(rows, now, self._clock.limit(now))
        else:
            submission = border.take(rows, now, self._clock.limit(now))
        if how == b"check":
            _answer_references(request, submission, 0)
            return
        self._station.submit(ReferenceWork(submission, partial(_answer_references, request, submission)))

    def _reference_of(self, request: Request) -> int:
        name = request.path[len(self._reference) :].decode("latin-1")
        found = next((place for place, r in enumerate(self._stream.references) if r.name == name), None)
        if found is None:
            known = ", ".join(r.name for r in self._stream.references)
            raise NotFound(
                f"{self._stream.name} has no reference {name[:80]!r}.",
                code="UNKNOWN_REFERENCE",
                next_action=f"It has {known}." if known else "It declares none: app.reference(...) does.",
            )
        return found

    def _on_list(self, request: Request) -> None:
        index, engine = self._reference_of(request), self._station.engine
        if engine is None:
            raise Unavailable("The stream is not ready.", code="RECOVERING", next_action="Try again in a second.")
        found, now = engine.partition.lists.get(index), engine.partition.time
        if found is None:
            raise NotFound(
                f"{self._stream.references[index].name} is a reference, and no list.",
                code="NO_LIST",
                next_action=f"Its rows are in the table {self._stream.name}.{self._stream.references[index].name}.",
            )
        what, _, value = request.query.partition(b"=")
        if what == b"id":
            own = self._id_of(value, found.spec.field(found.spec.id).type == "text", found.spec.name)
            answer = one_of_list(found, own, now)
        elif not what or (what == b"from" and value.isdigit() and len(value) < 10):
            answer = page_of_list(found, int(value or b"0"), now)
        else:
            raise InvalidInput(
                f"?{request.query.decode('latin-1')} is not known.",
                code="BAD_QUERY",
                next_action="There are ?from=N and ?id=ID.",
            )
        request.answer(200, encode_json(answer))

    def _check(self, request: Request) -> None:
        if self.draining:
            raise Stopping()
        if len(request.body) > BODY_LIMIT:
            raise TooLarge(BODY_LIMIT)

    # Looking

    def _on_decision(self, request: Request) -> None:
        event_id = self._id_of(request.path[len(self._decisions) :], self._text_id, self._stream.name)
        self._station.submit(FindWork(event_id, partial(self._answer_decision, request, event_id)))

    def _id_of(self, quoted: bytes, is_text: bool, name: str) -> Id:
        try:
            text = unquote_to_bytes(quoted).decode()
        except UnicodeDecodeError as error:
            shown = quoted[:80].decode("latin-1")
            raise InvalidInput(
                f"{shown!r} is no id of {name}: it is not percent-encoded UTF-8.",
                code="BAD_ID",
                next_action="Encode it as a part of a URL.",
            ) from error
        if is_text:
            return text
        if not _WHOLE_NUMBER.fullmatch(text) or not -(2**63) <= int(text) < 2**63:
            raise InvalidInput(
                f"{text[:80]!r} is no id of {name}: they are whole numbers of 64 bits.",
                code="BAD_ID",
                next_action="Give it as it was sent.",
            )
        return int(text)

    def _answer_decision(self, request: Request, event_id: Id, found: DecisionRecord | SkyriverError | None) -> None:
        if isinstance(found, SkyriverError):
            _fail(request, found)
        elif found is None:
            stream = self._stream
            gone = f" Or its log gave it up: the table {stream.name}.decisions has it then."
            cut = gone if stream.retention_us or stream.retention_bytes else ""
            message = f"{stream.name} has decided no event with the id {event_id!r}.{cut}"
            action = f"`skyriver stream dead {stream.name}` shows the last that were refused."
            _fail(request, NotFound(message, next_action=action))
        else:
            self._explaining.begin(found, partial(self._answer_explained, request, found))

    def _answer_explained(self, request: Request, found: DecisionRecord, told: Told) -> None:
        answer = {**self._writer.to_dict(found), **asdict(told), "budgets_spent": self._budgets_spent(found)}
        request.answer(200, encode_json(answer))

    def _budgets_spent(self, found: DecisionRecord) -> list[dict[str, Any]]:
        """Of a decision that a budget left; none where its rules are not in use any more."""
        engine = self._station.engine
        if found.reason is not Reason.BUDGET_SPENT or engine is None:
            return []
        deciding = engine.deciding
        used = (deciding.rules, deciding.trial.rules if deciding.trial is not None else None)
        rules = next((own for own in used if own is not None and own.digest == found.rules_digest), None)
        return budgets_beyond(rules, found) if rules is not None else []

    def _on_status(self, request: Request) -> None:
        request.answer(200, encode_json(self._report()))

    def _on_dead(self, request: Request) -> None:
        engine = self._station.engine
        letters = reversed(engine.partition.dead_letters) if engine is not None else ()
        request.answer(200, encode_json({"items": [dead_letter_json(letter) for letter in letters]}))

    def _on_ready(self, request: Request) -> None:
        ready = self._station.engine is not None and not self.draining
        request.answer(200 if ready else 503, b'{"ready":true}' if ready else b'{"ready":false}')

    def _on_live(self, request: Request) -> None:
        request.answer(200, b'{"live":true}')

    def _on_metrics(self, request: Request) -> None:
        request.answer(200, self._metrics(), TEXT)

    # Reading

    def _on_read(self, request: Request) -> None:
        self._check(request)
        if len(request.body) > MOST_BYTES:
            raise TooLarge(MOST_BYTES)
        digest, rows = self._reads.take(request.body)
        self._station.submit(ReadWork(digest, rows, partial(self._answer_read, request)))

    def _answer_read(self, request: Request, found: AsOf | SkyriverError) -> None:
        if isinstance(found, SkyriverError):
            _fail(request, found)
        else:
            request.answer(200, encode_as_of(found, self._clock.now()), MSGPACK)

    # Loading

    def _on_history(self, request: Request) -> None:
        if self.draining:
            raise Stopping()
        load = request.headers.get(b"x-load", b"").decode("latin-1")
        sequence = request.headers.get(b"x-sequence", b"").decode("latin-1")
        if not load or len(load) > 200 or not sequence.isdecimal() or len(sequence) > 9:
            raise InvalidInput(
                "A block needs the headers x-load and x-sequence (from 0).",
                code="BAD_BLOCK",
                next_action="Load with `skyriver table load`, which sends them.",
            )
        block = read_block(request.body, self._stream)
        step = LoadStep(load, int(sequence), 0, request.headers.get(b"x-last") == b"1")
        self._station.submit(LoadWork(block, step, partial(_answer_load, request), len(request.body)))


class WrongMethod(InvalidInput):
    default_code = "WRONG_METHOD"
    http_status = 405


class TooLarge(InvalidInput):
    http_status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"A body has at most {limit} bytes.", code="BODY_TOO_LARGE", next_action="Send several requests."
        )


class Stopping(SkyriverError):
    default_code = "STOPPING"
    http_status = 503

    def __init__(self) -> None:
        super().__init__("The worker is being stopped.", next_action="Try again in a second.")


def _form(request: Request) -> Form:
    return Form.of(request.headers.get(b"content-type", b""))


def _answer_labels(request: Request, receipt: LabelReceipt | SkyriverError) -> None:
    if isinstance(receipt, SkyriverError):
        _fail(request, receipt)
        return
    status, body = labels_answer(receipt)
    request.answer(status, body, JSON if status == 200 else PROBLEM)


def _answer_references(request: Request, submission: ReferenceSubmission, news: int | SkyriverError) -> None:
    if isinstance(news, SkyriverError):
        _fail(request, news)
        return
    told: dict[str, object] = {"accepted": len(submission)}
    if request.query:
        told |= {"news": news, "rejected": [asdict(refusal) for refusal, _ in submission.dead]}
    request.answer(200, encode_json(told))


def _answer_load(request: Request, answer: BlockAnswer | SkyriverError) -> None:
    if isinstance(answer, SkyriverError):
        _fail(request, answer)
        return
    body = {"appended": answer.appended, "duplicates": answer.duplicates, "last_offset": answer.last_offset}
    request.answer(200, encode_json(body))


def _fail(request: Request, error: SkyriverError) -> None:
    status = error.http_status
    request.answer(status, problem(error), PROBLEM, _AGAIN if status in (429, 503) else ())
