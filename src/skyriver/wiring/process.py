"""What every child process of the control plane does alike: its configuration, its report, its live settings."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from skyriver.core.errors import InvalidInput, SkyriverError

LOOK_SECONDS = 2.0
"""Between two looks at the run file."""
STRAY_SECONDS = 5.0
"""For so long the run file must name another process: the control plane may be putting it right."""
END_SECONDS = 12.0
"""From asking itself to end to doing so."""
_log = logging.getLogger(__name__)


class SystemClock:
    def wall(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> int:
        return time.monotonic_ns() // 1000


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces `path`: a reader sees the old bytes or the new ones, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
    except OSError:  # a full disk: what did fit is room for others
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def keep_log(path: Path) -> None:
    """Goes on in a new file `path` where the one that this process prints into was removed."""
    with contextlib.suppress(OSError):
        seen = os.fstat(sys.stderr.fileno())
        if not stat.S_ISREG(seen.st_mode) or seen.st_nlink:
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(log, descriptor)
        os.close(log)


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


@dataclass(slots=True)
class ProcessContext:
    """The configuration that the control plane wrote for this process, and the files they speak through."""

    name: str
    tenant: str
    home: Path
    socket: Path
    status_file: Path
    live_file: Path
    run_file: Path | None
    work_dir: Path
    token: str
    config: Mapping[str, Any]
    watched: bool = False
    """A watcher above it looks at the run file."""
    _seen: tuple[int, int] = field(default=(0, 0))

    def report(self, status: Mapping[str, Any], encode: Callable[[object], bytes] = _json) -> None:
        """Replaces this process's report; the control plane reads it when it is there, and after it was away."""
        write_atomically(self.status_file, encode({"pid": os.getpid(), "token": self.token, **status}))

    def tell(self, status: Mapping[str, Any]) -> bool:
        """Reports if it can. False: the disk is full, say, and it is to be told again; what a process does must not end
        with that."""
        try:
            self.report(status)
        except OSError as error:
            _log.warning("the report cannot be written: %s", error)
            return False
        return True

    def wait_until_recorded(self, seconds: float = 10.0) -> None:
        """Returns once the run file names this very process. When it never does, the start was cut off half-way:
        nobody knows of this process, so it ends itself (SystemExit)."""
        if self.run_file is None:
            return
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._recorded_token() == self.token:
                return
            time.sleep(0.01)
        raise SystemExit(f"{self.name}: no run file names this process; the start was cut off. Ending.")

    def end_when_unknown(self) -> None:
        """From now on this process ends itself when for STRAY_SECONDS its run file names another one, or the home is
        gone: a control plane that had outlived its term may have started it."""
        if self.run_file is not None and not self.watched:
            threading.Thread(target=self._follow_run_file, name="run file", daemon=True).start()

    def _follow_run_file(self) -> None:
        since = 0.0
        while not since or time.monotonic() < since + STRAY_SECONDS:
            time.sleep(LOOK_SECONDS)
            token = self._recorded_token()
            stray = token not in ("", self.token) or not self.home.exists()
            since = (since or time.monotonic()) if stray else 0.0
        print(f"{self.name}: the cloud does not know this process any more. Ending.", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END_SECONDS)
        os._exit(1)

    def _recorded_token(self) -> str:
        """ "" where there is no run file, or none that can be read."""
        if self.run_file is not None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                return str(json.loads(self.run_file.read_bytes())["token"])
        return ""

    def live_now(self) -> dict[str, Any]:
        """The live settings as they are, for who starts; `live` gives them once more."""
        try:
            settings: dict[str, Any] = json.loads(self.live_file.read_bytes())
        except FileNotFoundError:
            return {}
        return settings

    def live(self) -> dict[str, Any] | None:
        """The live settings if they changed since the last call, else None."""
        try:
            stat = self.live_file.stat()
        except FileNotFoundError:
            return None
        seen = (stat.st_mtime_ns, stat.st_ino)
        if seen == self._seen:
            return None
        settings: dict[str, Any] = json.loads(self.live_file.read_bytes())
        self._seen = seen
        return settings


def read_config(argv: Sequence[str] = sys.argv) -> ProcessContext:
    if len(argv) != 2:
        raise InvalidInput(
            "This process is started by the control plane, with its configuration file.",
            next_action="Start the cloud with `skyriver up`.",
        )
    document = json.loads(Path(argv[1]).read_bytes())
    process = document["process"]
    context = ProcessContext(
        name=process["name"],
        tenant=process["tenant"],
        home=Path(process["home"]),
        socket=Path(process["socket"]),
        status_file=Path(process["status_file"]),
        live_file=Path(process["live_file"]),
        run_file=Path(process["run_file"]) if "run_file" in process else None,
        work_dir=Path(process["work_dir"]),
        token=process["token"],
        config=document["config"],
        watched=process.get("watched", False),
    )
    os.chdir(context.work_dir)
    context.wait_until_recorded()
    context.end_when_unknown()
    return context


def run_to_end(what: str, work: Callable[[ProcessContext], SkyriverError | None]) -> NoReturn:
    """A process of a stream, from its configuration to its end. What it fails at, by error or as `work` gives it, is in
    its log and in its last report."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    context = read_config(sys.argv)
    try:
        failed = work(context)
    except SkyriverError as error:
        failed = error
    if failed is not None:
        _log.error("the %s ends: %s", what, failed, exc_info=failed.__cause__)
        told = {"reason": failed.code, "message": failed.message, "next_action": failed.next_action}
        context.tell({"ready": False, **told})
    logging.shutdown()
    sys.stdout.flush()
    # What waits for a network in a thread must not hold up the end, and a late model would abort the interpreter's.
    os._exit(failed.exit_code if failed is not None else 0)
