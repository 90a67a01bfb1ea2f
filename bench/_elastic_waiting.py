"""A replica whose work is a wait: so two cores are enough for a dozen of them.

`_elastic_live.py` puts a copy of this file, as `sitecustomize`, before what a cloud's processes import. In replicas
each run of a model then takes SERVICE_S longer; nothing else of them is changed.
"""

from __future__ import annotations

import sys

SERVICE_S = 0.08


def make_it_wait() -> None:
    import time

    from skyriver.serve.runner import Runner

    run = Runner.run

    def waits(self: Runner, inputs: object) -> object:
        time.sleep(SERVICE_S)
        return run(self, inputs)  # type: ignore[arg-type]

    Runner.run = waits  # type: ignore[assignment, method-assign]


if "skyriver.wiring.replica" in sys.orig_argv:
    make_it_wait()
