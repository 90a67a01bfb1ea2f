"""A worker under torchrun: as its documentation has it, with a checkpoint every ten steps; writes down its steps as
ours do.

torchrun --standalone --nproc-per-node 2 --max-restarts 100 _training_torchrun.py MODEL FOLDER STEPS
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from _training_work import BATCH, data_of, model_of, optimizer_of
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    name, folder, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    model = model_of(name)
    optimizer, begun = optimizer_of(model), 0
    if (folder / "checkpoint").exists():
        state = torch.load(folder / "checkpoint", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begun = state["step"]
    spread = DistributedDataParallel(model)
    x, y = data_of(name)
    with (folder / "steps" / f"{os.getpid()}").open("w", buffering=1) as told:
        for step in range(begun, steps):
            at = ((step * world + rank) * BATCH[name]) % (len(x) - BATCH[name])
            nn.functional.cross_entropy(spread(x[at : at + BATCH[name]]), y[at : at + BATCH[name]]).backward()
            optimizer.step()
            optimizer.zero_grad()
            told.write(f"{time.monotonic()} {step + 1} {world}\n")
            if rank == 0 and (step + 1) % 10 == 0:
                made = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
                torch.save(made, folder / "checkpoint.new")
                (folder / "checkpoint.new").rename(folder / "checkpoint")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
