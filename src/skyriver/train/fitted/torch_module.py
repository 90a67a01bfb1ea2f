"""A torch module, by torch's own exporter.

That is the one of `torch.export` (`dynamo=True`), the default since torch 2.9; the older one by tracing has lost its
support, and takes what a branch did with the example for what it always does.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import JobFailed
from skyriver.train.fitted.fitted import Fitted, as_scores, first_line, refuse_model
from skyriver.train.fitted.graph import FEATURES, SCORE, is_probability, scoring_graph
from skyriver.train.fitted.recognise import not_a_model
from skyriver.train.packages import package

_SIGMOID = "Return torch.nn.Sequential(model, torch.nn.Sigmoid()), if what it gives are log-odds."


@dataclass(frozen=True)
class Torch:
    """`outputs` None: it gives (n,); else (n, outputs), of which two are a number for each outcome."""

    module: Any
    features: int
    outputs: int | None
    framework: str = "PyTorch"
    continuous: bool = True

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        import torch

        with torch.no_grad():
            found = self.module(torch.from_numpy(np.array(x, np.float32)))
            if self.outputs == 2:
                found = (torch.softmax(found, 1) if self._softmax else found)[:, 1]
            return as_scores(found.numpy())

    def to_onnx(self) -> bytes:
        if self.outputs != 2 and not is_probability(self._exported, SCORE):
            refuse_model("it does not say that what it gives is a probability: it ends in no sigmoid", _SIGMOID)
        column = 1 if self.outputs == 2 else None
        return scoring_graph(self._exported, self.features, SCORE, column=column, softmax=self._softmax)

    def text(self) -> bytes | None:
        return None

    @property
    def _softmax(self) -> bool:
        return self.outputs == 2 and not is_probability(self._exported, SCORE)

    @cached_property
    def _exported(self) -> Any:
        """Made when it is asked for: a search fits many modules, and releases one."""
        return _export(self.module, self.features)


def of_torch(model: Any, features: int) -> Fitted:
    """A module that takes (n, features) and gives a probability, (n,) or (n, 1), or a number for each of two outcomes,
    (n, 2). Raises JobFailed (USER_ERROR), InvalidInput (UNSUPPORTED_MODEL, MISSING_PACKAGE)."""
    import torch

    if not isinstance(model, torch.nn.Module):
        raise not_a_model(model, "PyTorch", "Return the torch.nn.Module.")
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped
    if isinstance(model, torch.nn.parallel.DistributedDataParallel | torch.nn.DataParallel):
        model = model.module
    if isinstance(model, torch.jit.ScriptModule):
        refuse_model("it is a TorchScript module", "Return the torch.nn.Module from which it was made.")
    if any(parameter.dtype not in (torch.float32, torch.int64) for parameter in model.parameters()):
        refuse_model("its parameters are not float32", "Return model.float().")
    model = model.cpu().eval()
    return Torch(model, features, _outputs(model, features))


def _outputs(model: Any, features: int) -> int | None:
    import torch

    try:
        with torch.no_grad():
            found = model(torch.zeros(3, features))
    except Exception as error:  # whatever the user's module throws
        raise JobFailed(
            f"The module that the training function returned does not take rows of {features} features:"
            f" {first_line(error)}",
            code="USER_ERROR",
            next_action="Train on data.x with all its columns, in their order.",
        ) from error
    if not isinstance(found, torch.Tensor):
        refuse_model(f"it gives a {type(found).__name__}", "Return a module that gives one tensor, (n,) or (n, 1).")
    shape = tuple(found.shape)
    if shape not in ((3,), (3, 1), (3, 2)):
        several = f"for 3 rows it gives numbers of shape {list(shape)}"
        refuse_model(
            several, "Return a module that gives one probability a row, (n,) or (n, 1): of one class against the rest."
        )
    return None if len(shape) == 1 else shape[1]


def _export(model: Any, features: int) -> Any:
    import torch

    package("onnxscript", "torch", "The ONNX form of a torch module")
    rows = torch.export.Dim("n", min=1)
    # or the log of each training says that torchvision, which nobody asked for, is not installed
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)  # of torch itself
            made = torch.onnx.export(
                model,
                (torch.zeros(3, features),),
                dynamo=True,
                input_names=[FEATURES],
                output_names=[SCORE],
                dynamic_shapes=({0: rows},),
                verbose=False,
            )
    except Exception as error:  # the exporter's errors share no base but Exception
        refuse_model(
            f"torch.onnx.export cannot export it ({first_line(error)})",
            "Leave out what depends on the values of the rows or on how many there are: branches in Python, loops.",
        )
    return made.model_proto
