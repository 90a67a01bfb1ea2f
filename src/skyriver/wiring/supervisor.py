"""The supervisor: `python -m skyriver.wiring.supervisor HOME [foreground]`.

Starts the control plane and the gateway, sees each one's end at once by its pid descriptor and starts it again. One
that runs and does not answer (stopped, dead-locked) is ended first: a stopped process keeps its lock. What runs already
is adopted by identity. It knows nothing else, so that there is little that could end it; when it is gone all the same,
the control plane starts another (`SupervisorKeeper`). The lease SUPERVISOR makes it the only one of its home.

SIGTERM ends the supervisor alone; everything else runs on. In the foreground SIGTERM and SIGINT end the whole cloud, as
`skyriver down` does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from skyriver.adapters.flock.leases import FileLeases
from skyriver.adapters.haproxy.gateway import HaproxyGateway
from skyriver.adapters.processes.identity import Identity, age_seconds, identify, readable
from skyriver.control.outliers import LOOK_SECONDS
from skyriver.core.errors import Conflict, Internal, SkyriverError
from skyriver.core.leases import Lease
from skyriver.wiring.gateway import gateway_of, gateways_of, renew_own
from skyriver.wiring.home import Home
from skyriver.wiring.living import is_stopped, terminate
from skyriver.wiring.process import write_atomically
from skyriver.wiring.recording import record_requests
from skyriver.wiring.unwatched import Unwatched
from skyriver.wiring.watched import (
    ANSWER_SECONDS,
    SUPERVISOR,
    ControlPlane,
    Gateway,
    Part,
    PartState,
    read_parts,
    running_supervisor,
    start_module,
)

LEASE_US: Final = 4_000_000
TAKE_OVER_TRIES: Final = 3
FOREGROUND: Final = "foreground"

CHECK_SECONDS = 1.0
"""Between two questions to a part whether it answers; its end is seen at once, without asking."""
HUNG_SECONDS = 6.0
"""A part that answered before and has not since for so long is ended; twice as long after each time that it was."""
SLOW_START_SECONDS = 60.0
"""The same for one that has not answered yet: a migration may be under way."""
STEADY_SECONDS = 3.0
"""One that lived so long is started again at once; else pauses double, from FIRST_ up to MAX_PAUSE_SECONDS."""
FIRST_PAUSE_SECONDS = 0.25
MAX_PAUSE_SECONDS = 5.0
PROBLEM_PAUSE_SECONDS = 10.0
"""After a start that failed for a reason which stays until somebody mends it: a port in use, a full disk."""
STOPPED_LOOKS = 3
KEPT_ENDS = 100
UNSEEN: Final = "ended while no supervisor looked"
"""Why a part is another process than the supervisor before knew; it is counted when that is found."""
log = logging.getLogger("skyriver.supervisor")


class Looker:
    """Looks how the servers behind the gateway answer: the control plane may be away."""

    def __init__(self, home: Home, stop: Stop) -> None:
        self._home = home
        self._stop = stop
        self._out: dict[str, int] = {}

    def run(self) -> None:
        gateway: HaproxyGateway | None = None
        pause = LOOK_SECONDS
        while not self._stop.wait(pause):
            pause = LOOK_SECONDS
            try:
                gateway = gateway or gateway_of(self._home)
                self._tell(dict(gateway.look()))
            except (SkyriverError, OSError):
                continue  # it is away, and who watches it brings it back
            except Exception:  # without this thread a slow server would stay as it is
                log.exception("the servers of the gateway could not be looked at")
                pause = PROBLEM_PAUSE_SECONDS

    def _tell(self, out: dict[str, int]) -> None:
        for name in out.keys() - self._out.keys():
            log.warning("%s answers much slower than its siblings, or fails: it gets no requests for a while", name)
        for name in self._out.keys() - out.keys():
            log.info("%s gets its share of the requests again", name)
        self._out = out


class Watch:
    """One part, kept running by a thread of its own until `stop`."""

    def __init__(self, part: Part, state: PartState, stop: Stop, home: Home, tell: Callable[[], None]) -> None:
        self._part = part
        self._state = state
        self._stop = stop
        self._home = home
        self._tell = tell
        self._failures = 0
        """Ends in a row that came soon after the start."""
        self._hung = 0

    def run(self) -> None:
        while not self._stop.wait(0.0) and self._part.wanted():
            try:
                self._keep_running()
            except SkyriverError as error:
                self._keep_problem(error.to_problem())
            except OSError as error:
                self._keep_problem(self._not_started(str(error)))
            except Exception as error:  # without this thread nobody would look after the part any more
                log.exception("the %s could not be looked after", self._part.name)
                self._keep_problem(self._not_started(f"{type(error).__name__}: {error}"))
            else:
                continue
            self._stop.wait(PROBLEM_PAUSE_SECONDS)

    def _keep_running(self) -> None:
        """From its start to its end, and the pause after it."""
        if self._home.stopping.exists():
            self._stop.wait(CHECK_SECONDS)
            return
        started = time.monotonic()
        identity = self._part.start()
        if self._state.pid not in (0, identity.pid):
            self._count_end(UNSEEN)
        self._state.pid = identity.pid
        self._state.since = _now() - int(age_seconds(identity) * 1e6)  # one that is adopted is older than its adoption
        log.info("%s runs as pid %d", self._part.name, identity.pid)
        self._tell()
        hung = self._until_end(identity)
        if not self._stop.wait(0.0) and self._part.wanted():
            self._stop.wait(self._note_end(identity, hung=hung, lived=time.monotonic() - started))

    def _not_started(self, why: str) -> dict[str, Any]:
        action = f"Mend that; it is tried again by itself. The log is {self._home.logs / 'supervisor.log'}."
        return Internal(
            f"The {self._part.name} could not be started: {why}.", code="NOT_STARTED", next_action=action
        ).to_problem()

    def _until_end(self, identity: Identity) -> bool:
        """Returns when it ended, or `stop` was called; whether it was ended here because it did not answer."""
        try:
            descriptor = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return False
        try:
            if not identity.alive():  # the number is another process's by now
                return False
            answered, ever = time.monotonic(), False
            while not self._stop.wait(CHECK_SECONDS if ever else 0.1, descriptor):
                if readable(0.0, descriptor) or not self._part.wanted():
                    return False
                slow = not ever and not is_stopped(identity)  # a stopped one is not on its way
                patience = (SLOW_START_SECONDS if slow else HUNG_SECONDS) * 2**self._hung
                if self._part.answers():
                    answered = time.monotonic()
                    ever = ever or self._answered_first()
                elif time.monotonic() - answered > patience and not readable(0.0, descriptor):
                    log.warning("%s (pid %d) has not answered for %.0f s", self._part.name, identity.pid, patience)
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    readable(10.0, descriptor)
                    return True
            return False
        finally:
            os.close(descriptor)

    def _answered_first(self) -> bool:
        if self._state.problem is not None:
            self._state.problem = None
            self._tell()
        return True

    def _note_end(self, identity: Identity, *, hung: bool, lived: float) -> float:
        """Keeps that and how it ended; the pause until it is started again."""
        why, problem = self._part.ended(identity)
        if hung:
            why = "did not answer, was ended"
        self._hung = min(self._hung + 1, 4) if hung else 0
        self._failures = self._failures + 1 if lived < STEADY_SECONDS else 0
        self._count_end(why)
        self._state.pid, self._state.since = 0, _now()
        log.warning("%s (pid %d) %s after %.1f s", self._part.name, identity.pid, why, lived)
        if problem is not None:
            self._keep_problem(problem)
            return PROBLEM_PAUSE_SECONDS
        self._tell()
        if self._failures < 2:
            return 0.0
        return min(FIRST_PAUSE_SECONDS * 2.0 ** (self._failures - 2), MAX_PAUSE_SECONDS)

    def _count_end(self, why: str) -> None:
        self._state.restarts += 1
        self._state.ends = [*self._state.ends[1 - KEPT_ENDS :], {"at": _now(), "why": why}]

    def _keep_problem(self, document: dict[str, Any]) -> None:
        if self._state.problem != document:
            log.error("%s: %s %s", self._part.name, document["code"], document["detail"])
        self._state.pid, self._state.problem, self._state.problem_at = 0, document, _now()
        self._tell()


class Stop:
    """Set once, by a signal's handler too; waiting for it and for a process at once is possible."""

    def __init__(self) -> None:
        self._event = os.eventfd(0)

    def set(self) -> None:
        os.eventfd_write(self._event, 1)

    def wait(self, seconds: float | None, descriptor: int | None = None) -> bool:
        """Whether it is set; returns after `seconds` too, and when `descriptor` can be read."""
        wanted = [self._event] if descriptor is None else [self._event, descriptor]
        return self._event in readable(seconds, *wanted)


