"""Starting and ending the cloud of a home: what `skyriver up` and `skyriver down` do."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from skyriver.adapters.haproxy.gateway import HaproxyGateway
from skyriver.adapters.haproxy.process import recorded
from skyriver.adapters.processes.identity import Identity
from skyriver.adapters.processes.processes import ChildProcesses
from skyriver.core.errors import Conflict, SkyriverError, Unavailable, from_problem
from skyriver.wiring.address import CloudAddress, address, token_of
from skyriver.wiring.home import DEFAULT_PORT, Home, port_of_environment

START_SECONDS = 30.0
STOP_SECONDS = 15.0
SERVE_SECONDS = 20.0
"""For how long `up` waits for what served before; what takes longer is told by `skyriver ps`."""

_SERVING = ("streams", "services")


def up(home: Home, port: int | None) -> CloudAddress:
    """Starts the cloud of `home` unless it runs; idempotent. It listens on `port`, else SKYRIVER_PORT, else the port of
    the last start, else DEFAULT_PORT. What served before the last `down` serves again when this returns.

    Raises Conflict (PORT_IN_USE), or Unavailable with the last lines of the control plane's log.
    """
    home.make()
    known = home.settings()
    port = port or port_of_environment()
    chosen = port or int(known.get("port", DEFAULT_PORT))
    running = _control(home)
    if running is not None and running[1].get("ready"):
        if port and port != known.get("port"):
            raise Conflict(
                f"The cloud in {home.root} runs on port {known.get('port')}.",
                code="ALREADY_RUNNING",
                next_action="`skyriver down` first, to start it on another port.",
            )
        return address(home, fresh=False, started=False)
    shown = home.token.exists() and known.get("token_shown", False)
    if running is None:
        home.write_settings({**known, "port": chosen})
        home.control_run.unlink(missing_ok=True)
        _start(home, known)
    else:
        _wait_ready(home, None)
    home.write_settings({**home.settings(), "token_shown": True})
    found = address(home, fresh=not shown, started=True)
    _wait_serving(found)
    return found


def down(home: Home) -> list[str]:
    """Ends everything that the home's run files record, the control plane dead or not; returns what was ended."""
    ended = []
    running = _control(home)
    if running is not None:
        identity = running[0]
        os.kill(identity.pid, signal.SIGTERM)
        _wait_gone(identity)
        ended.append("control plane")
    home.control_run.unlink(missing_ok=True)
    if home.run.is_dir():
        names = ChildProcesses(home.root, home.sockets).stop_all()
        ended += [" ".join(name.split(".", 2)[1:]) for name in names]
    settings = home.settings()
    if "port" in settings and home.gateway.exists():
        gateway = recorded(home.gateway)
        if gateway is not None and gateway.identity.alive():
            ended.append("gateway")
        HaproxyGateway(home.gateway, port=settings["port"], control_socket=home.control_socket).stop()
    home.control_socket.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError, OSError):
        home.sockets.rmdir()
    return ended


def _control(home: Home) -> tuple[Identity, dict[str, Any]] | None:
    """The running control plane and what it says of itself."""
    try:
        status = json.loads(home.control_run.read_bytes())
        identity = Identity(status["pid"], status["start_time"], status["boot"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):  # not synced: any bytes after a power cut
        return None
    return (identity, status) if identity.alive() else None


def _start(home: Home, before: dict[str, Any]) -> None:
    """Starts the control plane; when that fails, the home's settings are as `before`."""
    control = _start_control(home)
    try:
        _wait_ready(home, control)
    except SkyriverError:
        if control.poll() is not None:
            home.write_settings(before)
        raise


def _start_control(home: Home) -> subprocess.Popen[bytes]:
    log = os.open(home.logs / "control.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "skyriver.wiring.control", str(home.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home.root,
            start_new_session=True,
        )
    finally:
        os.close(log)


def _wait_ready(home: Home, control: subprocess.Popen[bytes] | None) -> None:
    """`control` is the process if it was started here: one that ended is not waited for."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ValueError):
            status = json.loads(home.control_run.read_bytes())
            if problem := status.get("problem"):
                home.control_run.unlink(missing_ok=True)
                if control is not None:
                    control.wait(STOP_SECONDS)
                raise from_problem(problem["status"], problem)
            if status.get("ready") and _answers(home):
                return
        if control is not None and control.poll() is not None and not home.control_run.exists():
            break
        time.sleep(0.02)
    tail = (home.logs / "control.log").read_text(errors="replace").splitlines()[-5:]
    ended = control is not None and control.poll() is not None
    raise Unavailable(
        f"The control plane {'ended' if ended else f'did not get ready within {START_SECONDS:.0f} s'}:"
        f" {' | '.join(tail)}",
        code="CONTROL_NOT_READY",
        next_action=f"Its log is {home.logs / 'control.log'}.",
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
    while waiting != [] and time.monotonic() < deadline:
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


def _wait_gone(identity: Identity) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while identity.alive():
        if time.monotonic() > deadline:
            os.kill(identity.pid, signal.SIGKILL)
        time.sleep(0.02)
