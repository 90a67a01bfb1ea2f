"""A fused model as one ONNX file that takes what people have: strings, pictures as pixels, numbers with holes.

The tokenizer, resizing, normalisation, what is done about missing modalities and the names of the classes are in it.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, compose, helper, numpy_helper
from torch import Tensor

from skyriver.core.errors import InvalidInput, JobFailed
from skyriver.train.encoders.bert import TextEncoder
from skyriver.train.encoders.efficientnet import ImageEncoder
from skyriver.train.encoders.fit import predict
from skyriver.train.encoders.fusion import Fusion
from skyriver.train.encoders.lora import merge_lora
from skyriver.train.encoders.wordpiece_onnx import IR_VERSION, OPSET
from skyriver.train.encoders.wordpiece_onnx import to_onnx as tokenizer_to_onnx

MAX_DIFFERENCE: Final = 1e-4
"""By how much a probability may differ from what torch says."""
_IDS: Final = "__ids"


def to_onnx(model: Fusion, rows: Mapping[str, Any], *, tokenize: bool = True) -> bytes:
    """Takes one input an encoder, by its name: strings (n,), UINT8 (n, h, w, c) with c as in `rows`, FP32 (n, columns);
    gives `scores` FP32 (n, classes) and `label`, a string (n,). A text is missing where it is empty, a picture where
    it is of one colour, a table's row where all is NaN.

    Without `tokenize` a text is INT64 (n, t), numbers of pieces, 0 behind the end: for a runtime that cuts no strings.
    Examined on `rows`: raises JobFailed (ONNX_DIFFERS) where it says something else than torch does.
    """
    served = copy.deepcopy(model).cpu().eval()
    merge_lora(served)
    prepared = {name: served.encoder(name).prepared(rows[name]) for name in served.names}
    if not len(next(iter(prepared.values()))):
        raise InvalidInput(
            "There are no rows to examine the ONNX model on.", code="WRONG_ROWS", next_action="Give some test rows."
        )
    graph = _with_label(_exported(served, prepared), served.labels)
    feeds: dict[str, Any] = {name: batch.numpy() for name, batch in prepared.items()}
    for name in served.names:
        encoder = served.encoder(name)
        if isinstance(encoder, TextEncoder) and tokenize:
            graph = compose.merge_models(
                tokenizer_to_onnx(encoder.tokenizer, name, f"{name}{_IDS}", "n", prefix=f"{name}_"),
                _renamed(graph, name, f"{name}{_IDS}"),
                io_map=[(f"{name}{_IDS}", f"{name}{_IDS}")],
            )
            feeds[name] = np.array(["" if text is None else text for text in rows[name]], dtype=object)
    graph.producer_name = "skyriver"
    data: bytes = graph.SerializeToString()
    _examine(data, feeds, predict(served, rows), served.labels)
    return data


def _exported(model: Fusion, prepared: Mapping[str, Tensor]) -> Any:
    axes: list[dict[int, Any]] = []
    rows = torch.export.Dim("n")
    examples: list[Tensor] = []
    for name in model.names:
        encoder, batch = model.encoder(name), prepared[name]
        example = batch[torch.arange(3) % len(batch)]
        if isinstance(encoder, TextEncoder):
            example = torch.nn.functional.pad(example, (0, max(0, 5 - example.shape[1])))
            axes.append({0: rows, 1: torch.export.Dim(f"{name}_tokens", max=encoder.shape.positions)})
        elif isinstance(encoder, ImageEncoder):
            axes.append({0: rows, 1: torch.export.Dim(f"{name}_height"), 2: torch.export.Dim(f"{name}_width")})
        else:
            axes.append({0: rows})
        examples.append(example)
    with _quietly():
        program = torch.onnx.export(
            model,
            tuple(examples),
            dynamo=True,
            input_names=list(model.names),
            output_names=["scores"],
            dynamic_shapes=(tuple(axes),),
            opset_version=OPSET,
            verbose=False,
        )
    exported = program.model_proto
    exported.ir_version = IR_VERSION
    return exported


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter's own parts say about each other, and about torchvision, which is not needed."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _renamed(graph: Any, old: str, new: str) -> Any:
    for node in graph.graph.node:
        for k, name in enumerate(node.input):
            if name == old:
                node.input[k] = new
    for given in graph.graph.input:
        if given.name == old:
            given.name = new
    return graph


def _with_label(model: Any, labels: tuple[str, ...]) -> Any:
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(labels, dtype=object), "class_names"))
    graph.node.append(helper.make_node("ArgMax", ["scores"], ["class_number"], axis=1, keepdims=0))
    graph.node.append(helper.make_node("Gather", ["class_names", "class_number"], ["label"]))
    graph.output.append(helper.make_tensor_value_info("label", TensorProto.STRING, ["n"]))
    return model


def _examine(data: bytes, feeds: Mapping[str, Any], wanted: Any, labels: tuple[str, ...]) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for start in range(0, len(wanted), 64):
        part = {name: values[start : start + 64] for name, values in feeds.items()}
        scores, label = session.run(["scores", "label"], part)
        worst = max(worst, float(np.abs(scores - wanted[start : start + 64]).max()))
        if worst > MAX_DIFFERENCE or list(label) != [labels[k] for k in scores.argmax(1)]:
            raise JobFailed(
                f"The ONNX model differs from the trained one by {worst:.2g} on the rows given.",
                code="ONNX_DIFFERS",
                next_action="Report it, with the encoders of the model.",
            )
