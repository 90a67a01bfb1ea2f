"""What `skyriver up --systemd` prints: units that start the cloud with the machine."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping
from pathlib import Path

from skyriver.wiring.home import Home

# SIGTERM goes to the supervisor alone (KillMode=process), which in the foreground ends everything in order. There is
# no ExecStop: systemd runs it also when the supervisor died, which must not end what goes on without it.
_UNIT = """\
[Unit]
Description=Skyriver cloud in {home}
After={after}
StartLimitIntervalSec=0

[Service]
Type=exec
{user}ExecStart={python} -m skyriver.wiring.command --home {quoted} up --foreground
Restart=always
RestartSec=1
# Replicas, stream workers and jobs outlive the supervisor; `systemctl stop` ends them through it.
KillMode=process
TimeoutStopSec=90
# Control groups of its own, by which jobs are held to their cores and memory.
Delegate=yes
LimitNOFILE=65536
UMask=0077

[Install]
WantedBy={wanted}
"""


def units(home: Home) -> Mapping[str, str]:
    """Where each unit is to be written -> its text: one for this user's systemd, one for the machine's."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    name = pwd.getpwuid(os.getuid()).pw_name
    shared = {"home": _escaped(str(home.root)), "quoted": _quoted(str(home.root)), "python": _quoted(sys.executable)}
    own = _UNIT.format(**shared, after="default.target", user="", wanted="default.target")
    of_machine = _UNIT.format(**shared, after="network.target", user=f"User={name}\n", wanted="multi-user.target")
    return {
        str(config / "systemd" / "user" / "skyriver.service"): own.replace("After=default.target\n", ""),
        "/etc/systemd/system/skyriver.service": of_machine,
    }


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """One word of a command line, in systemd's own quoting."""
    inner = _escaped(text).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{inner}"'
