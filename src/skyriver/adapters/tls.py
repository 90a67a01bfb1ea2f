"""TLS towards brokers, as a machine's file of credentials says."""

from __future__ import annotations

import ssl

from skyriver.core.errors import Unavailable
from skyriver.decide.worker.sources import Access


def client_context(access: Access) -> ssl.SSLContext:
    """The broker's certificate is always checked, against `ca` or the system's authorities. Raises Unavailable
    (BAD_CERTIFICATE)."""
    try:
        context = ssl.create_default_context(cafile=access.ca or None)
        if access.certificate:
            context.load_cert_chain(access.certificate, access.key or None, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise Unavailable(
            f"The files for TLS cannot be used: {getattr(error, 'strerror', None) or error}.",
            code="BAD_CERTIFICATE",
            next_action="Check ca, certificate and key in the file of credentials; the worker's user must read them.",
        ) from error
    return context
