"""What every part of a specification is: plain data, whose names may become names of files and routes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from skyriver.core.errors import InvalidInput
from skyriver.core.names import check_field, check_name, digest


def _relative(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or "\\" in path or "\0" in path:
        raise InvalidInput(
            f"{path!r} is no path inside the application's folder.",
            code="BAD_PATH",
            next_action="Give a path below the application's file, without `..`.",
        )
    return path


Name = Annotated[str, AfterValidator(lambda name: check_name(name, "anything here"))]
FieldName = Annotated[str, AfterValidator(lambda name: check_field(name, "a field, feature, label or metric"))]
InnerPath = Annotated[str, AfterValidator(_relative)]
"""Checked here too: a specification may come from anywhere, and names become file names and routes."""


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def digest(self) -> str:
        return digest(self.to_json())
