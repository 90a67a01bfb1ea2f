"""The work of an environment: building the folder of a lock, or removing it when nobody uses it any more."""

from __future__ import annotations

import json
import os
from typing import Any

from skyriver.adapters.uv.building import build_environment, remove_environment
from skyriver.adapters.uv.product import this_product
from skyriver.adapters.uv.running import Uv
from skyriver.core.environments import parse_lock
from skyriver.core.errors import NotFound
from skyriver.trust.secretfile import read_secret
from skyriver.wiring.work.job import Job


def work(job: Job) -> dict[str, Any]:
    """Outputs: the `packages` of the environment with their versions, its `mb`, and the `seconds` of its building."""
    digest = str(job.inputs["lock"])
    folder = job.home.environments / digest
    if job.inputs["work"] == "remove":
        remove_environment(folder)
        return {}
    lock = parse_lock(job.objects.get(digest))
    return build_environment(Uv(job.home.packages, this_product(), _settings(job)), lock, folder, job.progress)


def _settings(job: Job) -> dict[str, str]:
    """A job's own variables hold no credentials, for users' code sees them; this work is told them in a file."""
    try:
        told: dict[str, str] = json.loads(read_secret(job.home.package_settings))
    except NotFound:
        told = {}
    return {**os.environ, **told}
