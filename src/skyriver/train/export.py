"""From what a training function returned to the ONNX file that scores alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.train.cleaning import Cleaning
from skyriver.train.fitted import Fitted, recognise
from skyriver.train.parity import Parity


@dataclass(frozen=True, slots=True)
class Exported:
    """`onnx` takes cleaned rows. `text`: in LightGBM's text format, None of another framework. `differs`: by how much
    the ONNX model, with the cleaning before it, differs from the trained one on the test rows."""

    onnx: bytes
    text: bytes | None
    differs: float


@dataclass(frozen=True, slots=True)
class Export:
    """Of the model that `function` returned, which takes features `names` that `cleaning` has cleaned. `compress`: by
    cutting trees."""

    cleaning: Cleaning
    names: Sequence[str]
    function: str
    compress: bool

    def __call__(self, model: object, test: NDArray[np.float32], validation: NDArray[np.float32]) -> Exported:
        """The rows are not cleaned yet; of those of `validation` the calibration is fitted. Raises InvalidInput and
        JobFailed: see `recognise` and `Parity`."""
        try:
            fitted = self.recognised(model)
            text = fitted.text()
            if self.compress and text is None:
                raise InvalidInput(
                    f"compress= cuts the trees of LightGBM, and {self.function} returned a model of"
                    f" {fitted.framework}.",
                    code="NOT_COMPRESSIBLE",
                    next_action="Leave out compress=, or train with LightGBM.",
                )
            onnx = fitted.to_onnx()
        except SkyriverError as error:
            error.where = error.where or self.function
            raise
        parity = Parity(fitted, self.cleaning, self.names, self.function)
        differs = parity.check(self.cleaning.before(onnx), test)
        parity.scores(self.cleaning.apply(validation))
        return Exported(onnx, text, differs)

    def recognised(self, model: object) -> Fitted:
        try:
            return recognise(model, len(self.names))
        except SkyriverError as error:
            error.where = error.where or self.function
            raise
