"""Encoders from packages and folders, and back into folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save

from skyriver.core.errors import InvalidInput
from skyriver.data.folders import replace_file
from skyriver.train.encoders.bert import BertShape, TextEncoder
from skyriver.train.encoders.efficientnet import LITE0, EfficientNetShape, ImageEncoder, Stage
from skyriver.train.encoders.find import Found, Kind, find
from skyriver.train.encoders.lora import is_adapted
from skyriver.train.encoders.weights import load_weights, read_tensors
from skyriver.train.encoders.wordpiece import WordPiece, read_vocabulary

E = TypeVar("E", TextEncoder, ImageEncoder)


def text_encoder(source: str | Path, *, max_tokens: int = 128) -> TextEncoder:
    """`source`: the name of a package (see `find.KNOWN`) or a folder. Frozen: see `tuning` for what may be trained.

    Raises NotFound (ENCODER_MISSING), InvalidInput for one of another kind, or whose weights do not fit it."""
    found = _of_kind(source, "text")
    assert found.vocabulary is not None  # `find` gives none without
    shape = BertShape.of_config(found.config, str(found.weights.parent))
    tokenizer = WordPiece(read_vocabulary(found.vocabulary), found.lowercase, min(max_tokens, shape.positions))
    encoder = TextEncoder(shape, tokenizer)
    return _filled(encoder, found)


def image_encoder(source: str | Path, *, side: int | None = None) -> ImageEncoder:
    """`side`: pixels that pictures are brought to, else what it was made for. As `text_encoder` otherwise."""
    found = _of_kind(source, "image")
    made_for = found.config.get("side", 224)
    if not isinstance(made_for, int):
        raise _bad_config(found, "side")
    return _filled(ImageEncoder(_shape(found), side or made_for), found)


def save_encoder(encoder: TextEncoder | ImageEncoder, folder: Path | str) -> None:
    """As a folder that `text_encoder` or `image_encoder` reads; LoRA must be merged before."""
    if is_adapted(encoder):
        raise InvalidInput(
            "The encoder has LoRA matrices beside its weights.",
            code="NOT_MERGED",
            next_action="Call merge_lora(encoder) first.",
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(encoder, TextEncoder):
        pieces = "".join(f"{piece}\n" for piece in encoder.tokenizer.vocabulary)
        replace_file(folder / "vocab.txt", pieces.encode())
        cased = {"do_lower_case": encoder.tokenizer.lowercase}
        replace_file(folder / "tokenizer_config.json", json.dumps(cased).encode())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.filed().items()}
    replace_file(folder / "model.safetensors", save(tensors))
    replace_file(folder / "config.json", json.dumps(encoder.config(), indent=2).encode())


def _filled(encoder: E, found: Found) -> E:
    load_weights(encoder, read_tensors(found.weights), str(found.weights))
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    return encoder


def _of_kind(source: str | Path, kind: Kind) -> Found:
    found = find(source)
    if found.kind != kind:
        raise InvalidInput(
            f"{source} is an encoder of {found.kind}, not of {kind}.",
            code="BAD_ENCODER",
            next_action=f"Load it with {found.kind}_encoder(...).",
        )
    return found


def _shape(found: Found) -> EfficientNetShape:
    config: Mapping[str, Any] = found.config
    if "stages" not in config:
        return LITE0
    try:
        stages = tuple(Stage(*(int(size) for size in stage)) for stage in config["stages"])
        return EfficientNetShape(int(config["stem"]), stages, int(config["head"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _bad_config(found, "stages") from error


def _bad_config(found: Found, key: str) -> InvalidInput:
    return InvalidInput(
        f"The configuration says {key} = {found.config.get(key)!r}, which is none.",
        code="BAD_ENCODER",
        where=str(found.weights.parent),
        next_action="Write the folder with save_encoder(encoder, folder).",
    )
