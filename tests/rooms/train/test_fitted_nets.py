"""Nets of PyTorch as trained models. They are tiny, and each export costs torch.export a part of a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from fitted_rows import rows, train_by
from torch import nn

from skyriver.core.errors import InvalidInput, JobFailed, SkyriverError
from skyriver.core.spec import CleanSpec
from skyriver.decide.decision.reasons import Explainer
from skyriver.train.data import TrainingData
from skyriver.train.evaluate import score
from skyriver.train.fitted import recognise
from skyriver.train.fitted.fitted_exam import check_fitted


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _learn(net: nn.Module, data: TrainingData, loss: Callable[..., Any] | None = None, steps: int = 40) -> nn.Module:
    x, y = torch.tensor(data.x), torch.tensor(data.y)
    loss = loss or (lambda found: nn.functional.binary_cross_entropy(found.reshape(-1), y))
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net(x)).backward()
        optimizer.step()
    return net


def _net(*end: nn.Module, width: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, width), *end)


class _Functional(nn.Module):
    """Its sigmoid is no module of its own, its output (n,), and it has a buffer called as a step of cleaning is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 1)
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.inner(x - self.mean)).squeeze(1)


class _AcrossRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((x - x.mean(0)).sum(1))


class _Chance(nn.Module):
    """By less than what rounding is allowed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x.sum(1) + 1e-3 * torch.rand_like(x[:, 0]))


class _Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x.sum(1) if x.sum() > 1 else x.mean(1))


def test_a_net_is_served_as_it_predicts_cleaned_and_explained(tmp_path: Path) -> None:
    clean = CleanSpec(fill="median", scale=True)
    trained = train_by(
        lambda data: _learn(_net(nn.Sigmoid()), data), rows(missing=True), clean=clean, calibrate="platt"
    )
    assert trained.metrics["onnx_max_difference"] < 1e-5
    assert trained.metrics["auc"] > 0.85
    assert trained.calibrated.method == "platt"
    assert trained.model_text is None
    model = onnx.load_from_string(trained.onnx)
    assert b"test_fitted_nets" not in trained.onnx, "no lines and paths of the program"
    assert [i.name for i in model.graph.input] == ["features"]
    told = Explainer.load(trained.onnx, ("a", "b", "c"), tmp_path)
    assert (told.method, told.unit) == ("integrated gradients", "log-odds")
    assert told.reasons(rows().x[3])[0].feature == "a"


def test_two_log_odds_become_the_probability_of_the_second() -> None:
    made: list[nn.Module] = []

    def fit(data: TrainingData) -> nn.Module:
        y = torch.tensor(data.y).long()
        made.append(_learn(_net(width=2), data, lambda found: nn.functional.cross_entropy(found, y)))
        return made[-1]

    trained = train_by(fit)
    x = rows().x
    with torch.no_grad():
        expected = torch.softmax(made[0](torch.tensor(x)), 1)[:, 1].numpy()
    np.testing.assert_allclose(score(trained.onnx, x), expected, atol=1e-6)


def test_a_sigmoid_that_is_no_module_is_seen_and_names_do_not_meet_those_of_cleaning() -> None:
    trained = train_by(lambda data: _learn(_Functional(), data), clean=CleanSpec(scale=True))
    assert trained.metrics["auc"] > 0.85


def test_rounding_of_unscaled_features_is_no_fault_of_the_export() -> None:
    """The terms of its sums are 1e4 and cancel out."""

    def fit(data: TrainingData) -> nn.Module:
        net = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())
        with torch.no_grad():
            net[0].weight[:] = torch.tensor([[2e-6, 1e-2, 1e-2 / 0.999]])
        return net

    given = rows(scale=1e6)
    given.x[:, 2] = -given.x[:, 1] * np.float32(0.999)
    assert train_by(fit, given).metrics["onnx_max_difference"] < 1e-3


@pytest.mark.parametrize(
    ("fit", "code", "what", "instead"),
    [
        (
            lambda data: _net(),
            "UNSUPPORTED_MODEL",
            "ends in no sigmoid",
            "torch.nn.Sequential(model, torch.nn.Sigmoid())",
        ),
        (lambda data: _net(nn.Sigmoid(), width=5), "UNSUPPORTED_MODEL", r"shape \[3, 5\]", "against the rest"),
        (lambda data: nn.GRU(3, 1), "UNSUPPORTED_MODEL", "gives a tuple", "one tensor"),
        (lambda data: nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()), "USER_ERROR", "rows of 3 features", "data.x"),
        (lambda data: _Branches(), "UNSUPPORTED_MODEL", "torch.onnx.export cannot export it", "branches"),
        (lambda data: _net(nn.Sigmoid()).double(), "UNSUPPORTED_MODEL", "not float32", "model.float()"),
        (lambda data: torch.zeros(3), "USER_ERROR", "PyTorch's Tensor, not a model", "nn.Module"),
        (lambda data: _Chance(), "ONNX_DIFFERS", r"\(1e-05 is allowed\)", "differ from one call to the next"),
        (lambda data: _AcrossRows(), "ROWS_DEPEND", "when others stand beside it", "clean="),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_nearest_thing_that_can(
    fit: Callable[[TrainingData], Any], code: str, what: str, instead: str
) -> None:
    with pytest.raises(SkyriverError, match=what) as refused:
        train_by(fit)
    assert refused.value.code == code
    assert instead in refused.value.next_action


def test_weights_that_are_no_numbers_any_more_are_refused() -> None:
    def fit(data: TrainingData) -> nn.Module:
        net = _Functional()
        with torch.no_grad():
            net.inner.weight[:] = torch.nan
        return net

    with pytest.raises(JobFailed, match="gives no number for") as failed:
        train_by(fit)
    assert failed.value.code == "BAD_SCORES"
    assert "smaller steps" in failed.value.next_action
    assert "logarithms" in failed.value.next_action


def test_missing_values_that_a_net_does_not_take_are_told_with_their_column() -> None:
    with pytest.raises(JobFailed, match=r"b has \d+ missing of") as failed:
        train_by(lambda data: _Functional(), rows(missing=True))
    assert 'clean=sr.Clean(fill="median")' in failed.value.next_action


def test_a_module_in_training_mode_is_served_as_it_infers() -> None:
    """An exporter that left dropout and batch statistics on would be told apart by the parity."""
    net = _net(nn.Sigmoid()).train()
    fitted = recognise(net, 3)
    x = rows().x
    net.eval()
    with torch.no_grad():
        np.testing.assert_allclose(fitted.predict(x), net(torch.tensor(x)).numpy().reshape(-1), atol=1e-6)
    check_fitted(fitted, x)


def test_without_the_exporter_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(InvalidInput, match="needs the package onnxscript") as refused:
        train_by(lambda data: _Functional())
    assert "skyriver[torch]" in refused.value.next_action
