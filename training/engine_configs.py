"""Read from an accelerate configuration what it shards over the devices and what it offloads to host memory."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.parsing import read_yaml

ROOT = Path(__file__).resolve().parents[1]
# What each stage of DeepSpeed ZeRO shards
ZERO_SHARES = {
    0: (),
    1: ("optimizer",),
    2: ("optimizer", "gradients"),
    3: ("optimizer", "gradients", "weights"),
}


@dataclass(frozen=True)
class Engine:
    """How a training is distributed.

    Args:
        name: name to print.
        kind: "ddp", "deepspeed" or "fsdp".
        shares: which of "weights", "gradients" and "optimizer" are sharded over the devices.
        offloads: which of them are in host memory.
    """

    name: str
    kind: str = "ddp"
    shares: tuple[str, ...] = ()
    offloads: tuple[str, ...] = ()


def engine_of_recipe(recipe: Path) -> Engine:
    """Return the engine of the accelerate file that the comments at the top of a recipe name; DDP if none."""
    head = "".join(line for line in recipe.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    named = re.search(r"--config_file (\S+\.yaml)", head)
    return Engine("one process, or DDP") if named is None else read_engine(ROOT / named.group(1))


def read_engine(path: Path) -> Engine:
    """Return the engine of an accelerate configuration.

    Raises:
        UsageError: it cannot be read, or its engine is not supported.
    """
    try:
        content = read_yaml(path)
        kind = content.get("distributed_type", "NO")
        if kind in ("NO", "MULTI_GPU", "MULTI_CPU"):
            return Engine("one process, or DDP")
        if kind == "FSDP":
            every = ("weights", "gradients", "optimizer")
            return Engine("FSDP2", "fsdp", every, every if content["fsdp_config"].get("fsdp_offload_params") else ())
        if kind == "DEEPSPEED":
            return _zero(content["deepspeed_config"])
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"{path} cannot be read as an accelerate configuration ({error}).") from error
    raise UsageError(
        f"{path}: distributed_type must be one of NO, MULTI_GPU, MULTI_CPU, FSDP and DEEPSPEED, got {kind}."
    )


def _zero(options: dict) -> Engine:
    """Return the engine of ZeRO, from Accelerate's keys or a DeepSpeed file."""
    if "deepspeed_config_file" in options:
        zero = json.loads((ROOT / options["deepspeed_config_file"]).read_text(encoding="utf-8"))["zero_optimization"]
        stage = zero["stage"]
        devices = {part: zero.get(f"offload_{part}", {}).get("device", "none") for part in ("optimizer", "param")}
    else:
        stage = options["zero_stage"]
        devices = {part: options.get(f"offload_{part}_device", "none") for part in ("optimizer", "param")}
    names = {"optimizer": "optimizer", "param": "weights"}
    offloads = tuple(names[part] for part, device in devices.items() if device != "none")
    suffix = f", {' and '.join(offloads)} off the device" if offloads else ""
    return Engine(f"DeepSpeed ZeRO-{stage}{suffix}", "deepspeed", ZERO_SHARES[int(stage)], offloads)
