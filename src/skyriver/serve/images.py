"""Pictures for a model whose input is one: bytes of PNG or JPEG become UINT8 of height x width x channels.

Which inputs take one: `release.signature`. Of a row's three axes the last is 1 (grey), 3 (RGB) or 4 (RGBA). Nothing
is scaled or turned: a picture has the height and width that the model says, or any where it says none. Pillow decodes,
and is loaded with the first picture: it comes with `pip install "skyriver[images]"`.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from importlib import import_module
from typing import Any

import numpy as np

from skyriver.core.errors import InvalidInput
from skyriver.release.signature import ANY, TensorSpec, picture_axes
from skyriver.serve.protocol import NotSupported
from skyriver.serve.runner import MOST_VALUES, Array

MOST_BYTES = 10 * 1024 * 1024
"""Of a picture as it is sent."""
BASE64 = "base64"
"""The one key of an object that stands in JSON for a picture."""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_FORMATS = ("PNG", "JPEG")
_EIGHT_BITS = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"))
"""Others would be clipped to 255, not scaled."""


def picture_of_text(spec: TensorSpec, text: object) -> Array:
    """Of base64. Raises InvalidInput, as `picture` does."""
    if not isinstance(text, str):
        raise _wrong(spec, "base64 is a text")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong(spec, f"this is no base64: {str(error)[:80]}") from error
    return picture(spec, data)


def picture(spec: TensorSpec, data: bytes) -> Array:
    """One row: with a leading axis of 1 where the input has one. Its size is looked at before anything is unpacked.

    Raises InvalidInput (WRONG_IMAGE) naming what is wrong, NotSupported (IMAGES_MISSING) without Pillow.
    """
    if len(data) > MOST_BYTES:
        raise _wrong(spec, f"it has {len(data)} bytes, at most {MOST_BYTES} are taken")
    pillow = _pillow()
    height, width, channels = picture_axes(spec)
    try:
        with pillow.open(io.BytesIO(data), formats=_FORMATS) as opened:
            if opened.width * opened.height * channels > MOST_VALUES:
                raise _wrong(spec, f"{opened.width} x {opened.height} pixels are more than a request may have")
            if height not in (ANY, opened.height) or width not in (ANY, opened.width):
                wanted = " x ".join("any" if axis == ANY else str(axis) for axis in (width, height))
                raise _wrong(spec, f"it is {opened.width} x {opened.height} pixels, the model takes {wanted}")
            if opened.mode not in _EIGHT_BITS:
                raise _wrong(spec, f"its pixels are {opened.mode}; 8 bits a channel are taken")
            opened.load()
            pixels = np.asarray(opened.convert(_MODES[channels]), np.uint8)
    except InvalidInput:
        raise
    except Exception as error:  # Pillow's own errors have no common base
        raise _wrong(spec, f"it is no whole PNG or JPEG ({type(error).__name__})") from error
    row = pixels.reshape(pixels.shape[0], pixels.shape[1], channels)
    return row.reshape(1, *row.shape) if len(spec.shape) == 4 else row


def _wrong(spec: TensorSpec, why: str) -> InvalidInput:
    axes = [axis if axis != ANY else 1 for axis in picture_axes(spec)]
    return InvalidInput(
        f"The picture for {spec.name!r} cannot be taken: {why}.",
        code="WRONG_IMAGE",
        where=spec.name,
        next_action=f"Send a PNG or JPEG of at most {MOST_VALUES // max(1, math.prod(axes[2:]))} pixels"
        " in the size that the model takes.",
    )


def _pillow() -> Any:
    try:
        pillow: Any = import_module("PIL.Image")
    except ImportError as error:
        raise NotSupported(
            "Pictures cannot be read here: Pillow is not installed.",
            code="IMAGES_MISSING",
            next_action='pip install "skyriver[images]", or send the pixels as numbers.',
        ) from error
    pillow.MAX_IMAGE_PIXELS = None  # it would only warn where we refuse
    return pillow
