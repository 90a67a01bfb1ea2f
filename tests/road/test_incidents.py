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
    told = cloud.command("incident", "list").succeeded()
    assert "Nothing is wrong that is known." in told.err or "price" not in told.out

    def ended() -> dict[str, Any] | None:
        """Of the service: a machine that does much else may have incidents of its own."""
        listed = cloud.json("incident", "list")
        found = [i for i in listed if any("price" in c["subject"] for c in i["status"]["conditions"])]
        if not found and (pid := cloud.processes().get("price-1-1")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(LOOK_S)
        return found[0] if found else None

    incident = wait_for(ended, "an incident")
    assert incident["status"]["causes"][0]["kind"] == "death"
    assert incident["status"]["causes"][0]["subject"] == "default:replica/price-1-1"
    name = incident["name"]
    opened = wait_for(lambda: [a for a in receiver.acted if a["data"].get("incident") == name], "it is told")[0]
    assert (opened["type"], receiver.unsigned) == ("incident.opened", 0)
    assert "price-1-1" in opened["text"]
    shown = cloud.command("incident", "get", name).succeeded().out
    assert "LIKELY BECAUSE" in shown
    cloud.command("incident", "ack", name, "--why", "I look").succeeded()
    assert cloud.json("incident", "get", name)["state"] == "ACKNOWLEDGED"
    refused = cloud.command("incident", "ack", name)
    assert (refused.code, "REFUSED_TRANSITION" in refused.err) == (6, True)
    receiver.close()
