"""Program for the launchers in tests: several trainings of train.py, in processes without a GPU.

    accelerate launch --config_file configs/accelerate/fsdp2.yaml --num_processes 2 tests/launched.py RUNS.json

RUNS.json holds the arguments of each training. Accelerate shards on GPUs only, and has no backend for DeepSpeed without
a GPU. So the processes are connected by gloo before train.py looks for them, and for FSDP they are reported as GPU
processes. Everything else is done by the launcher, its configuration and train.py.
"""

import json
import os
import sys
from pathlib import Path

import torch
import transformers.training_args
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from gemma_lisa import train
from gemma_lisa.training.trainer import GemmaLisaTrainer


def connect() -> None:
    """Connect the processes to a new group, for every training."""
    AcceleratorState._reset_state(reset_partial_state=True)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        PartialState(backend="gloo")
        return
    PartialState(cpu=True)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


class WatchedTrainer(GemmaLisaTrainer):
    """Prints how many parameters are sharded after each step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shared: list[int] = []  # after each step

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.shared.append(sum(held(parameter) <= share(parameter) for parameter in self.model.parameters()))
        return loss

    def train(self, *args, **kwargs):
        output = super().train(*args, **kwargs)
        line = f"{len(self.shared)} steps, sharded: {min(self.shared)} of {len(list(self.model.parameters()))}"
        print(f"<{line}>\n", end="", flush=True)  # one write, so that processes do not mix their lines
        return output


def held(parameter: torch.nn.Parameter) -> int:
    """Return how many values of a parameter this process holds."""
    if isinstance(parameter, DTensor):
        return parameter.to_local().numel()
    # DeepSpeed keeps the shard separately, and frees the gathered weight after use
    return parameter.numel() + (parameter.ds_tensor.numel() if hasattr(parameter, "ds_tensor") else 0)


def share(parameter: torch.nn.Parameter) -> int:
    """Return the size of a shard: of whole rows, or of all values."""
    size = parameter.size() if isinstance(parameter, DTensor) else (getattr(parameter, "ds_numel", parameter.numel()),)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    return -(-size[0] // processes) * (torch.Size(size[1:]).numel()) if processes > 1 else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed

        # use gloo; the operation for shared memory would be compiled for a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    train.GemmaLisaTrainer = WatchedTrainer
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True  # a CPU supports it too
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        connect()
        train.main([*arguments, "--accelerator_config", '{"use_configured_state": true}'])
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
