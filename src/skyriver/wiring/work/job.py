"""One job with what it may touch: its inputs, and this machine's objects, tables and streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.client.appfile import load_app, unpack
from skyriver.core.app import App
from skyriver.core.errors import Conflict
from skyriver.core.jobs import Progress
from skyriver.core.spec import AppSpec
from skyriver.wiring.home import Home
from skyriver.wiring.model_files import ModelFiles
from skyriver.wiring.process import ProcessContext
from skyriver.wiring.tracking import Tracking

CURVE_FILE = "curve.json"
"""The artifact of a job that told values by step."""


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    tenant: str
    target: str
    app: AppSpec
    code: Mapping[str, str]
    params: Mapping[str, Any]
    inputs: Mapping[str, Any]
    known: Mapping[str, Mapping[str, Any]]
    """Tables as the control plane has recorded them, by name."""
    home: Home
    work_dir: Path
    objects: DirectoryObjects
    progress: Progress
    index: int | None = None
    attempt: int = 1
    slot: str = ""
    tracking: Tracking | None = None
    workers: int = 0
    """Processes that its work may be spread among."""
    gpus: int = 0
    """That are its own."""

    @classmethod
    def of(cls, context: ProcessContext, progress: Progress, tracking: Tracking | None = None) -> Job:
        home, config = Home(context.home), context.config
        return cls(
            name=config["job"],
            tenant=context.tenant,
            target=config["target"],
            app=AppSpec.model_validate(config["app"]),
            code=config["code"],
            params=config["params"],
            inputs=config["inputs"],
            known=config["tables"],
            home=home,
            work_dir=context.work_dir,
            objects=DirectoryObjects(home.objects),
            progress=progress,
            index=config.get("index"),
            attempt=config.get("attempt", 1),
            slot=config.get("slot") or "",
            tracking=tracking,
            workers=config.get("workers", 0),
            gpus=len(config.get("gpus", ())),
        )

    def curve(self, step: int, values: Mapping[str, Any], samples: int = 0, of: int = 0) -> None:
        """Tells values of a step by their names, as often as one likes: it takes microseconds. `samples` that the step
        took, `of` how many steps there will be. A step that was told before begins anew from there. Raises
        InvalidInput (BAD_METRIC, TOO_MANY_METRICS)."""
        if self.tracking is not None:
            self.tracking.tell(step, values, samples, of)

    def kept_curve(self) -> str | None:
        """The digest of all that was told so far, as an object; None where nothing was."""
        if self.tracking is not None:
            self.tracking.flush()  # with what it took, also where it was done within a second
        document = self.tracking.document() if self.tracking is not None else None
        return self.objects.put(document) if document is not None else None

    @property
    def model_files(self) -> ModelFiles:
        """Files of versions are read by it alone: whole, and signed."""
        return ModelFiles(self.home, self.tenant, self.objects)

    def table(self, name: str) -> str:
        """Its name for the `Tables` port."""
        return f"{self.tenant}/{name}"

    def known_version(self, name: str) -> int | None:
        version = self.known.get(name, {}).get("version")
        return None if version is None else int(version)

    def stream_directory(self, stream: str) -> Path:
        return self.home.streams / self.tenant / stream

    @property
    def app_path(self) -> Path:
        """The application's file, once it is unpacked."""
        return self.work_dir / "app" / self.code["main"]

    def unpack(self) -> Path:
        """The application's file, unpacked from its bundle."""
        unpack(self.objects.get(self.code["bundle"]), self.work_dir / "app")
        return self.app_path

    def load_app(self) -> App:
        """The application as its author declared it. Raises Conflict (SPEC_DRIFT) when executing the file again gives
        another specification."""
        app = load_app(self.unpack())
        if app.spec.digest() != self.app.digest():
            raise Conflict(
                "The application file gives another specification here than it gave when it was deployed.",
                code="SPEC_DRIFT",
                where=self.code["main"],
                next_action="Declare the same whatever the time, the environment and the machine; deploy again.",
            )
        return app
