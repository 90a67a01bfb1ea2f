"""What the champion says of the test rows, on its way from the training to the compression: computing it there again
may take another pass over the history, for the champion may have other features."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from skyriver.core.objects import Objects
from skyriver.train.slices import Scored


def put_scores(objects: Objects, scored: Scored | None) -> str | None:
    """The digest of them; None where there are none."""
    if scored is None:
        return None
    columns = [scored.scores] if scored.probabilities is None else [scored.scores, scored.probabilities]
    file = io.BytesIO()
    np.save(file, np.stack(columns), allow_pickle=False)
    return objects.put(file.getvalue())


def get_scores(objects: Objects, digest: Any) -> Scored | None:
    if not digest:
        return None
    columns = np.load(io.BytesIO(objects.get(str(digest))), allow_pickle=False)
    return Scored(columns[0], columns[1] if len(columns) > 1 else None)
