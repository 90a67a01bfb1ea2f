"""Certificates that the tests sign themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """Signs certificates for 127.0.0.1 and for clients."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            if os.environ.get("CI"):
                pytest.fail("openssl is missing")
            pytest.skip("openssl is not installed")
        self.folder = folder
        folder.mkdir()
        self.ca = self._new("ca", "-x509", "-addext", "basicConstraints=critical,CA:TRUE")
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        self.server, self.client = self._signed("server"), self._signed("client")

    def key(self, certificate: str) -> str:
        return certificate.removesuffix(".pem") + ".key"

    def _new(self, name: str, *more: str) -> str:
        made = f"{self.folder}/{name}.pem"
        self._run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
                  "-keyout", self.key(made), "-out", made, *more)  # fmt: skip
        return made

    def _signed(self, name: str) -> str:
        request = self._new(name)
        self._run("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.key(self.ca), "-CAcreateserial",
                  "-extfile", f"{self.folder}/names", "-out", request)  # fmt: skip
        return request

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
