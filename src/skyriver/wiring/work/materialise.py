"""The work that carries a stream's log into its tables."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.core.spec import StreamSpec
from skyriver.data.materialise import materialise
from skyriver.data.tables import TableVersion
from skyriver.wiring.logs import log_reader
from skyriver.wiring.tier import open_tier
from skyriver.wiring.work.job import Job


def work(job: Job) -> dict[str, Any]:
    """Outputs: the new `tables`."""
    made = bring_up_to_date(job, job.app.stream(job.target))
    return {"tables": {name: asdict(version) for name, version in made.items()}}


def bring_up_to_date(job: Job, stream: StreamSpec) -> dict[str, TableVersion]:
    """Appends what the log holds beyond the tables; the newest versions by table."""
    known = {job.table(name): int(status["version"]) for name, status in job.known.items() if "version" in status}
    tables = DeltaTables(job.home.tables)
    with log_reader(
        stream, job.stream_directory(stream.name), job.home.root, job.tenant, open_tier(job.home)
    ) as reader:
        end = reader.sync()  # the tables are on the disk: they must not know more than the log does after a power cut
        begin = reader.first_offset
        made = materialise(stream, reader, tables, job.tenant, known, job.progress, begin=begin, end=end)
    return {name.partition("/")[2]: version for name, version in made}
