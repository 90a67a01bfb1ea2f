"""What the rows of the control state declare, read once for as long as they stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from skyriver.core.spec import ServiceSpec

_MOST: Final = 16_384
_known: dict[int, tuple[Mapping[str, Any], ServiceSpec]] = {}
"""By the identity of what was read, which is kept with it: no other object has it meanwhile."""


def service_spec(serve: Mapping[str, Any]) -> ServiceSpec:
    """Of a service's row, `spec["serve"]`, which nobody changes in place: passes and looks ask for it several times a
    second, of every service. Any thread."""
    known = _known.get(id(serve))
    if known is not None and known[0] is serve:
        return known[1]
    spec = ServiceSpec.model_validate(serve)
    if len(_known) >= _MOST:
        _known.clear()
    _known[id(serve)] = serve, spec
    return spec
