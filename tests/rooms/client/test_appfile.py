"""What is said of an application's file that declares a part of it wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyriver.client import cli
from skyriver.client.appfile import load_app, pack
from skyriver.core.errors import InvalidInput


@pytest.mark.parametrize(
    ("declared", "code", "told"),
    [
        ('sr.Service(replicas=(0, 1), idel="10m")', "BAD_SERVICE", "idel is not known (did you mean 'idle'?)"),
        ('sr.Service(replicas=(0, 1), idle="1ms")', "BAD_SERVICE", "idle='1ms' is shorter than a second"),
        ('sr.Service(replicas="two")', "BAD_SERVICE", "replicas='two' is no whole number"),
        ("sr.Service(cpus=0)", "BAD_SERVICE", "cpus=0 is not more than 0.0"),
        ("sr.Compress(maxloss=0.1)", "BAD_COMPRESS", "maxloss is not known (did you mean 'max_loss'?)"),
        ("sr.Compress(max_loss=0.1, los=1)", "BAD_COMPRESS", "los is not known (there are max_loss)"),
        ('sr.Clean(fill="mode")', "BAD_CLEAN", "fill='mode' is not 'median' or 'mean'"),
        ('sr.Clean(clip=(0, "x"))', "BAD_CLEAN", "clip='x' is no number"),
    ],
)
def test_a_part_that_is_declared_wrongly(tmp_path: Path, declared: str, code: str, told: str) -> None:
    file = tmp_path / "app.py"
    file.write_text(f"import skyriver as sr\n\napp = sr.App('shop')\npart = {declared}\n")
    with pytest.raises(InvalidInput) as caught:
        load_app(file)
    error = caught.value
    name = declared.partition("(")[0]
    assert (error.code, error.where) == (code, f"{file}:4")
    assert error.message == f"{name}: {told}."
    argument, is_value, _ = told.partition("=")
    known = f"{argument} is " if name == "sr.Service" and is_value else f"{name} takes "
    assert error.next_action.startswith(known)
    assert "http" not in str(error)


@pytest.mark.parametrize(("there", "meant"), [(["model.onnx", "modl.txt"], " Is 'model.onnx' meant?"), (["a.py"], "")])
def test_a_model_file_that_is_not_there_is_told_with_where_it_was_looked_for(there: list[str], meant: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        cli._file_digest(dict.fromkeys(there, "d"), "modl.onnx", Path("offers.py"))
    folder = Path.cwd()
    declared = f"offers.py declares onnx='modl.onnx', and there is no such file in its folder, {folder}."
    assert (caught.value.code, caught.value.message) == ("NO_MODEL_FILE", declared + meant)


def test_a_model_file_of_another_format_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "net.keras").write_bytes(b"PK")
    with pytest.raises(InvalidInput) as caught:
        cli._file_digest({"app.py": "d"}, "net.keras", tmp_path / "app.py")
    assert (caught.value.code, caught.value.message) == (
        "NO_MODEL_FILE",
        "app.py declares onnx='net.keras', which is no .onnx file.",
    )
    assert "`skyriver model import NAME net.keras`" in caught.value.next_action


def test_a_cloud_whose_home_is_in_the_folder_is_no_part_of_the_application(tmp_path: Path) -> None:
    for name in (
        "app.py",
        "settings/cloud.json",
        "home/cloud.json",
        "home/keys/trusted.json",
        "home/run/a.config.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert sorted(pack(tmp_path / "app.py").files) == ["app.py", "settings/cloud.json"]
    with pytest.raises(InvalidInput, match="in the home of a cloud"):
        pack(tmp_path / "home" / "app.py")
