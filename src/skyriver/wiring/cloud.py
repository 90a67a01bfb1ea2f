"""Starting the cloud of a home: what `skyriver up` does."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from skyriver import __version__
from skyriver.adapters.haproxy import port as ports
from skyriver.adapters.haproxy.process import numbers, recorded
from skyriver.adapters.processes.identity import Identity
from skyriver.core.errors import Conflict, Unavailable, from_problem
from skyriver.core.tls import TlsChoice
from skyriver.wiring.address import CloudAddress, address, token_of
from skyriver.wiring.ending import end_everything, end_supervision, only_command
from skyriver.wiring.gateway import gateway_of, gateways_of, https_of, keep_tls, recorded_of
from skyriver.wiring.home import DEFAULT_PORT, Home, port_of_environment
from skyriver.wiring.living import is_stopped, processes_of, terminate
from skyriver.wiring.parts import trouble_of
from skyriver.wiring.supervisor import FOREGROUND, UNSEEN
from skyriver.wiring.tier import keep_tier_settings
from skyriver.wiring.watched import SUPERVISOR, read_parts, running_supervisor, start_module

START_SECONDS = 60.0
SERVE_SECONDS = 20.0
"""For how long `up` waits for what served before; what takes longer is told by `skyriver ps`."""
CRASHES = 3
"""Ends of a control plane that tells no reason, in one `up`, until that is a failed start."""

_SERVING = ("streams", "services")


def up(
    home: Home,
    port: int | None,
    told: Callable[[str], None] = lambda text: None,
    *,
    gateways: int | None = None,
    tls: TlsChoice | None = None,
    access_log: str = "",
) -> CloudAddress:
    """Starts the cloud of `home` unless it runs; idempotent, and what is missing of one that runs is brought back. It
    listens on `port`, else SKYRIVER_PORT, else the port of the last start, else DEFAULT_PORT, with so many `gateways`
    (None: as many as before). What served before the last `down` serves again when this returns.

    Raises Conflict (PORT_IN_USE), what keeps `SKYRIVER_TIER` from being used, what the control plane could not mend, or
    Unavailable with the last lines of its log; then nothing runs that did not before.
    """
    home.make()
    with only_command(home, "skyriver up", told):
        home.stopping.unlink(missing_ok=True)
        before = home.settings()
        keep_tier_settings(home, runs=bool(processes_of(home)), told=told)
        supervisor = _supervisor(home)
        _choose_port(home, port)
        _choose_gateways(home, gateways)
        _choose_tls(home, tls, told)
        _choose_recorded(home, access_log)
        shown = home.token.exists() and before.get("token_shown", False)
        if supervisor is not None and (other := _other_version(home)):
            told(f"Version {other} runs here and becomes {__version__}; what it serves goes on meanwhile.")
            end_supervision(home)
            supervisor = None
        if supervisor is not None and _control_ready(home) and _answers(home):
            _wait_gateways(home)
            tell_trouble(home, told)
            return address(home, fresh=False, started=False)
        if supervisor is None:
            _start(home, before)
        else:
            _wait_ready(home, None, time.time_ns() // 1_000)
        _wait_gateways(home)
        home.write_settings({**home.settings(), "token_shown": True})
    found = address(home, fresh=not shown, started=True)
    _wait_serving(found)
    tell_trouble(home, told)
    return found


def tell_trouble(home: Home, told: Callable[[str], None]) -> None:
    """It runs, and may not be able to do its work."""
    if trouble := trouble_of(home):
        action = trouble.get("next_action", "")
        told(f"Its control plane is in trouble, {trouble['code']}: {trouble['detail']} {action}".strip())


def serve_in_foreground(
    home: Home,
    port: int | None,
    told: Callable[[str], None],
    *,
    gateways: int | None = None,
    tls: TlsChoice | None = None,
    access_log: str = "",
) -> NoReturn:
    """This process becomes the supervisor. What runs is adopted; a supervisor that runs is replaced.

    Raises Conflict (PORT_IN_USE), what keeps `SKYRIVER_TIER` from being used.
    """
    home.make()
    with only_command(home, "skyriver up --foreground", told):
        home.stopping.unlink(missing_ok=True)
        keep_tier_settings(home, runs=bool(processes_of(home)), told=told)
        chosen = _choose_port(home, port)
        _choose_gateways(home, gateways)
        _choose_tls(home, tls, told)
        _choose_recorded(home, access_log)
        gateway = recorded(home.gateway)
        if gateway is None or not gateway.identity.alive():
            ports.check_free("127.0.0.1", chosen)
    if processes_of(home):
        told(f"The cloud in {home.root} runs already, at http://127.0.0.1:{chosen}: this takes over what runs.")
        told("Ctrl-C ends it all.")
    else:
        told(f"The cloud in {home.root} comes up at http://127.0.0.1:{chosen}; Ctrl-C ends it.")
    told(f"Its administrator's token is in {home.token}.")
    command = [sys.executable, "-m", f"skyriver.wiring.{SUPERVISOR}", str(home.root), FOREGROUND]
    os.execv(sys.executable, command)


def _choose_port(home: Home, port: int | None) -> int:
    """The port that the cloud listens on from now on, written into its settings."""
    known = home.settings()
    port = port or port_of_environment()
    chosen = port or int(known.get("port", DEFAULT_PORT))
    if chosen != known.get("port") and "port" in known and processes_of(home):
        raise Conflict(
            f"The cloud in {home.root} runs on port {known['port']}.",
            code="ALREADY_RUNNING",
            next_action="`skyriver down` first, to start it on another port.",
        )
    if known.get("port") != chosen:
        home.write_settings({**known, "port": chosen})
    return chosen


def _choose_gateways(home: Home, gateways: int | None) -> None:
    """A supervisor that runs sees it within a second."""
    known = home.settings()
    if gateways is not None and gateways != known.get("gateways", 1):
        home.write_settings({**known, "gateways": gateways})


def _choose_tls(home: Home, tls: TlsChoice | None, told: Callable[[str], None]) -> None:
    if tls is None:
        return
    before = https_of(home)
    found = keep_tls(home, tls)
    if https_of(home) != before and processes_of(home):
        # Another way to listen is another process: it takes the listening sockets over, and what runs ends there.
        gateway_of(home).start()
    if found is not None:
        until = time.strftime("%Y-%m-%d", time.gmtime(found.ends))
        told(f"HTTPS at {https_of(home)}, for {', '.join(found.names) or 'no name'}, until {until}.")


def _choose_recorded(home: Home, access_log: str) -> None:
    """Which requests are recorded: all, errors, off, or "" for as before."""
    if not access_log or access_log == recorded_of(home):
        return
    home.write_settings({**home.settings(), "access_log": access_log})
    if processes_of(home):
        gateway_of(home).start()  # another process takes the listening sockets over, and what runs ends there


def _wait_gateways(home: Home) -> None:
    """Returns once as many processes of the gateway run as the settings say, or SERVE_SECONDS have passed."""
    wanted, deadline = list(range(1, gateways_of(home) + 1)), time.monotonic() + SERVE_SECONDS
    while time.monotonic() < deadline:
        running = [n for n in numbers(home.gateway) if (run := recorded(home.gateway, n)) and run.identity.alive()]
        if running == wanted:
            return
        time.sleep(0.02)


def _supervisor(home: Home) -> Identity | None:
    """The one that runs and can work."""
    found = running_supervisor(home)
    if found is not None and is_stopped(found):
        terminate(found, 0.0)
        return None
    return found


def _other_version(home: Home) -> str:
    """The version of the package that the running control plane is of; "" when it is this one, or none runs."""
    try:
        told = json.loads(home.control_run.read_bytes())
        version = str(told.get("version") or "before 0.1.0")
    except (OSError, AttributeError, ValueError):
        return ""
    return version if version != __version__ else ""


def _control_ready(home: Home) -> bool:
    try:
        told = json.loads(home.control_run.read_bytes())
        return bool(told["ready"]) and Identity(told["pid"], told["start_time"], told["boot"]).alive()
    except (OSError, KeyError, TypeError, ValueError):  # not synced: any bytes after a power cut
        return False


def _start(home: Home, before: dict[str, Any]) -> None:
    """Starts a supervisor; when the cloud does not get ready, what runs and the settings are as before."""
    found = processes_of(home)
    begun = time.time_ns() // 1_000
    child = start_module(home, SUPERVISOR)
    try:
        _wait_ready(home, child, begun)
    except BaseException:  # Ctrl-C too
        if found:
            end_supervision(home)
        else:
            end_everything(home)
        home.write_settings(before)
        raise


def _wait_ready(home: Home, supervisor: subprocess.Popen[bytes] | None, begun: int) -> None:
    """`supervisor` is the process if it was started here; what failed before `begun` (wall microseconds) does not
    count."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if _control_ready(home) and _answers(home):
            return
        parts = read_parts(home)
        for part in parts.values():
            if part.problem is not None and part.problem_at >= begun:
                raise from_problem(part.problem["status"], part.problem)
        ends = [end for end in parts["control"].ends if end["at"] >= begun and end["why"] != UNSEEN]
        if len(ends) >= CRASHES:
            raise _not_ready(home, "control", f"The control plane ended {CRASHES} times")
        if supervisor is not None and supervisor.poll() is not None and running_supervisor(home) is None:
            raise _not_ready(home, SUPERVISOR, "The supervisor ended")
        time.sleep(0.02)
    raise _not_ready(home, "control", f"The control plane did not get ready within {START_SECONDS:.0f} s")


