"""How much of an encoder is trained: nothing, its last blocks, or all; and its vectors, computed once where it is
frozen."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skyriver.core.errors import InvalidInput
from skyriver.data.folders import replace_file
from skyriver.train.encoders.encoder import Encoder, device_of

BATCH = 64
_log = logging.getLogger(__name__)


def freeze(encoder: Encoder) -> None:
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)


def unfreeze_last(encoder: Encoder, blocks: int) -> int:
    """The last `blocks` are trained, what comes before them is not; returns how many values are trained. Raises
    InvalidInput (BAD_BLOCKS)."""
    all_blocks = encoder.blocks()
    if not 0 <= blocks <= len(all_blocks):
        raise InvalidInput(
            f"The last {blocks} of {len(all_blocks)} blocks cannot be trained.",
            code="BAD_BLOCKS",
            next_action=f"Give a number from 0 to {len(all_blocks)}.",
        )
    freeze(encoder)
    for block in all_blocks[len(all_blocks) - blocks :]:
        for parameter in block.parameters():
            parameter.requires_grad_(True)
    return sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)


def is_frozen(encoder: Encoder) -> bool:
    return not any(parameter.requires_grad for parameter in encoder.parameters())


def batches(encoder: Encoder, prepared: Tensor) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """(rows, their numbers): texts of like length together, without the columns that none of them needs."""
    if encoder.kind != "text":
        for start in range(0, len(prepared), BATCH):
            yield prepared[start : start + BATCH], np.arange(start, min(start + BATCH, len(prepared)))
        return
    lengths = (prepared != 0).sum(1).numpy()
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        yield prepared[part, : int(lengths[part[-1]])], part


def vectors(encoder: Encoder, prepared: Tensor) -> NDArray[np.float32]:
    """(n, width) of prepared rows; nothing is trained."""
    found = np.zeros((len(prepared), encoder.width), np.float32)
    device = device_of(encoder)
    with torch.inference_mode():
        for rows, numbers in batches(encoder, prepared):
            found[numbers] = encoder(rows.to(device)).float().cpu().numpy()
    return found


class VectorCache:
    """Vectors by the content of rows and encoder, in memory and, where there is a folder, on disk: what was computed
    once is not computed again, whichever rows come together. A file that cannot be read is as none."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[str, dict[bytes, NDArray[np.float32]]] = {}
        self.computed = 0
        """Rows that were not known."""

    def vectors(self, encoder: Encoder, prepared: Tensor) -> NDArray[np.float32]:
        if encoder.kind == "table":  # quicker than looking them up
            return vectors(encoder, prepared)
        digest = encoder.digest()
        if digest not in self._known:
            self._known[digest] = self._read(digest, encoder.width)
        known = self._known[digest]
        keys = _keys(prepared)
        first = {key: row for row, key in reversed(list(enumerate(keys))) if key not in known}
        if first:
            rows = sorted(first.values())
            fresh = vectors(encoder, prepared[rows])
            known.update({keys[row]: vector for row, vector in zip(rows, fresh, strict=True)})
            self.computed += len(rows)
            self._write(digest, known)
        return np.stack([known[key] for key in keys]) if keys else np.zeros((0, encoder.width), np.float32)

    def _read(self, digest: str, width: int) -> dict[bytes, NDArray[np.float32]]:
        path = self._path(digest)
        if path is None or not path.is_file():
            return {}
        try:
            with np.load(path, allow_pickle=False) as file:
                keys, rows = file["keys"], file["vectors"]
            if keys.shape != (len(rows), 32) or rows.shape != (len(keys), width):
                raise ValueError(f"{keys.shape} keys, {rows.shape} vectors")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            _log.warning("%s cannot be read, its vectors are computed again: %s", path, error)
            return {}
        return {key.tobytes(): row for key, row in zip(keys, rows, strict=True)}

    def _write(self, digest: str, known: dict[bytes, NDArray[np.float32]]) -> None:
        path = self._path(digest)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        keys = np.frombuffer(b"".join(known), np.uint8).reshape(-1, 32)
        file = io.BytesIO()
        np.savez(file, keys=keys, vectors=np.stack(list(known.values())))
        replace_file(path, file.getvalue())

    def _path(self, digest: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{digest}.npz"


def _keys(prepared: Tensor) -> list[bytes]:
    """Zeros at the end, which texts are filled up with, do not count."""
    rows: Sequence[Any] = prepared.numpy()
    shape = repr(prepared.shape[1:]).encode() if prepared.ndim > 2 else b""
    contents = (row if row.ndim > 1 else np.trim_zeros(row, "b") for row in rows)
    return [hashlib.sha256(shape + content.tobytes()).digest() for content in contents]
