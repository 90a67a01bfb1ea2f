import lightgbm
import numpy as np

from skyriver.compress.speed import BATCH, measure_speed
from skyriver.train.trees_onnx import read_lightgbm, to_onnx


def _onnx(trees: int) -> bytes:
    luck = np.random.default_rng(0)
    x = luck.normal(size=(2_000, 4))
    y = (x[:, 0] > 0.5).astype(float)
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "num_leaves": 31}
    return to_onnx(read_lightgbm(lightgbm.train(settings, lightgbm.Dataset(x, y), trees).model_to_string()))


def test_a_larger_model_takes_longer_and_the_numbers_fit_together() -> None:
    x = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)  # fewer rows than a batch
    small, large = measure_speed(_onnx(1), x), measure_speed(_onnx(400), x)
    for found in (small, large):
        assert 0 < found.row_p99_low <= found.row_p99 <= found.row_p99_high
        assert 0 < found.row <= found.row_p99_high, "not always the p99: that is of the quiet rounds, which may be few"
        assert 0 < found.reference <= found.reference_p99
        assert found.batch_rows == BATCH
        assert found.row < found.batch, "of 64 rows"
    assert small.batch < large.batch
