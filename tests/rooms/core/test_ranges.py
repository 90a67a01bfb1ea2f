"""Who is told that a value is none is told what it may be, and one that is."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import skyriver as sr
from skyriver.adapters.haproxy.config import SERVER_MS
from skyriver.client.appfile import load_app
from skyriver.core.errors import InvalidInput
from skyriver.core.ranges import DECISIONS, MOST_ANSWER, SERVICE, hint
from skyriver.core.spec import DecideSpec, ServiceSpec, check_service

HEAD = "import skyriver as sr\n\napp = sr.App('shop')\n"


def test_every_argument_of_a_service_has_a_range_and_an_example_that_is_taken() -> None:
    assert SERVICE.keys() == ServiceSpec.model_fields.keys()
    beside: dict[str, dict[str, Any]] = {
        "idle": {"replicas": (0, 1)},
        "wake": {"replicas": (0, 1)},
        "hold": {"replicas": (1, 4)},
    }
    for name, known in SERVICE.items():
        if name != "features":  # of a stream that the application declares
            value = ast.literal_eval(known.example)
            check_service(sr.Service(**{name: value, **beside.get(name, {})}), "The service")


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("share", 0.5, 1.0), ("cpus", 0, 1_024), ("memory_mb", 0, 2**24), ("priority", -100, 100)],
)
def test_the_ranges_that_are_told_are_those_that_hold(name: str, least: float, most: float) -> None:
    metadata = ServiceSpec.model_fields[name].metadata
    limits = {
        getattr(m, key) for m in metadata for key in ("gt", "ge", "lt", "le") if getattr(m, key, None) is not None
    }
    assert {least, most} <= limits
    told = SERVICE[name].what
    assert f"{most:,}".removesuffix(".0") in told
    assert f"{least:,}" in told or least == 0


def test_what_decisions_take_is_known() -> None:
    assert {"latency", "share", "cpus", "deadline", "cheaper"} == DECISIONS.keys()
    assert {"latency_us", "share", "deadline_us", "cheaper"} <= DecideSpec.model_fields.keys()


def test_no_answer_is_later_than_the_gateway_waits() -> None:
    assert MOST_ANSWER == SERVER_MS * 1_000


@pytest.mark.parametrize(
    ("declared", "message", "action"),
    [
        ("latency=150", "latency=150 is no text", 'latency is a duration from 1ms to 2m: write latency="150ms".'),
        ("latency=0.15", "latency=0.15 is no text", 'latency is a duration from 1ms to 2m: write latency="150ms".'),
        ("share=90", "share=90 is not less than 1.0", "share is a number above 0.5 and below 1: write share=0.9."),
        ("share=95", "share=95 is not less than 1.0", "share is a number above 0.5 and below 1: write share=0.95."),
        (
            "share=float('nan')",
            "share=nan is no finite number",
            "share is a number above 0.5 and below 1: write share=0.9.",
        ),
        ("priority=1000", "priority=1000 is more than 100", "priority is a whole number from -100 to 100: "),
        ("cpus=0", "cpus=0 is not more than 0.0", "cpus is a number of cores above 0, at most 1,024: write cpus=0.5."),
        ("replicas=(1, 2, 3)", "replicas: (1, 2, 3) is not (least, most)", "replicas is a whole number from 1 to 64"),
        ("replicas=(1.5, 2)", "replicas=(1.5, 2) is no whole number", "or (least, most) with a least from 0 on"),
        ("replicas=(4, 1)", "replicas=(4, 1): they are (least, most), as in (1, 4)", "write replicas=(1, 4)."),
        ('replicas=(0, 1), latency="150ms", wake="100ms"', "wake='100ms' must be longer", "wake is a duration from"),
        ('replicas=(0, 1), idle="1ms"', "idle='1ms' is shorter than a second", 'write idle="10m".'),
        ('idel="1m"', "idel is not known (did you mean 'idle'?)", "sr.Service takes replicas, cpus, "),
    ],
)
def test_a_wrong_argument_of_a_service(tmp_path: Path, declared: str, message: str, action: str) -> None:
    file = tmp_path / "app.py"
    file.write_text(f"{HEAD}part = sr.Service({declared})\n")
    with pytest.raises(InvalidInput) as caught:
        load_app(file)
    assert caught.value.message.startswith(f"sr.Service: {message}")
    assert action in caught.value.next_action


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ('latency="1us"', "latency='1us' is less than 1ms"),
        ('latency="2h"', "latency='2h' is more than 2m"),
        ('replicas=(1, 2), hold="400d"', "hold='400d' is more than 30d"),
        ('replicas=(0, 2), idle="400d"', "idle='400d' is more than 30d"),
        ('replicas=(0, 2), wake="1h"', "wake='1h' is more than 2m"),
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_is_declared_and_stays_readable(
    tmp_path: Path, declared: str, message: str
) -> None:
    serve = eval(f"sr.Service({declared})", {"sr": sr})
    assert ServiceSpec.model_validate(serve.to_json()) == serve  # a row of before goes on being read
    file = tmp_path / "app.py"
    file.write_text(f"{HEAD}app.model('quote', onnx='m.onnx', serve=sr.Service({declared}))\n")
    with pytest.raises(InvalidInput) as caught:
        load_app(file)
    assert caught.value.message == f"The service of 'quote': {message}."
    assert caught.value.code == "BAD_SERVICE"
    name = message.partition("=")[0]
    assert caught.value.next_action == hint(SERVICE, name)


def test_a_duration_that_is_none() -> None:
    with pytest.raises(InvalidInput, match="'fast' is not a latency") as caught:
        sr.Service(latency="fast")
    assert caught.value.next_action == 'latency is a duration from 1ms to 2m: write latency="150ms".'


def test_an_option_is_told_as_an_option() -> None:
    assert hint(SERVICE, "share", 2.0, option=True) == "--share is a number above 0.5 and below 1: write --share 0.9."
    assert hint(SERVICE, "latency", "1us", option=True).endswith("write --latency 150ms.")
    assert hint(SERVICE, "replicas", option=True) == "Write --replicas 3, or --replicas 1..8, with 64 at the most."
    assert hint(SERVICE, "nothing") == ""