def _not_ready(home: Home, module: str, what: str) -> Unavailable:
    path = home.logs / f"{module}.log"
    with contextlib.suppress(OSError):
        if tail := path.read_text(errors="replace").splitlines()[-5:]:
            what += f": {' | '.join(tail)}"
    return Unavailable(
        f"{what}.", code="CONTROL_NOT_READY", next_action=f"Its log is {path}; `skyriver ps` tells more."
    )


def _answers(home: Home) -> bool:
    """Whether the control plane answers through the gateway, and the gateway knows the token."""
    port = int(home.settings()["port"])
    token = token_of(home)
    request = f"GET /api/v1/whoami HTTP/1.0\r\nHost: skyriver\r\nAuthorization: Bearer {token}\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(request.encode())
            return connection.recv(32).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


def _wait_serving(address: CloudAddress) -> None:
    """Returns once every stream and every released model answers through the gateway, or SERVE_SECONDS have passed."""
    port = int(address.home.settings()["port"])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    headers = {"Authorization": f"Bearer {address.token}"}

    def get(path: str) -> tuple[int, dict[str, Any]]:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    deadline = time.monotonic() + SERVE_SECONDS
    waiting: list[str] | None = None
    while waiting != [] and time.monotonic() < deadline and not address.home.stopping.exists():
        try:
            if waiting is None:
                streams, services = (get(f"/api/v1/tenants/default/{kinds}")[1]["items"] for kinds in _SERVING)
                waiting = [f"/streams/{row['name']}" for row in streams]
                waiting += [f"/v2/models/{row['name']}/ready" for row in services if row["spec"]["versions"]]
            waiting = [path for path in waiting if get(path)[0] >= 500]
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            connection.close()  # the gateway or the control plane went away again: asked once more
        if waiting != []:
            time.sleep(0.05)
    connection.close()
