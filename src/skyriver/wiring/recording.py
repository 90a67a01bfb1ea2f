"""What becomes of requests is recorded, in a thread of the supervisor: the control plane may be away."""

from __future__ import annotations

import logging
from collections.abc import Callable

from skyriver.adapters.haproxy.access_log import AccessLog, Receiver
from skyriver.data.folders import make_folder
from skyriver.wiring.home import Home

AGAIN_SECONDS = 10.0

log = logging.getLogger("skyriver.supervisor")


def record_requests(home: Home, stopped: Callable[[float], bool]) -> None:
    """Until `stopped(seconds)`, which waits so long, is true. Whatever goes wrong, requests go on."""
    told = ""
    while not stopped(0.0):
        try:
            make_folder(home.gateway)
            Receiver(home.gateway, AccessLog(home.logs)).run(stopped)
        except Exception as error:  # a full disk, say: without this thread nothing would be recorded any more
            if str(error) != told:
                log.exception("requests are not recorded")
            told = str(error)
            stopped(AGAIN_SECONDS)
