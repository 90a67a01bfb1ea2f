"""Model files that are not ONNX, known by their first bytes, and what turns them into it.

None of them is ever loaded here: a pickle runs code when it is read, and so does what is built on it.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

FILE = "FILE"
"""Stands in a conversion for the file's path, as one word of the shell: not within quotes. What is written stands
beside it: the file itself may be called model.onnx."""
_FROM_SCIKIT = (
    "Where the model was made (it runs code of the file): `pip install joblib skl2onnx`, then"
    ' `python -c "import joblib, skl2onnx, sys; m = joblib.load(sys.argv[1]);'
    " x = skl2onnx.common.data_types.FloatTensorType([None, m.n_features_in_]);"
    " open(sys.argv[1] + '.onnx', 'wb').write(skl2onnx.to_onnx(m, initial_types=[('features', x)],"
    " options={'zipmap': False} if hasattr(m, 'classes_') else None).SerializeToString())\" FILE`"
)
_FROM_TORCH = (
    "Where the model was made: `pip install onnxscript`, then"
    " `torch.onnx.export(model, (example,), 'converted.onnx', dynamo=True)`."
)
_FROM_KERAS = (
    "Where the model was made: `pip install keras torch onnxscript`, then"
    " `python -c \"import os, sys; os.environ['KERAS_BACKEND'] = 'torch'; import keras;"
    " m = keras.saving.load_model(sys.argv[1]); m(keras.ops.zeros((1, *m.input_shape[1:])));"
    " m.export(sys.argv[1] + '.onnx', format='onnx')\" FILE`"
)
_FROM_SAVED_MODEL = (
    "`pip install tf2onnx tensorflow`, then `python -m tf2onnx.convert --saved-model FILE --output FILE.onnx`"
)
_FROM_TFLITE = _FROM_SAVED_MODEL.replace("--saved-model", "--tflite")
_FROM_XGBOOST = (
    "Where the model was made: `pip install onnxmltools packaging xgboost`, then"
    ' `python -c "import onnxmltools, sys, xgboost;'
    " from onnxmltools.convert.common.data_types import FloatTensorType as F;"
    " m = xgboost.Booster(model_file=sys.argv[1]);"
    " open(sys.argv[1] + '.onnx', 'wb').write(onnxmltools.convert_xgboost(m,"
    " initial_types=[('features', F([None, m.num_features()]))]).SerializeToString())\" FILE`"
)
_FROM_LIGHTGBM = _FROM_XGBOOST.replace("xgboost", "lightgbm").replace(
    "num_features()]))]", "num_feature()]))], zipmap=False"
)


@dataclass(frozen=True, slots=True)
class ForeignFormat:
    name: str
    conversion: str

    @property
    def told(self) -> str:
        return f"{'an' if self.name[0] in 'OXx' else 'a'} {self.name}"


_STARTS = (
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", ForeignFormat("PyTorch file (pickle)", _FROM_TORCH)),
    (b"\x89HDF\r\n\x1a\n", ForeignFormat("Keras HDF5 file", _FROM_KERAS)),
    (b"tree\nversion=", ForeignFormat("LightGBM text file", _FROM_LIGHTGBM)),
    (b"CBM1", ForeignFormat("CatBoost file", "`model.save_model('converted.onnx', format='onnx')` writes ONNX.")),
    (b"binf", ForeignFormat("XGBoost binary file", _FROM_XGBOOST)),
    (b"{L\x00\x00", ForeignFormat("XGBoost UBJSON file", _FROM_XGBOOST)),
    (b'{"learner"', ForeignFormat("XGBoost JSON file", _FROM_XGBOOST)),
    (b"\x93NUMPY", ForeignFormat("NumPy array", "A model is wanted, not its weights.")),
    (b"ORTM", ForeignFormat("ORT-format file", "Give the ONNX file that it was made from.")),
    (b"\x1f\x8b", ForeignFormat("gzip file", "Unpack it first: `gunzip FILE`.")),
    (b"BZh", ForeignFormat("bzip2 file", "Unpack it first: `bunzip2 FILE`.")),
    (b"\xfd7zXZ\x00", ForeignFormat("xz file", "Unpack it first: `unxz FILE`.")),
    (b"GGUF", ForeignFormat("GGUF file", "Language models in GGUF are not served here.")),
    (
        b"<?xml",
        ForeignFormat("XML file (PMML?)", "Train or export again with a converter to ONNX; there is none from PMML."),
    ),
)
SAVED_MODEL = ForeignFormat("TensorFlow SavedModel", _FROM_SAVED_MODEL)
_BY_ENDING = {
    ".keras": ForeignFormat("Keras file", _FROM_KERAS),
    ".h5": ForeignFormat("Keras HDF5 file", _FROM_KERAS),
    ".hdf5": ForeignFormat("Keras HDF5 file", _FROM_KERAS),
    ".pkl": ForeignFormat("pickle", _FROM_SCIKIT),
    ".pickle": ForeignFormat("pickle", _FROM_SCIKIT),
    ".joblib": ForeignFormat("joblib file", _FROM_SCIKIT),
    ".txt": ForeignFormat("text file (LightGBM?)", _FROM_LIGHTGBM),
    ".json": ForeignFormat("JSON file (XGBoost?)", _FROM_XGBOOST),
    ".ubj": ForeignFormat("XGBoost UBJSON file", _FROM_XGBOOST),
    ".pt": ForeignFormat("PyTorch file", _FROM_TORCH),
    ".pth": ForeignFormat("PyTorch file", _FROM_TORCH),
    ".pb": SAVED_MODEL,
}
_JOBLIB = ForeignFormat("joblib file", _FROM_SCIKIT)
_PICKLE = ForeignFormat("pickle", _FROM_SCIKIT)


def foreign_format(data: bytes) -> ForeignFormat | None:
    """What the bytes are if they are a known format that is not ONNX; reads no more than a file list of a zip."""
    for start, found in _STARTS:
        if data.startswith(start):
            return found
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _JOBLIB if b"joblib" in data[:4096] or b"numpy_pickle" in data[:4096] else _PICKLE
    if data[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"):
        return _JOBLIB  # zlib: how joblib compresses
    if data[:4] == b"PK\x03\x04":
        return _archive(data)
    if data[4:8] == b"TFL3":
        return ForeignFormat("TensorFlow Lite file", _FROM_TFLITE)
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        return ForeignFormat(
            "safetensors file",
            "It holds weights without the model: load them into it, then export that. " + _FROM_TORCH,
        )
    return None


def format_by_name(name: str) -> ForeignFormat | None:
    """What a file's ending says: for one whose bytes say nothing, as those of a damaged one."""
    return next((found for ending, found in _BY_ENDING.items() if name.lower().endswith(ending)), None)


def _archive(data: bytes) -> ForeignFormat:
    """A zip; nothing in it is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        names = []
    ends = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in ends:
        kind = "TorchScript file" if "constants.pkl" in ends else "PyTorch file (pickle)"
        return ForeignFormat(kind, _FROM_TORCH)
    if "model.weights.h5" in ends:
        return ForeignFormat("Keras file", _FROM_KERAS)
    if names and all(name.endswith(".npy") for name in names):
        return ForeignFormat("NumPy archive", "A model is wanted, not its weights.")
    return ForeignFormat("zip file", "Give the ONNX file in it, without external data.")
