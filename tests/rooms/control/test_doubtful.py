"""What is possible and hardly meant: a plan warns of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from api_stage import BASE, Stage

import skyriver as sr
from skyriver.control.doubtful import doubtful
from skyriver.core.spec import AppSpec, DecideSpec, DecisionRule


def of(serve: sr.Service) -> list[tuple[str, str, str]]:
    app = sr.App("shop")
    app.model("price", onnx="m.onnx", serve=serve)
    return list(doubtful(app.spec))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"share": 0.9}, ["share=0.9 counts only answers that fail"]),
        ({"share": 0.9, "latency": "50ms"}, []),
        ({"replicas": (0, 1), "idle": "10s"}, ["idle='10s' puts it to sleep between requests"]),
        ({"replicas": (0, 1), "idle": "15s"}, []),
        ({"replicas": (0, 1), "idle": "2s", "share": 0.9}, ["share=0.9", "idle='2s'"]),
        ({}, []),
    ],
    ids=str,
)
def test_of_a_service(given: dict[str, Any], told: list[str]) -> None:
    found = of(sr.Service(**given))
    assert [(kind, name) for kind, name, _ in found] == [("service", "price")] * len(told)
    assert all(why.startswith(begin) for (_, _, why), begin in zip(found, told, strict=True))


@pytest.mark.parametrize(
    ("fallback", "told"),
    [
        ("blok", "fallback='blok' is decided by nothing else: is 'block' meant?"),
        ("aprove", "fallback='aprove' is decided by nothing else: is 'approve' meant?"),
        ("block", ""),
        ("approve", ""),
        ("review", ""),  # a word for what had no score is as good as any
    ],
)
def test_of_a_fallback_that_is_nearly_a_decision(fallback: str, told: str) -> None:
    rules = (DecisionRule(decision="block", when="score > 0.9"),)
    decide = DecideSpec(stream="orders", model="m", rules=rules, otherwise="approve", fallback=fallback)
    app = AppSpec.model_construct(name="shop", models=(), decides=(decide,))
    assert list(doubtful(app)) == ([("stream", "orders", told)] if told else [])


@pytest.mark.parametrize(
    ("serve", "status", "told"),
    [
        ({"replicas": [0, 1], "idle": "2s"}, 200, "idle='2s' puts it to sleep"),
        ({"latency": "1us"}, 422, "The service of 'price': latency='1us' is less than 1ms."),
    ],
    ids=str,
)
def test_a_deployment_warns_of_it_and_refuses_what_cannot_be_meant(
    tmp_path: Path, serve: dict[str, Any], status: int, told: str
) -> None:
    stage = Stage(tmp_path)
    body, shop = stage.body(), sr.App("shop")
    shop.model("price", registered=True)
    models = [{**shop.spec.to_json()["models"][0], "serve": serve}]
    spec = AppSpec.model_validate({**body["spec"], "models": models, "decides": []})
    body |= {"spec": spec.to_json(), "spec_digest": spec.digest()}
    answer = stage.caller.request("PUT", f"{BASE}/apps/shop?dry_run=true", json=body, headers=stage.issue())
    assert answer.status_code == status, answer.text
    if status == 200:
        [warned] = [line for line in answer.json()["plan"] if line["action"] == "warn"]
        assert (warned["kind"], warned["name"]) == ("service", "price")
        assert warned["detail"].startswith(told)
    else:
        assert (answer.json()["code"], told in answer.text) == ("BAD_SERVICE", True)
