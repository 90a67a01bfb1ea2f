"""A whole cloud in which something goes wrong again and again: it is noticed, put down to what it is, and told."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

import numpy as np
from cloud_process import Cloud, wait_for
from onnx import helper
from onnx_models import model_of
from receiver import Receiver

from skyriver.observe.tracks import LOOK_S

APP = """\
import skyriver as sr

app = sr.App("shop")
app.model("price", onnx="price.onnx", serve=sr.Service(replicas=2, latency="1s", share=0.95))
"""


def test_a_replica_that_ends_again_and_again_is_told_with_its_cause(cloud: Cloud) -> None:
    nodes = [helper.make_node("Mul", ["x", "two"], ["y"])]
    price = model_of(nodes, [("x", 1, ["batch", 1])], [("y", 1, ["batch", 1])], {"two": np.float32([2.0])})
    (cloud.folder / "price.onnx").write_bytes(price)
    cloud.app.write_text(APP)
    cloud.command("up", "--port", cloud.port).succeeded()
    cloud.command("deploy", "shop.py", "-y").succeeded()
    receiver = Receiver()
    receiver.write_file(cloud.home, "ops", "default")
    (cloud.home / "sinks").rename(cloud.home / "alerts")
    assert cloud.json("alert", "test", "ops")["taken"] is True
    cloud.wait_ready()
    assert "Nothing is wrong that is known." in cloud.command("incident", "list").succeeded().err

    def ended() -> dict[str, Any] | None:
        found: list[dict[str, Any]] = cloud.json("incident", "list")
        if not found and (pid := cloud.processes().get("price-1-1")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(LOOK_S)
        return found[0] if found else None

    incident = wait_for(ended, "an incident")
    assert incident["status"]["causes"][0]["kind"] == "death"
    assert incident["status"]["causes"][0]["subject"] == "default:replica/price-1-1"
    wait_for(lambda: len(receiver.acted) >= 2, "it is told")
    told = receiver.acted[1]
    assert (told["type"], told["data"]["incident"], receiver.unsigned) == ("incident.opened", "incident-1", 0)
    assert "price-1-1" in told["text"]
    shown = cloud.command("incident", "get", "incident-1").succeeded().out
    assert "LIKELY BECAUSE" in shown
    cloud.command("incident", "ack", "incident-1", "--why", "I look").succeeded()
    assert cloud.json("incident", "get", "incident-1")["state"] == "ACKNOWLEDGED"
    refused = cloud.command("incident", "ack", "incident-1")
    assert (refused.code, "REFUSED_TRANSITION" in refused.err) == (6, True)
    receiver.close()
