"""A replica: one model version answering HTTP, in one process and on one core.

    POST /v2/models/M[/versions/V]/infer      Open Inference Protocol (serve.protocol)
    GET  /v2, /v2/models/M[/versions/V][/ready], /v2/health/live, /v2/health/ready
    POST /predict, /predict/M                 named fields (serve.fields), or keys of a stream's features (serve.by_key)
    GET  /livez, /readyz, /metrics

Another model's name, or another version than its own, is 404: the gateway never sends them here. Under `/v2` errors
are the protocol's, elsewhere `application/problem+json`. There is no authentication: the socket's file mode and
the gateway in front are it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from skyriver import __version__
from skyriver.core.errors import Internal, InvalidInput, NotFound, SkyriverError
from skyriver.core.inference_protocol import server_metadata
from skyriver.release.signature import answer_names, score_of
from skyriver.serve.batch_limit import BatchLimit
from skyriver.serve.batching import INLINE_US, NO_DEADLINE, Ask, Batcher
from skyriver.serve.calibration import Calibration
from skyriver.serve.deadlines import DEADLINE_HEADER, until_ns
from skyriver.serve.encoding import WORTH_PACKING, encoding_wanted, packed, unpacked
from skyriver.serve.fields import Predict, PredictCodec
from skyriver.serve.http import JSON, PROBLEM, TEXT, HttpLimits, HttpServer, Request
from skyriver.serve.marks import COPIED, PLACED
from skyriver.serve.metrics import Counters, peak_bytes, prometheus, resident_bytes
from skyriver.serve.multipart import FORM
from skyriver.serve.protocol import (
    BINARY_HEADER,
    InferCodec,
    NotSupported,
    Reply,
    encode_json,
    error_body,
    error_status,
    extension_of,
)
from skyriver.serve.runner import Runner, Tensors
from skyriver.serve.runs import Runs

if TYPE_CHECKING:  # what only some settings need is loaded with them: a start has somebody waiting
    from skyriver.core.spec_fields import FieldSpec
    from skyriver.release.profiled import ModelProfile
    from skyriver.serve.by_key import AskedByKey, ByKey, FromStream, Verdict
    from skyriver.serve.passing import Sharing, SharingSettings
    from skyriver.serve.prediction_log import PredictionLog
    from skyriver.serve.reader import FeatureReader, FeaturesFound
    from skyriver.serve.shadow import Shadow, ShadowSettings

GRACE_S = 9.0
"""What is under way at the end may take so long; the control plane kills after ten."""
TELL_S = 5.0
"""After so long it reports also what has not changed."""
ID_HEADER = b"x-request-id"
BYTES = b"application/octet-stream"
_RETRY = ((b"retry-after", b"1"),)

Action = Callable[[Request], None]
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    model: str
    version: int
    fields: tuple[FieldSpec, ...] | None = None
    """What /predict takes; None: the model's own inputs."""
    max_batch: int = 256
    """Rows of one run, at most."""
    calibration: Calibration | None = None
    """What was measured of the model; None: `max_batch` is what a run is given."""
    queue: int = 1024
    """Requests that may wait; one more is answered 503."""
    measured_for: Mapping[str, object] = field(default_factory=dict)
    """What the calibration is of, beside the version; nothing: it is not told for who starts later."""
    told: Mapping[str, object] = field(default_factory=dict)
    """What is reported beside the rest, as it is."""
    inline_us: float = INLINE_US
    alone: bool = False
    """No gateway stands in front: what it would do to answers (packing, the request's id) is done here."""
    grace_s: float = GRACE_S
    http: HttpLimits = field(default_factory=HttpLimits)


