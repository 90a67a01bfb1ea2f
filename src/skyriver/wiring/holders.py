"""Who holds what there is too little of, in words: a tenant's own largest services by name, all else together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from skyriver.control.schedule.pool import Scarce

NAMED: Final = 3
LEAST: Final = 0.005
"""Of a core, or MB: what is less is nobody's."""


def holders(tenant: str, held: Mapping[str, float], scarce: Scarce, has: float) -> str:
    """ "" where nobody holds anything. `held`: cores or MB, by tenant/name, of the `has` of the machine; other tenants'
    are not named."""
    mine = {name.partition("/")[2]: amount for name, amount in held.items() if name.partition("/")[0] == tenant}
    largest = sorted((name for name in mine if mine[name] > LEAST), key=lambda name: (-mine[name], name))[:NAMED]
    rest = sum(held.values()) - sum(mine[name] for name in largest)
    told = [f"{name} {_amount(mine[name])}{_beyond(mine[name], has)}" for name in largest]
    told += [f"{'others' if told else 'others than yours'} {_amount(rest)}"] if rest > LEAST else []
    if not told:
        return ""
    return f" {'Cores' if scarce == 'cores' else 'MB'} are held by {', '.join(told)}."


def _beyond(amount: float, has: float) -> str:
    return f" (more than the machine's {_amount(has)})" if amount > has else ""


def _amount(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}"
