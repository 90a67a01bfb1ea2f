"""Where closed segments of the streams' logs go, if anywhere: `SKYRIVER_TIER`.

`s3://BUCKET/PREFIX` (with the AWS_ variables that all programs for S3 read) or the path of a directory, on another
disk. The control plane writes it down when it starts, with its keys, in HOME/tier.json (0600): workers and jobs are
started without its environment, and what it was told once goes on to count until it is told something else, or `none`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

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

_log = logging.getLogger("skyriver.control")


def keep_tier_settings(home: Home, environment: Mapping[str, str] | None = None) -> None:
    """Writes down what this control plane was told, if it was. A wrong setting is told in its log, and again by each
    stream, whose log then stays whole on its own disk."""
    environment = os.environ if environment is None else environment
    place = environment.get(VARIABLE, "")
    if not place:
        return
    settings = {"place": place, "keys": {name: environment[name] for name in _KEYS if environment.get(name)}}
    try:
        write_secret(home.tier_settings, json.dumps(settings).encode())
        open_tier(home)
    except SkyriverError as error:
        _log.error("%s cannot be used: %s", VARIABLE, error)


def open_tier(home: Home) -> IdentifiedObjects | None:
    """None: there is none. Raises InvalidInput (BAD_OBJECTS, S3_MISSING), Unavailable, NotAllowed, Conflict."""
    try:
        settings = json.loads(home.tier_settings.read_bytes())
        place, keys = str(settings["place"]), dict(settings["keys"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise Corrupt(
            "The settings of the tier are not what was written.",
            where=str(home.tier_settings),
            next_action=f"Set {VARIABLE} and start the cloud again.",
        ) from None
    except OSError as error:
        raise Unavailable(f"The settings of the tier cannot be read: {error.strerror}.") from error
    if place == NONE:
        return None
    if place.startswith("/"):
        return DirectoryObjects(Path(place))
    return _open_bucket(home, place, keys)


def _open_bucket(home: Home, place: str, keys: dict[str, str]) -> IdentifiedObjects:
    try:
        # An extra: who keeps logs on a disk does without.
        from skyriver.adapters.s3.objects import S3Objects, place_of
    except ImportError:
        raise InvalidInput(
            f"{VARIABLE} names a bucket, and the package for it is not installed.",
            code="S3_MISSING",
            next_action="Install skyriver[s3].",
        ) from None
    return S3Objects(place_of(place, keys), home.tier_cache, cache_bytes=CACHE_BYTES)
