"""How the paths of requests begin that replicas send each other; no gateway passes such a path on."""

from __future__ import annotations

from typing import Final

COPIED: Final = b"/copied"
"""Before the path, of a copy (`serve.shadow`)."""
PLACED: Final = b"/placed/"
"""Before the place of the key and the path, of what was passed on (`serve.passing`)."""
