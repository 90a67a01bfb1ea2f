"""Where closed segments of the streams' logs go, if anywhere: `SKYRIVER_TIER`.

`s3://BUCKET/PREFIX` (with the AWS_ variables that all programs for S3 read) or the path of a directory, on another
disk. `skyriver up` writes it down when it starts a cloud, with its keys, in HOME/tier.json (0600), once the place has
answered: workers and jobs are started without its environment, and what it was told once goes on to count until it is
told something else, or `none`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.core.errors import Corrupt, InvalidInput, SkyriverError, Unavailable
from skyriver.core.objects import IdentifiedObjects
from skyriver.trust.secretfile import write_secret
from skyriver.wiring.home import Home

VARIABLE = "SKYRIVER_TIER"
NONE = "none"
CACHE_BYTES = 512 << 20
"""What is read from a bucket is kept here up to that."""
_KEYS = (
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
)  # fmt: skip


def keep_tier_settings(
    home: Home, environment: Mapping[str, str] | None = None, *, runs: bool = False, told: Callable[[str], None] = print
) -> None:
    """Writes down what this start was told, if it was, and if that place can be used; of a cloud that `runs`, tells
    that it is not taken. Raises InvalidInput (BAD_TIER, BAD_OBJECTS, S3_MISSING), Unavailable, NotAllowed, Conflict,
    Corrupt; what was set before counts then."""
    environment = os.environ if environment is None else environment
    place = environment.get(VARIABLE, "")
    keys = {name: environment[name] for name in _KEYS if environment.get(name)}
    settings = {"place": place, "keys": keys}
    before = _written(home)
    if not place or settings == before:
        return
    if runs:
        now = before["place"] if before is not None else NONE
        told(
            f"{VARIABLE} is not taken: this cloud runs with {now}{' and other keys' if now == place else ''}."
            f" `skyriver down`, then `skyriver up` with {VARIABLE} set."
        )
        return
    try:
        tier = _open(home, place, keys, waiting=False)
        if tier is not None:
            tier.identity()
    except SkyriverError as error:
        raise type(error)(
            f"{VARIABLE} cannot be used, so nothing was started and the setting is as before. {error.message}",
            code=error.code,
            where=error.where or VARIABLE,
            next_action=f"{error.next_action} Then try again; without {VARIABLE} the cloud starts as it was set last.",
        ) from error
    write_secret(home.tier_settings, json.dumps(settings).encode())


def open_tier(home: Home) -> IdentifiedObjects | None:
    """None: there is none. Raises as `keep_tier_settings`; what can be opened may be away all the same."""
    settings = _written(home)
    if settings is None:
        return None
    try:
        place, keys = str(settings["place"]), dict(settings["keys"])
    except (KeyError, TypeError, ValueError):
        raise Corrupt(
            "The settings of the tier are not what was written.",
            where=str(home.tier_settings),
            next_action=f"Set {VARIABLE} and start the cloud again.",
        ) from None
    return _open(home, place, keys)


def _written(home: Home) -> dict[str, Any] | None:
    """What was written down; {} when that is damaged."""
    try:
        found = json.loads(home.tier_settings.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    except OSError as error:
        raise Unavailable(
            f"The settings of the tier cannot be read: {error.strerror}.",
            where=str(home.tier_settings),
            next_action="Check the owner and mode of this file.",
        ) from error
    return found if isinstance(found, dict) else {}


def _open(home: Home, place: str, keys: dict[str, str], *, waiting: bool = True) -> IdentifiedObjects | None:
    if place == NONE:
        return None
    if place.startswith("/"):
        return DirectoryObjects(Path(place))
    if not place.startswith("s3://"):
        shown = f"{place.partition(':')[0]}:..." if "@" in place else repr(place)  # it may hold a password
        raise InvalidInput(
            f"{shown} is no place for a tier.",
            code="BAD_TIER",
            where=VARIABLE,
            next_action=f"Set {VARIABLE} to s3://BUCKET/PREFIX, to the path of a directory (/...), or to {NONE}.",
        )
    try:
        # An extra: who keeps logs on a disk does without.
        from skyriver.adapters.s3.objects import Patience, S3Objects, place_of
    except ImportError:
        raise InvalidInput(
            f"{VARIABLE} names a bucket, and the package for it is not installed.",
            code="S3_MISSING",
            where=VARIABLE,
            next_action="Install skyriver[s3].",
        ) from None
    patience = Patience() if waiting else Patience(request_s=10.0, retries=2, retry_s=10.0)
    return S3Objects(place_of(place, keys), home.tier_cache, cache_bytes=CACHE_BYTES, patience=patience)