class Replica:
    """The routes over one loaded model. Made on the loop that serves it."""

    def __init__(self, runner: Runner, settings: ReplicaSettings) -> None:
        self.counters = Counters()
        self._settings = settings
        self._calibration = settings.calibration or Calibration(settings.max_batch, runner.threads)
        self._batch_limit = BatchLimit(self._calibration, settings.max_batch)
        self._start_mb = _megabytes(resident_bytes())
        self._device, self._batching = runner.device, runner.batching
        self._server = HttpServer(self._handle, settings.http)
        self._batcher = Batcher(
            runner,
            asyncio.get_running_loop(),
            self.counters,
            max_rows=self._calibration.max_batch,
            limit=settings.queue,
            inline_us=settings.inline_us,
            score=score_of(runner.signature),
        )
        self._infer = InferCodec(settings.model, settings.version, runner.signature)
        self._predict = PredictCodec(
            settings.model, settings.version, runner.signature, settings.fields, batching=runner.batching
        )
        self._predict_paths = (b"/predict", b"/predict/" + settings.model.encode())
        self._routes = self._make_routes()
        self._by_key: ByKey | None = None
        self._reader: FeatureReader | None = None
        self._shadow: Shadow | None = None
        self._log: PredictionLog | None = None
        self._sharing: Sharing | None = None
        self._score = next(
            (names for names in answer_names(runner.signature) if names[1] == score_of(runner.signature)), None
        )
        self._reported = self.counters.latency_us.counts.copy()
        self._answered, self._active_at = 0, time.time_ns() // 1_000

    async def start(self, listening: socket.socket) -> None:
        await self._server.start(listening)

    async def stop(self) -> int:
        """Accepts no more, answers what is there; returns how many connections had to be cut off."""
        cut = await self._server.stop(self._settings.grace_s)
        self.copy_to(None)
        self.share_by(None)
        if self._reader is not None:
            self._reader.close()
        self._batcher.close()
        return cut

    def read_from(self, declared: FromStream | None) -> None:
        """From now on it is also asked by key, or, with None, no longer."""
        before = self._by_key.declared if self._by_key is not None else None
        if declared == before:
            return
        from skyriver.serve.by_key import ByKey
        from skyriver.serve.reader import FeatureReader

        if self._reader is not None and (declared is None or before is None or declared.place != before.place):
            self._reader.close()
            self._reader = None
        self._by_key = ByKey(declared) if declared is not None else None
        if declared is not None and self._reader is None:
            self._reader = FeatureReader(declared.place, asyncio.get_running_loop())
        action = self._on_predict if declared is None else self._on_predict_by_key
        for path in self._predict_paths:
            self._routes[path] = {b"POST": action}

    def answer_within(self, latency_us: int) -> None:
        """From now on that is the objective, 0 none: how many rows may share a run follows it."""
        self._batch_limit.follow(latency_us)
        self._batcher.max_rows = self._batch_limit.rows

    def copy_to(self, settings: ShadowSettings | None) -> None:
        """From now on another version gets copies of what was asked, or, with None, none does."""
        if settings is not None and self._shadow is not None and self._shadow.settings.version == settings.version:
            self._shadow.follow(settings)
            return
        if self._shadow is not None:
            self._shadow.close()
            self._shadow = None
        if settings is not None:
            from skyriver.serve.shadow import Compared, Shadow

            known = self.counters.latency_us, self._batcher.scores
            compared = Compared(self._score, lambda: known, settings.slower)
            self._shadow = Shadow(settings, compared)

    def share_by(self, settings: SharingSettings | None) -> None:
        """From now on a version has a share of the keys, or, with None, none does."""
        if settings is not None and self._sharing is not None:
            self._sharing.follow(settings)
            return
        if self._sharing is not None:
            self._sharing.close()
            self._sharing = None
        if settings is not None:
            from skyriver.serve.passing import Sharing

            self._sharing = Sharing(settings, self._score, self._server.handle)
        self._server.handler = self._handle if settings is None else self._handle_shared

    @property
    def logged(self) -> str:
        """The digest of the profile by which it counts its predictions; "": it does not."""
        return self._log.digest if self._log is not None else ""

    def log_by(self, profile: ModelProfile | None, digest: str = "") -> None:
        """From now on predictions are counted by the bins of `profile`, or, with None, not at all."""
        self._log = None
        if profile is not None:
            from skyriver.serve.prediction_log import PredictionLog

            self._log = PredictionLog(profile, digest, self._score[1] if self._score is not None else None)
        self._batcher.answered = self._log.answered if self._log is not None else None

    def report(self) -> dict[str, object]:
        """What it says of itself; quantiles are of the requests since the last report."""
        latency = self.counters.latency_us
        before, self._reported = self._reported, latency.counts.copy()
        batches = self.counters.batch_rows
        answered, self._answered = self._answered, self.counters.requests
        if answered != self._answered or self._batcher.waiting or self._batcher.running:
            self._active_at = time.time_ns() // 1_000
        if self._shadow is not None:
            self._shadow.keep_up()
        if self._log is not None:
            self._log.turn()
        runs = batches.count
        self._batch_limit.note(runs, batches.total, self.counters.run_us.total)
        self._batcher.max_rows = self._batch_limit.rows
        return {
            "version": self._settings.version,
            "active_at": self._active_at,
            "requests": self.counters.requests,
            "rows": batches.total,
            "errors": self.counters.errors,
            "refused": self.counters.refused,
            "overloaded": self.counters.overloaded,
            "expired": self.counters.expired,
            "waiting": self._batcher.waiting + self._batcher.running,
            "run_us": self.counters.run_us.total,
            "counted": {"latency_us": latency.told(), "scores": self._batcher.scores.told()},
            "p50_us": round(latency.quantile(0.5, before)),
            "p99_us": round(latency.quantile(0.99, before)),
            "rss_mb": _megabytes(resident_bytes()),
            "peak_mb": _megabytes(peak_bytes()),
            "start_mb": self._start_mb,
            "runs": runs,
            "batch_mean": round(batches.total / max(1, runs), 2),
            **self._measured(),
            **self._curve(),
            **self._never_answered(runs),
            **self._settings.told,
            **({"shadow": self._shadow.report()} if self._shadow is not None else {}),
            **({"sharing": self._sharing.report()} if self._sharing is not None else {}),
            **({"log": self._log.report()} if self._log is not None else {}),
        }

    def _never_answered(self, runs: int) -> dict[str, object]:
        """That a row was ended when it started, until one was not."""
        ended_us = self._calibration.ended_us
        return {"ended_us": round(ended_us)} if ended_us and not runs else {}

    def _measured(self) -> dict[str, object]:
        return {**self._calibration.to_json(), "max_batch": self._batch_limit.rows, "device": self._device}

    def _curve(self) -> dict[str, object]:
        if not (self._settings.measured_for and self._calibration.measured):
            return {}
        found = {"batching": self._batching, **self._batch_limit.curve.to_json()}
        return {"curve": {**self._settings.measured_for, **found}}

    # Routing.

    def _make_routes(self) -> dict[bytes, dict[bytes, Action]]:
        name, version = self._settings.model.encode(), str(self._settings.version).encode()
        model = b"/v2/models/" + name
        routes: dict[bytes, dict[bytes, Action]] = {
            b"/v2": _get(lambda r: r.answer(200, encode_json(server_metadata(__version__)))),
            b"/v2/health/live": _get(lambda r: r.answer(200, b'{"live":true}')),
            b"/v2/health/ready": _get(self._ready),
            b"/livez": _get(lambda r: r.answer(200, b'{"live":true}')),
            b"/readyz": _get(self._ready),
            b"/metrics": _get(self._metrics),
            **{path: {b"POST": self._on_predict} for path in self._predict_paths},
        }
        for base in (model, b"%b/versions/%b" % (model, version)):
            routes[base] = _get(lambda r: r.answer(200, self._infer.metadata(self._measured())))
            routes[base + b"/ready"] = _get(self._ready)
            routes[base + b"/infer"] = {b"POST": self._on_infer}
        return routes

    def _handle(self, request: Request) -> None:
        route = self._routes.get(request.path)
        if route is None:
            if (sent := self._from_replica(request)) is not None:
                self._handle(sent)
                return
            self._fail(request, self._unknown(request.path.decode("latin-1")))
            return
        action = route.get(request.method)
        if action is None:
            allowed = b", ".join(route)
            wrong = f"{request.method.decode()} is not possible here, {allowed.decode()} is."
            body, content_type = self._error(
                request, InvalidInput(wrong, code="WRONG_METHOD", next_action=f"Ask with {allowed.decode()}."), 405
            )
            request.answer(405, body, content_type, ((b"allow", allowed),))
            return
        action(request)

    def _from_replica(self, request: Request) -> Request | None:
        """What another replica asks; None: it is none that does."""
        if request.path.startswith(COPIED):
            from skyriver.serve.shadow import Copied

            return Copied(request)
        if request.path.startswith(PLACED):
            from skyriver.serve.passing import placed_of

            return placed_of(request, self._sharing)
        return None

    def _handle_shared(self, request: Request) -> None:
        """In its place, while another version has a share of the keys."""
        assert self._sharing is not None
        here: Request | None = request
        if b"POST" in self._routes.get(request.path, ()):
            here = self._sharing.take(request)
        if here is not None:
            self._handle(here)

    def _unknown(self, path: str) -> SkyriverError:
        if extension := extension_of(path):
            return NotSupported(
                f"The protocol's extension for {extension} is not there.",
                next_action="GET /v2 tells the extensions that are; models are deployed with `skyriver deploy`.",
            )
        parts = path.split("/")[1:]
        model, version = self._settings.model, str(self._settings.version)
        named = parts[2] if parts[:2] == ["v2", "models"] and len(parts) > 2 else ""
        named = parts[1] if parts[0] == "predict" and len(parts) == 2 else named
        if named and named != model:
            return NotFound(
                f"There is no model {named[:200]!r} here.", code="UNKNOWN_MODEL", next_action=f"Ask for {model}."
            )
        if named and len(parts) > 4 and parts[3] == "versions" and parts[4] != version:
            return NotFound(
                f"There is no version {parts[4][:200]!r} of {model} here.",
                code="UNKNOWN_VERSION",
                next_action=f"Ask for version {version}, or for none: there is one only.",
            )
        return NotFound(
            f"There is no {path[:200]}.",
            code="UNKNOWN_ROUTE",
            next_action=f"Predictions are asked for with POST /v2/models/{model}/infer or /predict/{model}.",
        )

    # Answers that need no model.

    def _ready(self, request: Request) -> None:
        ready = not self._server.draining
        request.answer(200 if ready else 503, encode_json({"ready": ready}))

    def _metrics(self, request: Request) -> None:
        labels = {"model": self._settings.model, "version": str(self._settings.version)}
        text = prometheus(
            self.counters,
            labels,
            waiting=self._batcher.waiting,
            running=self._batcher.running,
            connections=len(self._server.connections),
        )
        request.answer(200, text, TEXT)

    # Predictions. The way of one request: checked, queued, run with those that wait beside it, answered.

    def _on_infer(self, request: Request) -> None:
        try:
            self._check(request)
            asked = self._infer.decode(request.body, request.headers.get(BINARY_HEADER))
            until = _until(request, asked.timeout_us)
            ask = Ask(
                asked.inputs, lambda result: self._answer(request, result, partial(self._infer.encode, asked)), until
            )
            self._batcher.submit(ask)
            request.when_gone = partial(self._batcher.withdraw, ask)
        except SkyriverError as error:
            self._fail(request, error)

    def _on_predict(self, request: Request) -> None:
        try:
            self._check(request)
            self._predict_fields(request)
        except SkyriverError as error:
            self._fail(request, error)

    def _predict_fields(self, request: Request) -> None:
        asked = self._predict.decode(request.body, request.headers.get(b"content-type", b""))
        self._run(request, asked, _until(request, None), partial(self._predict.encode, asked))

    def _run(self, request: Request, asked: Predict, until: int, encode: Callable[[list[Tensors]], Reply]) -> None:
        runs = Runs(self._batcher, asked.runs, until, lambda results: self._answer(request, results, encode))
        runs.begin()
        request.when_gone = runs.give_up

    def _on_predict_by_key(self, request: Request) -> None:
        """As `_on_predict`, with the features read first where they are not given."""
        by_key, reader = self._by_key, self._reader
        assert by_key is not None
        assert reader is not None
        try:
            self._check(request)
            is_form = request.headers.get(b"content-type", b"")[: len(FORM)].lower() == FORM
            asked = None if is_form else by_key.decode(request.body)
            if asked is None:
                self._predict_fields(request)
                return
            until = _until(request, None)
            reader.ask(asked.rows, until, partial(self._found, request, by_key, asked, until))
        except SkyriverError as error:
            self._fail(request, error)

    def _found(
        self, request: Request, by_key: ByKey, asked: AskedByKey, until: int, found: FeaturesFound | SkyriverError
    ) -> None:
        try:
            if request.gone:
                return
            verdict = by_key.judge(asked, found)
            self.counters.found(verdict.instead, (time.perf_counter_ns() - request.arrived_ns) // 1000)
            if not len(verdict.features):
                self._answer(request, [], partial(self._encode_by_key, by_key, asked, verdict, None))
                return
            rows = self._predict.of_features(verdict.features)
            self._run(request, rows, until, partial(self._encode_by_key, by_key, asked, verdict, rows))
        except SkyriverError as error:
            from skyriver.serve.by_key import UNREAD

            self.counters.unread += error.code in UNREAD
            self._fail(request, error)

    def _encode_by_key(
        self, by_key: ByKey, asked: AskedByKey, verdict: Verdict, rows: Predict | None, results: list[Tensors]
    ) -> Reply:
        answered = self._predict.predictions(rows, results) if rows is not None else []
        return self._predict.reply(by_key.answers(verdict, answered), {"as_of": verdict.as_of}, single=asked.single)

    def _check(self, request: Request) -> None:
        """What can be refused before the body is read; unpacks it."""
        self._batcher.check(_until(request, None))
        encoding = request.headers.get(b"content-encoding")
        if encoding is not None and (encoding := encoding.strip().lower()) not in (b"", b"identity"):
            request.unpack(lambda body, limit: unpacked(body, encoding, limit))

    def _answer(self, request: Request, result: Result | SkyriverError, encode: Callable[[Result], Reply]) -> None:
        """Runs in the batcher's turn, so nothing may be raised: the others of the batch want their answers."""
        if isinstance(result, SkyriverError):
            self._fail(request, result)
            return
        try:
            reply = encode(result)
        except Exception:
            _log.exception("an answer could not be written")
            self._fail(request, Internal("The model's answer cannot be written.", code="MODEL_FAILED"))
            return
        if reply.json_size or self._settings.alone:
            self._answer_with_headers(request, reply)
        else:
            request.answer(200, reply.body)
        took_us = (time.perf_counter_ns() - request.arrived_ns) // 1000
        self.counters.answered(200, took_us)
        if self._shadow is not None:
            self._shadow.offer(request, 200, b"" if reply.json_size else reply.body, took_us)

    def _answer_with_headers(self, request: Request, reply: Reply) -> None:
        body, headers = reply.body, self._identity(request)
        if reply.json_size:
            headers += ((BINARY_HEADER, b"%d" % reply.json_size),)
        if self._settings.alone and len(body) >= WORTH_PACKING:
            encoding = encoding_wanted(request.headers.get(b"accept-encoding", b""))
            if encoding:
                body = packed(body, encoding)
                headers += ((b"content-encoding", encoding),)
            headers += ((b"vary", b"accept-encoding"),)
        request.answer(200, body, BYTES if reply.json_size else JSON, headers)

    def _identity(self, request: Request) -> tuple[tuple[bytes, bytes], ...]:
        """The request's own id, given back where no gateway does it."""
        identity = request.headers.get(ID_HEADER) if self._settings.alone else None
        return ((ID_HEADER, identity[:200]),) if identity else ()

    def _fail(self, request: Request, error: SkyriverError) -> None:
        if error.http_status >= 500 and error.code in ("MODEL_FAILED", "INTERNAL"):
            identity = request.headers.get(ID_HEADER, b"-")[:200].decode("latin-1")
            _log.error("%s, request %s: %s", error.code, identity, error, exc_info=error.__cause__)
        is_v2 = request.path.startswith(b"/v2")
        status = error_status(error) if is_v2 else error.http_status
        body, content_type = self._error(request, error, status)
        request.answer(status, body, content_type, (_RETRY if status == 503 else ()) + self._identity(request))
        if request.method == b"POST":
            took_us = (time.perf_counter_ns() - request.arrived_ns) // 1000
            self.counters.answered(status, took_us)
            if self._shadow is not None:
                self._shadow.offer(request, status, b"", took_us)

    def _error(self, request: Request, error: SkyriverError, status: int) -> tuple[bytes, bytes]:
        if request.path.startswith(b"/v2"):
            return error_body(error), JSON
        return encode_json(error.to_problem() | {"status": status}), PROBLEM


def _until(request: Request, timeout_us: int | None) -> int:
    if timeout_us is None and DEADLINE_HEADER not in request.headers:
        return NO_DEADLINE
    now = time.perf_counter_ns()
    return until_ns(request.headers, timeout_us, arrived_ns=request.arrived_ns, now_ns=now, wall=time.time())


def _megabytes(count: int) -> float:
    return round(count / 1e6, 1)


def _get(action: Action) -> dict[bytes, Action]:
    return {b"GET": action, b"HEAD": action}


async def serve_replica(
    runner: Runner,
    settings: ReplicaSettings,
    listening: socket.socket,
    *,
    stop: asyncio.Event,
    report: Callable[[dict[str, object]], None] | None = None,
    report_s: float = 0.5,
    follow: Callable[[Replica], None] = lambda replica: None,
) -> int:
    """Answers on `listening` until `stop` is set, then ends what is under way; returns how many connections
    were cut off. `report` is given what to tell: at once, when something changed (every `report_s` at most), and at
    the end; and every TELL_S, with the time as "told_at": quiet is not stuck. A report that
    cannot be written (a full disk) is tried again: answers need no disk. `follow` is called before it answers and as
    often as `report` may be, to tell it what changed of its settings."""
    replica = Replica(runner, settings)
    follow(replica)
    await replica.start(listening)
    told: dict[str, object] = {}
    told_at = 0.0
    while not stop.is_set():
        follow(replica)
        now = {"ready": True, **replica.report()}
        due = time.monotonic() - told_at >= TELL_S
        if (due or now != told) and _told(report, {**now, "told_at": time.time_ns() // 1_000}):
            told, told_at = now, time.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), report_s)
    _told(report, {"ready": False, **replica.report()})
    cut = await replica.stop()
    _told(report, {"ready": False, **replica.report()})
    return cut


def _told(report: Callable[[dict[str, object]], None] | None, document: dict[str, object]) -> bool:
    if report is None:
        return True
    try:
        report(document)
    except OSError as error:
        _log.warning("the report cannot be written: %s", error)
        return False
    return True
