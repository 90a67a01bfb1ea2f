"""What an application has told of a model's answers, where it is kept: a row of its own beside the model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from skyriver.core.resources import Snapshot

KIND: Final = "outcome"
"""Of the row, which has the model's name. No step looks at it: it changes every few seconds, and the model does not."""

Told = Mapping[str, Mapping[str, Mapping[str, int]]]
"""By version and metric: `yes` of `of`."""


def outcomes_of(snapshot: Snapshot, tenant: str, model: str) -> Told:
    """Earlier releases kept it in the model's row, and what they kept goes along with the first report."""
    for kind in (KIND, "model"):
        row = snapshot.find(tenant, kind, model)
        if row is not None and "outcomes" in row.status:
            told: Any = row.status["outcomes"]
            return told  # type: ignore[no-any-return]
    return {}
