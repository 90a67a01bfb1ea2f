"""The process of a tenant's activator: `python -m skyriver.wiring.activator CONFIG_FILE`.

It has no configuration; where replicas are, it is told while it runs (its live file). SIGTERM lets what it holds end.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import Set
from typing import Any

import uvloop

from skyriver.core.errors import SkyriverError
from skyriver.serve.activator import Activator, serve_activator
from skyriver.serve.listening import unix_listener
from skyriver.wiring.home import Home
from skyriver.wiring.nudging import nudge
from skyriver.wiring.process import ProcessContext, read_config

_log = logging.getLogger(__name__)


async def run(context: ProcessContext, listening: socket.socket) -> int:
    """Returns how many connections were cut off at the end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return await serve_activator(Activator(context.live), listening, stop=stop, report=Reports(context))


class Reports:
    """Of the activator. The control plane is to read one at once that says for whom something waits newly."""

    def __init__(self, context: ProcessContext) -> None:
        self._context = context
        self._nudge_socket = Home.at(context.home).nudge_socket
        self._waited_for: Set[str] = frozenset()

    def __call__(self, report: dict[str, Any]) -> None:
        self._context.report(report)
        waited_for = report["waiting"].keys()
        if waited_for - self._waited_for:
            nudge(self._nudge_socket)
        self._waited_for = frozenset(waited_for)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    context = read_config(sys.argv)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # what it holds are open connections
    gc.collect()
    gc.freeze()
    try:
        with unix_listener(context.socket) as listening:
            cut = uvloop.run(run(context, listening))
    except SkyriverError as error:
        _log.exception("the activator cannot answer now")
        context.report({"ready": False, "reason": error.code, "message": str(error)})
        return error.exit_code
    if cut:
        _log.warning("%d connections were cut off at the end, with what they waited for", cut)
    return 0


if __name__ == "__main__":
    sys.exit(main())
