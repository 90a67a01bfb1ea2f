"""Model files as they lie on a disk: read within a limit, known by what they are, and never loaded."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import subprocess
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from skyriver.core.errors import InvalidInput, NotFound, SkyriverError
from skyriver.release.model_file import take_model
from skyriver.release.onnx_check import Limits

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])


def model(nodes: Sequence[onnx.NodeProto] = (), tensors: Sequence[TensorProto] = ()) -> ModelProto:
    graph = helper.make_graph(list(nodes) or [helper.make_node("Identity", ["x"], ["y"])], "m", [X], [Y], list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def refused(path: Path, limits: Limits | None = None) -> SkyriverError:
    with pytest.raises(SkyriverError) as caught:
        take_model(path, limits=limits)
    assert caught.value.where
    return caught.value


def test_a_good_file_comes_with_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString())
    data, summary = take_model(path)
    assert data == path.read_bytes()
    assert summary.signature.inputs[0].shape == (-1, 2)
    (tmp_path / "link").symlink_to(path)
    assert take_model(tmp_path / "link")[0] == data


def test_what_is_no_file(tmp_path: Path) -> None:
    error = refused(tmp_path / "nowhere.onnx")
    assert isinstance(error, NotFound)
    assert error.code == "NO_MODEL_FILE"
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "m.onnx").write_bytes(b"")
    for path, code in (
        (tmp_path / "pipe.onnx", "NOT_A_FILE"),
        (Path("/dev/zero"), "NOT_A_FILE"),
        (tmp_path, "NOT_A_FILE"),
        (tmp_path / "m.onnx" / "under", "FILE_UNREADABLE"),
        (tmp_path / "m.onnx", "ONNX_UNREADABLE"),
    ):
        assert refused(path).code == code
    assert "m.onnx" in refused(tmp_path).next_action


class Trap:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_is_named_and_never_opened(tmp_path: Path) -> None:
    path, trap = tmp_path / "model.pkl", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(trap)))
    error = refused(path)
    assert error.code == "ONNX_FOREIGN_FORMAT"
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "content", "kind", "way"),
    [
        ("m.keras", b"", "Keras", "keras.saving.load_model"),
        ("m.h5", b"\x89HDF\r\n\x1a\n", "Keras", "keras.saving.load_model"),
        ("m.joblib", b"broken", "joblib", "skl2onnx.to_onnx"),
        ("m.pkl", b"cposix\nsystem\n", "pickle", "skl2onnx.to_onnx"),
        ("m.txt", b"tree\nversion=v4\n", "LightGBM", "convert_lightgbm"),
        ("m.txt", b"another text", "LightGBM", "convert_lightgbm"),
        ("m.json", b'{"learner":{}}', "XGBoost", "convert_xgboost"),
        ("m.json", b'{ "learner": {}}', "XGBoost", "convert_xgboost"),
        ("m.ubj", b"{L\0\0", "XGBoost", "convert_xgboost"),
        ("m.pt", b"?", "PyTorch", "torch.onnx.export"),
        ("m.pb", b"?", "SavedModel", "tf2onnx.convert --saved-model"),
        ("m.safetensors", (2).to_bytes(8, "little") + b"{}", "safetensors", "torch.onnx.export"),
    ],
)
def test_other_formats_are_known_by_their_bytes_or_their_name(
    tmp_path: Path, name: str, content: bytes, kind: str, way: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    error = refused(path)
    assert error.code == "ONNX_FOREIGN_FORMAT"
    assert kind in error.message
    assert way in error.next_action
    assert "FILE" not in error.next_action
    if "load(" in error.next_action or "model(" in error.next_action or "model_file" in error.next_action:
        assert str(path) in error.next_action
    for program in re.findall(r'python -c "(.*)"', error.next_action):
        compile(program, name, "exec")


@pytest.mark.parametrize("name", ["m.joblib", "m.keras", "m.txt", "m.json", "m.pb"])
def test_a_conversion_can_be_pasted_whatever_the_file_is_called(tmp_path: Path, name: str) -> None:
    path = tmp_path / f'it\'s "my"; $HOME {name}'
    path.write_bytes(b"broken")
    command = re.findall(r"`(python .*)`", refused(path).next_action)[0]
    printed = subprocess.run(
        ["bash", "-c", f'python() {{ printf "%s\\0" "$@"; }}; {command}'], capture_output=True, text=True, check=True
    )
    assert str(path) in printed.stdout.split("\0")


def test_it_can_be_pasted_too_where_the_bytes_say_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "m 1"
    path.write_bytes(b"tree\nversion=v4\n")
    assert refused(path).next_action.endswith(f" '{path}'`")


def test_errors_name_a_file_as_its_owner_does(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps([1]))
    for path in (tmp_path / "m.pkl", tmp_path / "nowhere", tmp_path):
        with pytest.raises(SkyriverError) as caught:
            take_model(path, named="mine.onnx")
        assert caught.value.where == "mine.onnx"
        assert str(tmp_path) not in str(caught.value)


def test_a_saved_model_is_known_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"")
    assert f"--saved-model {tmp_path}" in refused(tmp_path).next_action


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    huge, torch = tmp_path / "m.onnx", tmp_path / "m.pt"
    for path in (huge, torch):
        path.write_bytes(b"\x08\x08")
        os.truncate(path, 3 << 30)  # with holes: it takes no room
    tracemalloc.start()
    try:
        assert refused(huge).code == "ONNX_TOO_LARGE"
        assert refused(torch).code == "ONNX_FOREIGN_FORMAT"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_bombs_stay_packed(tmp_path: Path) -> None:
    packed, archive = tmp_path / "m.onnx", tmp_path / "m.zip"
    packed.write_bytes(gzip.compress(bytes(100_000_000), 1))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m.onnx", bytes(100_000_000))
    tracemalloc.start()
    try:
        assert "gunzip" in refused(packed).next_action
        assert refused(archive).code == "ONNX_FOREIGN_FORMAT"
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "weights.bin", "link", "", "a/../../secret"])
def test_data_beside_the_file_is_never_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 8)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "weights.bin").write_bytes(b"\0" * 8)
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    path = folder / "m.onnx"
    path.write_bytes(model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor]).SerializeToString())
    error = refused(path)
    assert error.code == "ONNX_EXTERNAL_DATA"
    assert isinstance(error, InvalidInput)


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Add", ["a", "x"], ["b"])],
        [helper.make_node("Identity", ["y"], ["y"])],
    ],
)
def test_a_graph_in_a_circle_is_invalid(tmp_path: Path, nodes: list[onnx.NodeProto]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model([*nodes, helper.make_node("Identity", ["x"], ["z"])]).SerializeToString())
    assert refused(path).code == "ONNX_INVALID"


def test_a_cut_file_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    whole = model([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert refused(path).code.startswith("ONNX_")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [("model.onnx", b'{"learner":{}}', "This is an XGBoost JSON file"), ("m.pkl", b"?", "This is a pickle")],
)
def test_a_conversion_says_what_it_needs_and_leaves_the_file(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    error = refused(path)
    assert error.message.startswith(told)
    assert "`pip install " in error.next_action
    assert "open(sys.argv[1] + '.onnx', 'wb')" in error.next_action
