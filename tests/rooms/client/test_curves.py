"""Curves on the screen, as a page, and runs side by side."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from skyriver.client import curve_page, curve_svg, curves
from skyriver.client.screen import Screen
from skyriver.core.curves import Curves
from skyriver.core.errors import InvalidInput


def told(name: str = "shop-run-1", *, steps: int = 40, params: dict[str, str] | None = None, **more: Any) -> Any:
    book = Curves()
    for step in range(1, steps + 1):
        book.tell(step, {"loss": 1.0 / step, "auc": 1 - 0.5 / step}, step, samples=10, of=40)
        book.take({"cores": 1.5, "rss_mb": 300.0 + step})
    run = {"name": name, "job": f"{name}-train", "model": "shop", "version": "", "state": "SUCCEEDED", "params": params}
    run |= {"metrics": {"auc": 0.75}, "data": {"sales": 3}, "code": "c" * 64, "started_at": 0, "ended_at": 2_000_000}
    run |= {"artifact": "", "now": {"cores": 1.5, "rss_mb": 340.0, "peak_mb": 350.0}, **book.document()}
    return {**run, "params": params or {"trees": "30"}, **more}


def curve(*values: float | str) -> dict[str, Any]:
    odd = [step for step, value in enumerate(values) if isinstance(value, str)]
    points = [[step, value, 0] for step, value in enumerate(values)]
    return {
        "points": points, "seen": len(values), "not_finite": len(odd), "first_not_finite": odd[0] if odd else None,
    }  # fmt: skip


class Cloud:
    def __init__(self, *runs: Any) -> None:
        self._runs = {run["version"] or run["name"]: run for run in runs}

    def __enter__(self) -> Cloud:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def curves(self, name: str) -> Any:
        return self._runs[name]

    def get(self, kinds: str, name: str) -> Any:
        assert kinds == "jobs"
        return {"name": name, "spec": {"kind": "train"}}


def in_terminal(run: Any, *more: Any) -> str:
    screen = Screen(as_json=False)
    screen.out = Console(force_terminal=True, width=120, record=True, highlight=False, file=io.StringIO())
    curve_page.curves(screen, [run, *more])
    return screen.out.export_text()


def test_a_plot_falls_as_its_curve_does() -> None:
    lines = [re.sub(r"\[/?[a-z ]*\]", "", line) for line in curve_page.plot([("a", curve(4.0, 3.0, 2.0, 1.0))], 20, 4)]
    assert len(lines) == 6
    assert lines[0].startswith("4 │⠉⠒⠤")
    assert lines[3].startswith("1 │ ")
    assert lines[3].rstrip().endswith("⠒⠤⣀")
    assert lines[-1].split() == ["0", "3"]


@pytest.mark.parametrize(
    "values",
    [(1.0,), (1.0, 1.0), (0.0, 0.0), (1e308, -1e308), (5e-324, 0.0), (1.0, "NaN", 2.0), ("NaN", 1.0), (1e-300, 1.0)],
    ids=str,
)
def test_whatever_is_told_can_be_drawn(values: tuple[Any, ...]) -> None:
    lines = list(curve_page.plot([("a", curve(*values))]))
    assert len(lines) == curve_page.ROWS + 2
    assert any("⠀" < sign <= "⣿" for sign in "".join(lines))
    drawn = ElementTree.fromstring(curve_svg.panel("loss", [("a", curve(*values))]))
    numbers = re.findall(r"-?[\d.]+", " ".join(e.get("points", "") for e in drawn.iter()))
    assert all(0 <= float(number) <= curve_svg.WIDTH for number in numbers)


def test_what_is_never_finite_says_so() -> None:
    assert "no value of it is a finite number" in "".join(curve_page.plot([("a", curve("NaN", "Infinity"))]))
    assert "No value of it" in curve_svg.panel("loss", [("a", curve("NaN"))])


def test_names_are_text_on_the_page_and_on_the_screen() -> None:
    name = "<script>alert('x')</script> [red]&\"loss"
    run = told("a<b", curves={name: curve(1.0, 2.0)})
    page = curve_svg.page("t & t", [run, told("c")], [("What <differs>", [["", "a<b"], [name, "<i>"]])])
    assert "<script" not in page
    assert "<i>" not in page
    for drawing in re.findall(r"<svg.*?</svg>", page):
        ElementTree.fromstring(drawing)
    assert name in in_terminal(run)


def test_a_page_needs_nothing_from_elsewhere_and_has_axes_and_a_legend() -> None:
    page = curve_svg.page("two", [told("first"), told("second")], [])
    assert not re.search(r"(src|href)=|@import|url\(", page)
    loss = next(each for each in re.findall(r"<svg.*?</svg>", page) if "<title>loss" in each)
    texts = [element.text for element in ElementTree.fromstring(loss).iter() if element.text]
    assert {"first", "second", "step", "0.4", "10"} <= set(texts)
    assert loss.count("<polyline") == 2
    assert re.findall(r"<title>(.*?)</title>", page)[1:] == ["loss", "auc", "cores in use", "memory, MB"]
    ElementTree.fromstring(curve_svg.sheet("two", [told("first")]))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.2, 0.9), (-3, 3), (0, 4_000), (1e-9, 2e-9), (-1e308, 1e308)])
def test_ticks_are_round_and_lie_within(low: float, high: float) -> None:
    found = curve_svg.ticks(low, high)
    assert 2 <= len(found) <= curve_svg.TICKS + 1
    assert all(low - 1e-9 * abs(low) <= tick <= high + 1e-9 * abs(high) for tick in found)
    assert all(math.isfinite(tick) for tick in found)


def test_in_a_terminal_it_is_a_plot_and_in_a_pipe_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    seen = in_terminal(told())
    assert "⠀" < max(seen) <= "⣿"
    assert seen.count("└") == 2
    curve_page.curves(Screen(as_json=False), [told()])
    piped = capsys.readouterr().out
    assert max(piped) < "⠀"
    assert [line.split() for line in piped.splitlines() if line.startswith("loss")] == [
        ["loss", "40", "1", "0.025", "1", "0.025"]
    ]


def test_job_get_shows_the_curves_and_json_the_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(curves, "connect", lambda: Cloud(told(curves={**told()["curves"], "bad": curve(1.0, "NaN")})))
    curves.job_get("shop-run-1")
    out = capsys.readouterr().out
    assert "step 40 of 40, 2 s, 1.5 cores, 340 MB (at most 350)" in out
    assert "-p trees 30" in out
    assert "1 not finite, from step 1" in out
    curves.job_get("shop-run-1", as_json=True)
    assert json.loads(capsys.readouterr().out)["spec"]["kind"] == "train"


def test_runs_side_by_side(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = told("shop-run-2", params={"trees": "60", "rate": "0.1"}, version="shop:2", data={"sales": 4}, steps=20)
    monkeypatch.setattr(curves, "connect", lambda: Cloud(told(), other))
    curves.job_compare(["shop-run-1", "shop:2"], tmp_path / "both.html")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["-p", "trees", "30", "60"] in lines
    assert ["-p", "rate", "0.1"] in lines
    assert ["table", "sales", "version", "3", "version", "4"] in lines
    assert not [line for line in lines if line[:1] == ["code"]]
    assert ["auc", "0.75", "0.75"] in lines
    assert ["loss,", "last", "step", "0.025", "0.05"] in lines
    assert "shop:2" in (tmp_path / "both.html").read_text()
    curves.job_compare(["shop-run-1", "shop:2"], as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["differ"]["-p trees"] == ["30", "60"]
    assert [run["name"] for run in found["runs"]] == ["shop-run-1", "shop-run-2"]
    curves.job_compare(["shop-run-1", "shop-run-1"], tmp_path / "same.svg")
    assert "The same parameters" in capsys.readouterr().err


@pytest.mark.parametrize("names", [["a"], list("abcdefg")], ids=["one", "seven"])
def test_one_or_too_many_are_not_compared(names: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        curves.job_compare(names)
    assert refused.value.code == "BAD_COMPARISON"


def test_a_file_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(curves, "connect", lambda: Cloud(told()))
    with pytest.raises(InvalidInput) as refused:
        curves.job_curves("shop-run-1", save=tmp_path / "curve.png")
    assert refused.value.code == "BAD_FILE"
    assert not list(tmp_path.iterdir())


class Goes:
    """A run that goes on for two looks."""

    def __init__(self) -> None:
        self._looks = iter([told(steps=5, state="RUNNING"), told(steps=20, state="RUNNING"), told()])

    def __enter__(self) -> Goes:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def curves(self, name: str) -> Any:
        return next(self._looks)


def test_curves_are_followed_until_the_run_has_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(curves, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(curves, "connect", Goes)
    curves.job_curves("shop-run-1", following=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["step"] == 40
    seen = io.StringIO()
    screen = Screen(as_json=False)
    screen.out = Console(force_terminal=True, width=100, height=20, highlight=False, file=seen)
    assert curves._followed(Goes(), screen, "shop-run-1")["state"] == "SUCCEEDED"  # type: ignore[arg-type]
    assert "step 5 of 40" in seen.getvalue()
    assert "step 20 of 40" in seen.getvalue()
    assert "⠀" < max(seen.getvalue()) <= "⣿"
    assert "auc" not in seen.getvalue()  # in 20 lines one plot fits
