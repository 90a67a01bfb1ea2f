"""A whole cloud whose operator gave prices: what runs costs something, whoever ended in between."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from cloud_process import Cloud, kill, wait_for
from onnx import helper
from onnx_models import model_of

APP = """\
import skyriver as sr

app = sr.App("shop")
app.model("price", onnx="price.onnx", serve=sr.Service(replicas=2, cpus=0.5, memory_mb=400))
"""
PRICES = """\
as_of = {today}
currency = "EUR"
core_hour = 360
memory_gb_hour = 0
storage_gb_month = 0
egress_gb = 0
"""


def test_what_runs_costs_something_also_while_the_control_plane_is_away(cloud: Cloud) -> None:
    nodes = [helper.make_node("Mul", ["x", "two"], ["y"])]
    price = model_of(nodes, [("x", 1, ["batch", 1])], [("y", 1, ["batch", 1])], {"two": np.float32([2.0])})
    (cloud.folder / "price.onnx").write_bytes(price)
    cloud.app.write_text(APP)
    cloud.command("up", "--port", cloud.port).succeeded()
    (cloud.home / "prices.toml").write_text(PRICES.format(today=date.today()))
    cloud.command("deploy", "shop.py", "-y").succeeded()
    cloud.wait_ready()
    wait_for(lambda: cloud.json("price", "get", "core_hour")["price"] == "360", "the prices are read")
    cloud.command("predict", "price", "x=1").succeeded()

    def cost_of(least: Decimal) -> dict[str, Any] | None:
        asked = cloud.command("cost", "--json")
        if "CONTROL_AWAY" in asked.err:  # killed below, and not back yet
            return None
        service = [item for item in asked.succeeded().json["items"] if item["kind"] == "service"]
        return service[0] if service and Decimal(service[0]["total"]) > least else None

    first = wait_for(lambda: cost_of(Decimal(0)), "something is counted")
    assert (first["app"], first["name"]) == ("shop", "price")
    assert first["memory_gb_hours"] / first["core_hours"] == pytest.approx(0.8, rel=0.01)
    kill(json.loads((cloud.home / "run" / "control.json").read_bytes())["pid"])
    second = wait_for(lambda: cost_of(Decimal(first["total"]) + 1), "the next control plane goes on")  # 10 s
    assert second["predictions"] == 1
    assert second["egress_gb"] > 0
    shown = cloud.command("cost", "--since", "1h").succeeded()
    assert "TOTAL EUR" in shown.out
    assert "█" in cloud.command("cost", "get", "price").succeeded().out
    cloud.command("cost", "get", "nothing").refused("NOT_FOUND", 3, "nothing")
    (cloud.home / "prices.toml").write_text("core_hour = -1")
    refused = wait_for(lambda: (found := cloud.command("price", "list", "--json")).code and found, "it is refused")
    cloud.command("price", "list").refused("BAD_PRICES", 2, "prices.toml", "core_hour is -1", "The prices before stay")
    price = refused.json["items"][0]
    assert (price["price"], price["source"]) == ("360", f"{cloud.home / 'prices.toml'}, as it was before")
