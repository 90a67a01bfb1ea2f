"""Ray Train on two workers: as its documentation has it, with a checkpoint every ten steps; its workers write down
their steps as ours do. For the Python of an environment that has `ray[train]` and torch.

python _training_ray.py MODEL FOLDER STEPS
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))


def train(given: dict[str, Any]) -> None:
    from _training_work import BATCH, data_of, model_of, optimizer_of

    name, folder = given["model"], Path(given["folder"])
    torch.set_num_threads(1)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    model = model_of(name)
    optimizer, begun = optimizer_of(model), 0
    if (kept := ray.train.get_checkpoint()) is not None:
        with kept.as_directory() as at:
            state = torch.load(Path(at) / "state", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begun = state["step"]
    spread = ray.train.torch.prepare_model(model)
    x, y = data_of(name)
    with (folder / "steps" / f"{os.getpid()}").open("w", buffering=1) as told:
        for step in range(begun, given["steps"]):
            at = ((step * world + rank) * BATCH[name]) % (len(x) - BATCH[name])
            nn.functional.cross_entropy(spread(x[at : at + BATCH[name]]), y[at : at + BATCH[name]]).backward()
            optimizer.step()
            optimizer.zero_grad()
            told.write(f"{time.monotonic()} {step + 1} {world}\n")
            if (step + 1) % 10:
                continue
            with tempfile.TemporaryDirectory() as made:
                found = None
                if rank == 0:
                    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
                    torch.save(state, Path(made) / "state")
                    found = ray.train.Checkpoint.from_directory(made)
                ray.train.report({"step": step + 1}, checkpoint=found)


def main() -> None:
    name, folder, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    ray.init(num_cpus=3, include_dashboard=False, _temp_dir=str(folder / "ray"), log_to_driver=False)
    ray.train.torch.TorchTrainer(
        train,
        train_loop_config={"model": name, "folder": str(folder), "steps": steps},
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(
            storage_path=str(folder / "kept"),
            failure_config=ray.train.FailureConfig(max_failures=-1),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    ).fit()


if __name__ == "__main__":
    main()