class Supervisor:
    def __init__(self, home: Home, *, foreground: bool) -> None:
        self._home = home
        self._foreground = foreground
        self._started = _now()
        self._stop = Stop()
        self._states = read_parts(home)
        for state in self._states.values():
            state.problem = None
        self._telling = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._bad_certificate = ""
        self._gateways = 0
        """Of the gateway's processes so many are watched."""

    def run(self) -> None:
        """Until a signal."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        self._tell()
        self._watch_gateways()
        self._watch(ControlPlane(self._home))
        self._begin(Looker(self._home, self._stop).run)
        self._begin(lambda: record_requests(self._home, self._stop.wait))
        unwatched = Unwatched(lambda: gateway_of(self._home), ControlPlane(self._home).answers, self._stop.wait)
        self._begin(unwatched.run)
        if self._foreground:
            self._begin(self._show_control_log)
        while not self._stop.wait(CHECK_SECONDS):
            self._watch_gateways()
            self._renew_certificate()
        for thread in self._threads:
            thread.join(ANSWER_SECONDS)  # one that is starting something may take longer, and is not waited for

    def _watch_gateways(self) -> None:
        """As many as the settings say now; who watches one too many ends by itself."""
        wanted = gateways_of(self._home)
        for number in range(self._gateways + 1, wanted + 1):
            self._watch(Gateway(self._home, number))
        if wanted < self._gateways:
            with contextlib.suppress(SkyriverError, OSError):
                gateway_of(self._home).start()  # ends those that are too many
            for number in range(wanted + 1, self._gateways + 1):
                self._states.pop(f"gateway-{number}", None)
            self._tell()
        self._gateways = wanted

    def _renew_certificate(self) -> None:
        """Whoever renews it replaces its files; nobody has to tell us. One of our own is renewed here."""
        bad = ""
        try:
            renew_own(self._home)
            if gateway_of(self._home).renew():
                log.info("the gateway has another certificate")
        except (SkyriverError, OSError, ValueError) as error:
            bad = str(error)
            if bad != self._bad_certificate:
                log.error("the gateway keeps the certificate that it has: %s", error)
        self._bad_certificate = bad

    def _watch(self, part: Part) -> None:
        state = self._states.setdefault(part.name, PartState())
        self._begin(Watch(part, state, self._stop, self._home, self._tell).run)

    def _begin(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _tell(self) -> None:
        """The run file. A full disk does not end the supervisor: what it keeps running matters more."""
        mine = identify(os.getpid())
        with self._telling:
            document = {
                **(asdict(mine) if mine else {}),
                "started_at": self._started,
                "foreground": self._foreground,
                "parts": {name: asdict(state) for name, state in list(self._states.items())},
            }
            try:
                write_atomically(self._home.supervisor_run, json.dumps(document).encode())
            except OSError as error:
                log.warning("the run file could not be written: %s", error)

    def _show_control_log(self) -> None:
        path = self._home.logs / "control.log"
        at = path.stat().st_size if path.exists() else 0
        while not self._stop.wait(0.25):
            with contextlib.suppress(OSError), path.open("rb") as file:
                at = at if file.seek(0, os.SEEK_END) >= at else 0  # it was set aside and begun anew
                file.seek(at)
                os.write(2, file.read())
                at = file.tell()


class SupervisorKeeper:
    """The control plane's part: a supervisor that is gone is started again, and one that was stopped (SIGSTOP) is ended
    first; `look` is called once a second."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = 0
        """Looks in a row at which it was found stopped."""

    def look(self) -> None:
        running = running_supervisor(self._home)
        self._stopped = self._stopped + 1 if running is not None and is_stopped(running) else 0
        if running is not None and self._stopped >= STOPPED_LOOKS:
            log.warning("the supervisor (pid %d) is stopped, and is ended", running.pid)
            terminate(running, 0.0)
        if self._child is not None and self._child.poll() is None:
            return  # it runs, or is about to find that another one does
        if running_supervisor(self._home) is None and not self._home.stopping.exists():
            with contextlib.suppress(OSError):  # tried again with the next look
                self._child = start_module(self._home, SUPERVISOR)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    home = Home.at(sys.argv[1])
    foreground = FOREGROUND in sys.argv[2:]
    home.make()
    os.chdir(home.root)
    leases = FileLeases(home.leases)
    try:
        lease = _become_the_only_one(leases, foreground=foreground)
    except Conflict:
        return 0  # another one is there
    except SkyriverError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if home.stopping.exists():
        return 0
    Supervisor(home, foreground=foreground).run()
    if foreground and not home.stopping.exists():
        from skyriver.wiring.ending import down  # weight that watching does without

        try:
            log.info("ended: %s", ", ".join(down(home)))
        except SkyriverError as error:
            log.error("%s: %s %s", error.code, error, error.next_action)
            return error.exit_code
    leases.release(lease)
    return 0


def _become_the_only_one(leases: FileLeases, *, foreground: bool) -> Lease:
    """In the foreground it takes the place of one that runs: an init system started it, or a person did. The control
    plane may start another in between, which is ended then."""
    for left in reversed(range(TAKE_OVER_TRIES if foreground else 1)):
        try:
            take = leases.take_over if foreground else leases.acquire
            return take(SUPERVISOR, "the supervisor", ttl_us=LEASE_US)
        except Conflict:
            if not left:
                raise
    raise AssertionError("unreachable")


def _now() -> int:
    return time.time_ns() // 1_000


if __name__ == "__main__":
    sys.exit(main())
