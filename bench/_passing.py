"""What it costs a request that its key is the new version's: the way over a replica of the champion.

One client asks a cloud through its gateway, in turn for a key of each version, while half of the keys are the new
one's."""

from __future__ import annotations

import http.client
import time
from pathlib import Path
from statistics import median

import onnx.parser
from _document import Document, Goal
from _processes import Failed, cloud_home, free_port
from _serving_systems import product

from skyriver.data.keys import key_of
from skyriver.release.places import place_of

PASSING_GOALS = (Goal("passing_on_p50_ms", "<=", 1.0, "ms"),)
MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
shop (float[n, 3] features) => (float[n, 1] score)
<float[3, 1] weight = {0.1, 0.2, 0.3}, float[1] base = {BASE}>
{ sum = MatMul(features, weight) score = Add(sum, base) }
"""
APP = """\
import skyriver as sr

app = sr.App("shop")
app.model("shop", onnx="shop.onnx", rollout=sr.Canary([50, 100], every="1h", key="x-customer"))
"""
BODY = b'{"features": [1, 2, 3]}'
WARM = 50


def measure_passing(document: Document, asks: int) -> None:
    """`asks` of each version."""
    with cloud_home() as home:
        folder = home.parent / "app"
        folder.mkdir(parents=True)
        told = product(home, "up", "--port", str(free_port()))
        _deploy(home, folder, "0.5")
        _deploy(home, folder, "0.5000001")
        port, headers = int(str(told["url"]).rpartition(":")[2]), {"authorization": f"Bearer {told['token']}"}
        keys = {version: _key(version) for version in (1, 2)}
        took: dict[int, list[float]] = {1: [], 2: []}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        deadline = time.monotonic() + 60
        while b'"version":2' not in _ask(connection, headers, keys[2]):  # the share begins a second later
            if time.monotonic() > deadline:
                raise Failed("no key was the new version's within 60 s")
        for number in range(WARM + asks):
            for version, key in keys.items():
                begun = time.perf_counter()
                answer = _ask(connection, headers, key)
                if number >= WARM:
                    took[version].append(time.perf_counter() - begun)
                if b'"version":%d' % version not in answer:
                    raise Failed(f"a key of version {version} was answered {answer!r}")
        connection.close()
    p50 = {version: 1e3 * median(seconds) for version, seconds in took.items()}
    document.row(
        "skyriver",
        f"a request at a time through the gateway, {asks} of each version in turn",
        champion_p50_ms=round(p50[1], 3),
        passed_on_p50_ms=round(p50[2], 3),
    )
    document.measured("passing_on_p50_ms", round(p50[2] - p50[1], 3))


def _key(version: int) -> str:
    """One of this version's, while version 2 has half of them."""
    return next(str(n) for n in range(1_000) if (place_of(key_of(str(n)), 2) < 50) == (version == 2))


def _ask(connection: http.client.HTTPConnection, headers: dict[str, str], key: str) -> bytes:
    connection.request("POST", "/predict/shop", BODY, headers | {"x-customer": key})
    answer = connection.getresponse()
    found = answer.read()
    if answer.status != 200:
        raise Failed(f"{answer.status}: {found!r}")
    return found


def _deploy(home: Path, folder: Path, base: str) -> None:
    model = onnx.parser.parse_model(MODEL.replace("BASE", base))
    (folder / "shop.onnx").write_bytes(model.SerializeToString())
    (folder / "app.py").write_text(APP)
    product(home, "deploy", str(folder / "app.py"), "-y")
