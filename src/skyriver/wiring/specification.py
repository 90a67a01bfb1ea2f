"""What an application's file declares: `python -m skyriver.wiring.specification FILE ANSWER`, run in its environment.

The command line of the deployer starts it where a requirements.txt lies beside the file, so that the file is executed
with the very packages that its jobs will have, and nobody installs any by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from skyriver.client.appfile import load_app
from skyriver.core.errors import SkyriverError


def specification_of(file: Path) -> dict[str, Any]:
    """`spec` and its `places` in the file, or `problem` with what is wrong with it."""
    try:
        app = load_app(file)
        return {"spec": app.spec.to_json(), "places": app.places}
    except SkyriverError as error:
        return {"problem": error.to_problem()}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(specification_of(Path(sys.argv[1]))))
