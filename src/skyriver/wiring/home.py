"""Where a cloud keeps what it has, on one machine."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyriver.core.errors import InvalidInput
from skyriver.data.folders import make_folder, replace_file

DEFAULT_PORT = 7470
PORT_VARIABLE = "SKYRIVER_PORT"
_SOCKET_ROOM = 60
"""A Unix socket's path has at most 107 bytes; what is below a home takes up to 45 of them."""


def port_of_environment() -> int | None:
    """The gateway's port as SKYRIVER_PORT names it. Raises InvalidInput (BAD_PORT)."""
    text = os.environ.get(PORT_VARIABLE, "")
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise InvalidInput(
            f"{PORT_VARIABLE} is {text!r}: a port is a number from 1 to 65535.",
            code="BAD_PORT",
            next_action=f"Set it to a free port, or unset it: then {DEFAULT_PORT} is taken.",
        )
    return int(text)


@dataclass(frozen=True, slots=True)
class Home:
    """The directory of one cloud (SKYRIVER_HOME)."""

    root: Path

    @classmethod
    def at(cls, path: str | Path | None) -> Home:
        """`path`, else SKYRIVER_HOME, else the user's data directory (XDG)."""
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        chosen = path or os.environ.get("SKYRIVER_HOME") or Path(data) / "skyriver"
        return cls(Path(chosen).expanduser().absolute())

    def make(self) -> None:
        """Creates it, closed to others. Raises InvalidInput when something else is in its place."""
        try:
            make_folder(self.root)
            for part in (self.run, self.logs, self.uploads):
                part.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"{self.root} cannot be the cloud's home: {error.strerror}.",
                code="BAD_HOME",
                next_action="Choose another place with --home or SKYRIVER_HOME.",
            ) from error

    @property
    def state(self) -> Path:
        return self.root / "state.db"

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def predictions(self) -> Path:
        """Scored pieces of jobs that are not done; they outlive an attempt."""
        return self.root / "predictions"

    @property
    def studies(self) -> Path:
        """Trials of searches that are not done; they outlive an attempt."""
        return self.root / "studies"

    @property
    def trainings(self) -> Path:
        """Checkpoints of jobs that are not done; they outlive an attempt."""
        return self.root / "trainings"

    @property
    def streams(self) -> Path:
        return self.root / "streams"

    @property
    def kernels(self) -> Path:
        return self.root / "cache" / "kernels"

    @property
    def environments(self) -> Path:
        return self.root / "environments"

    @property
    def packages(self) -> Path:
        """uv's cache. On the disk of the environments, which are hard links into it."""
        return self.root / "cache" / "uv"

    @property
    def package_settings(self) -> Path:
        """From where packages come, as the control plane was told when it started; it may hold credentials."""
        return self.root / "packages.json"

    @property
    def tier_settings(self) -> Path:
        """Where closed segments of logs go, as the control plane was told; it may hold keys."""
        return self.root / "tier.json"

    @property
    def tier_cache(self) -> Path:
        return self.root / "cache" / "tier"

    @property
    def gateway(self) -> Path:
        return self.root / "gateway"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def keys(self) -> Path:
        """Of the tenants, to sign with."""
        return self.root / "keys"

    @property
    def trusted(self) -> Path:
        """Public halves of all keys that this cloud signed with; where it is, an unsigned version is not loaded."""
        return self.root / "trusted-keys.json"

    @property
    def token(self) -> Path:
        return self.root / "token"

    @property
    def leases(self) -> Path:
        return self.run / "leases"

    @property
    def control_run(self) -> Path:
        return self.run / "control.json"

    @property
    def supervisor_run(self) -> Path:
        return self.run / "supervisor.json"

    @property
    def stopping(self) -> Path:
        """There from the moment `down` begins until it is done: then nobody starts anything. `up` removes what a `down`
        that was cut off left of it."""
        return self.run / "stopping"

    @property
    def sockets(self) -> Path:
        """Where processes listen: inside the home, or, when its path is too long for a socket, in a directory of this
        user's alone in the system's temporary one."""
        if len(os.fsencode(self.run)) <= _SOCKET_ROOM:
            return self.run / "s"
        short = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"skyriver-{os.getuid()}-{short}"

    def make_sockets(self) -> Path:
        path = self.sockets
        path.mkdir(mode=0o700, exist_ok=True)
        stat = path.lstat()
        if stat.st_uid != os.getuid() or stat.st_mode & 0o077 or path.is_symlink():
            raise InvalidInput(
                f"{path} is not this user's alone.",
                code="BAD_SOCKET_DIRECTORY",
                next_action=f"Remove it (rm -r {path}), or choose a home with a shorter path.",
            )
        return path

    @property
    def control_socket(self) -> Path:
        return self.sockets / "control.sock"

    @property
    def nudge_socket(self) -> Path:
        return self.sockets / "nudge.sock"

    def settings(self) -> dict[str, Any]:
        """What `up` was told; empty before the first."""
        try:
            found: dict[str, Any] = json.loads((self.root / "cloud.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def write_settings(self, settings: dict[str, Any]) -> None:
        replace_file(self.root / "cloud.json", json.dumps(settings).encode())
