"""What somebody wishes of a service in options, before the control plane is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from skyriver.core.errors import InvalidInput
from skyriver.core.misread import wrong
from skyriver.core.ranges import SERVICE, field_of, hint
from skyriver.core.spec import ServiceSpec, check_service


def check_wished(declared: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """What the control plane would refuse, in the words of who wrote options. Raises InvalidInput."""
    name = ""
    try:
        check_service(ServiceSpec.model_validate(declared), "The service")
        return
    except ValidationError as error:
        found = error.errors()[0]
        name, why = field_of(found), wrong({**found, "loc": found["loc"][:1]})
        code, action = "BAD_SERVICE", ""
    except InvalidInput as error:
        why, code, action = error.message.removesuffix("."), error.code, error.next_action
        name = next((option for option in options if f"{option}=" in why or f"{option} is " in action), "")
    given = options.get(name)
    if given in (None, ""):  # it is wrong beside what is declared
        told, action = why, action or hint(SERVICE, name)
    else:
        told, action = f"--{name} {given}: {why}", hint(SERVICE, name, option=True)
    raise InvalidInput(f"{told}.", code=code, next_action=action)
