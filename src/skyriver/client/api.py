"""The Python client: everything a user does, over HTTP.

    cloud = Client("http://127.0.0.1:7470", token)
    cloud.predict("fraud", {"amount": 12.5, ...})
    cloud.send("payments", [{"payment": 1, ...}], wait=True)

What fails raises a type of `skyriver.core.errors`. Sending events is safe to repeat: an event is known by its id, so
`send` tries again while the worker is away, and nothing is decided twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from skyriver.core.errors import JobFailed, SkyriverError, Unavailable, from_problem

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
RETRY_SECONDS = 30.0
"""For how long sending events goes on trying while a part is away."""
POLL_SECONDS = 0.1


class Client:
    """One connection pool to one cloud; use it from one thread, or one client a thread."""

    def __init__(self, url: str, token: str, *, tenant: str = "default", timeout: httpx.Timeout = TIMEOUT) -> None:
        self.url = url
        self.tenant = tenant
        # A proxy of the environment knows no way to this machine's loopback, and plain HTTP needs no certificates,
        # whose loading takes 30 ms.
        local = httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout,
            trust_env=not local,
            verify=not url.startswith("http://"),
        )
        self._base = f"/api/v1/tenants/{tenant}"

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Applications and operations

    def upload(self, path: Path, progress: Callable[[int, int], None] | None = None) -> str:
        """Sends a file of any size; returns its SHA-256."""
        total = path.stat().st_size

        def chunks() -> Iterator[bytes]:
            sent = 0
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    yield piece
                    sent += len(piece)
                    if progress is not None:
                        progress(sent, total)

        answer = self._json("POST", f"{self._base}/objects", content=chunks(), timeout=None)
        return str(answer["digest"])

    def upload_bytes(self, data: bytes) -> str:
        return str(self._json("POST", f"{self._base}/objects", content=data)["digest"])

    def deploy(
        self, app: str, body: Mapping[str, Any], *, dry_run: bool = False, prune: bool = False
    ) -> dict[str, Any]:
        """The plan for an application and, unless `dry_run`, its doing; idempotent."""
        params = {"dry_run": dry_run, "prune": prune}
        return self._json("PUT", f"{self._base}/apps/{app}", json=dict(body), params=params)

    def act(
        self,
        action: str,
        target: str,
        *,
        params: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> str:
        """Asks for an action (load, train, rollback, verify); returns the name of the operation to wait for."""
        body = {"target": target, "params": dict(params or {}), "inputs": dict(inputs or {})}
        return str(self._json("POST", f"{self._base}/actions/{action}", json=body)["operation"])

    def wait(
        self, operation: str, *, timeout: float = 3_600.0, told: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """The operation once it succeeded; `told` gets it at every look. Raises JobFailed when it did not succeed, and
        Unavailable (NOT_FINISHED) past `timeout` seconds; it goes on then."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.get("operations", operation)
            if told is not None:
                told(found)
            match found["state"]:
                case "SUCCEEDED":
                    return found
                case "FAILED" | "CANCELLED":
                    failed = found["status"].get("failed", operation)
                    raise JobFailed(
                        found["message"] or f"{operation} was {found['state'].lower()}.",
                        code=found["reason"] or "JOB_FAILED",
                        where=failed,
                        next_action=found["next_action"] or f"`skyriver explain {failed}` tells more.",
                    )
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{operation} has not finished within {timeout:g} s; it goes on.", code="NOT_FINISHED"
                )
            time.sleep(POLL_SECONDS)

    def get(self, kinds: str, name: str) -> dict[str, Any]:
        return self._json("GET", f"{self._base}/{kinds}/{name}")

    def list(self, kinds: str) -> Iterator[dict[str, Any]]:
        """All of a kind (plural, as in "jobs"), page by page."""
        cursor = ""
        while cursor is not None:
            page = self._json("GET", f"{self._base}/{kinds}", params={"cursor": cursor})
            yield from page["items"]
            cursor = page["next"]

    def explain(self, name: str) -> Sequence[dict[str, Any]]:
        found: Sequence[dict[str, Any]] = self._json("GET", f"{self._base}/explain/{name}")["items"]
        return found

    def processes(self) -> Sequence[dict[str, Any]]:
        found: Sequence[dict[str, Any]] = self._json("GET", f"{self._base}/processes")["items"]
        return found

    def logs(self, name: str, offset: int = -16_384) -> Sequence[dict[str, Any]]:
        answer = self._json("GET", f"{self._base}/logs/{name}", params={"offset": offset})
        found: Sequence[dict[str, Any]] = answer["items"]
        return found

    def whoami(self) -> dict[str, Any]:
        return self._json("GET", "/api/v1/whoami")

    def object(self, digest: str) -> bytes:
        return self._send("GET", f"{self._base}/objects/{digest}").content

    # Predictions, events and labels

    def predict(self, model: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """One prediction from named fields, or many from {"rows": [...]}."""
        return self._json("POST", f"/predict/{model}", json=dict(row))

    def infer(self, model: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """One request of the Open Inference Protocol v2."""
        return self._json("POST", f"/v2/models/{model}/infer", json=dict(request))

    def send(
        self,
        stream: str,
        events: Sequence[Mapping[str, Any]],
        *,
        wait: bool = False,
        retry_seconds: float = RETRY_SECONDS,
    ) -> dict[str, Any]:
        """Sends events; returns once they are durable and, with `wait`, decided. While the worker is away or its
        queue is full it tries again with growing pauses, for at most `retry_seconds`."""
        params = {"wait": "decision"} if wait else {}
        return self._repeat(f"/streams/{stream}/events", events, params, retry_seconds)

    def send_labels(
        self, stream: str, labels: Sequence[Mapping[str, Any]], *, retry_seconds: float = RETRY_SECONDS
    ) -> dict[str, Any]:
        """Sends what turned out to be true: [{"payment": 17, "fraud": 1}]."""
        return self._repeat(f"/streams/{stream}/labels", labels, {}, retry_seconds)

    def stream_status(self, stream: str) -> dict[str, Any]:
        return self._json("GET", f"/streams/{stream}")

    def decision(self, stream: str, event: int | str) -> dict[str, Any]:
        """The decision on one event, by its id."""
        return self._json("GET", f"/streams/{stream}/decisions/{event}")

    def _repeat(
        self, path: str, rows: Sequence[Mapping[str, Any]], params: Mapping[str, str], retry_seconds: float
    ) -> dict[str, Any]:
        body = json.dumps(list(rows)).encode()
        headers = {"Content-Type": "application/json"}
        deadline = time.monotonic() + retry_seconds
        pause = 0.05
        while True:
            try:
                return self._json("POST", path, content=body, headers=headers, params=dict(params))
            except SkyriverError as error:
                if error.http_status not in (429, 503) or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)

    # The way to the server

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._send(method, path, **options).json()
        return answer

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TimeoutException as error:
            raise Unavailable(f"{self.url} did not answer in time.", code="TIMED_OUT") from error
        except httpx.TransportError as error:
            raise Unavailable(
                f"{self.url} does not answer: {error}.",
                code="CLOUD_AWAY",
                next_action="`skyriver up` starts the cloud.",
            ) from error
        if response.is_success:
            return response
        failed = from_problem(response.status_code, _problem(response))
        if failed.code in ("UNKNOWN_ROUTE", "NO_CAPACITY"):  # the gateway knows no names
            failed.where = path
        raise failed


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        found = None
    if isinstance(found, dict):
        return {"detail": found.get("error", ""), **found} if "detail" not in found else found
    return {"detail": f"The server answered {response.status_code}: {response.text[:200]}"}
