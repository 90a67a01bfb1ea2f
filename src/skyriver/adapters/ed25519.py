"""Ed25519 keys by the library `cryptography`, for the adapters of `Keys`."""

from __future__ import annotations

from skyriver.core.errors import Corrupt, Unavailable


def new_private() -> bytes:
    """32 bytes. Raises Unavailable (NO_CRYPTOGRAPHY)."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise _missing() from error
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_of(private: bytes) -> bytes:
    """Raises Unavailable (NO_CRYPTOGRAPHY), Corrupt (KEY_CORRUPT)."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    except ImportError as error:
        raise _missing() from error
    except ValueError as error:
        raise Corrupt("This is no Ed25519 key.", code="KEY_CORRUPT") from error


def signature_by(private: bytes, data: bytes) -> bytes:
    """Raises Unavailable (NO_CRYPTOGRAPHY), Corrupt (KEY_CORRUPT)."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(private).sign(data)
    except ImportError as error:
        raise _missing() from error
    except ValueError as error:
        raise Corrupt("This is no Ed25519 key.", code="KEY_CORRUPT") from error


def _missing() -> Unavailable:
    return Unavailable(
        "The Python library cryptography is not installed, so nothing can be signed.",
        code="NO_CRYPTOGRAPHY",
        next_action="Install it where the cloud runs: `pip install cryptography`, then `skyriver up` again.",
    )
