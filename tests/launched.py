"""What the launchers start in tests: several trainings of train.py, on a machine whose processes have no GPU.

    accelerate launch --config_file configs/accelerate/fsdp2.yaml --num_processes 2 tests/launched.py RUNS.json

RUNS.json holds the arguments of each training. Accelerate shards on GPUs only, and without one finds no backend for
DeepSpeed; so the processes are introduced to each other by gloo before train.py looks for them, and for FSDP their kind
is given as that of GPUs. All else is what the launcher, its configuration and train.py do.
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


def introduce() -> None:
    """Make the processes one group, anew for every training."""
    AcceleratorState._reset_state(reset_partial_state=True)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        PartialState(backend="gloo")
        return
    PartialState(cpu=True)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


class WatchedTrainer(GemmaLisaTrainer):
    """Says of how many parameters every process holds its share only, once a step is done."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shared: list[int] = []  # after each step

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.shared.append(sum(held(parameter) <= share(parameter) for parameter in self.model.parameters()))
        return loss

    def train(self, *args, **kwargs):
        output = super().train(*args, **kwargs)
        told = f"{len(self.shared)} steps, shared out: {min(self.shared)} of {len(list(self.model.parameters()))}"
        print(f"<{told}>\n", end="", flush=True)  # in one piece, wherever the other process is in a line of its own
        return output


def held(parameter: torch.nn.Parameter) -> int:
    """How many of its numbers are in this process."""
    if isinstance(parameter, DTensor):
        return parameter.to_local().numel()
    # DeepSpeed keeps the share apart, and empties the weight when it was used
    return parameter.numel() + (parameter.ds_tensor.numel() if hasattr(parameter, "ds_tensor") else 0)


def share(parameter: torch.nn.Parameter) -> int:
    """How many of them that may be, of whole rows or of all numbers."""
    size = parameter.size() if isinstance(parameter, DTensor) else (getattr(parameter, "ds_numel", parameter.numel()),)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    return -(-size[0] // processes) * (torch.Size(size[1:]).numel()) if processes > 1 else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed

        # gloo in place of an operation for shared memory, which would be compiled for a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    train.GemmaLisaTrainer = WatchedTrainer
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True  # a CPU computes in it as well
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        introduce()
        train.main([*arguments, "--accelerator_config", '{"use_configured_state": true}'])
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
