"""What an accelerate configuration spreads over the devices, and what it moves to the host's memory."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.parsing import read_yaml

ROOT = Path(__file__).resolve().parents[1]
# What each stage of DeepSpeed ZeRO shares out
ZERO_SHARES = {
    0: (),
    1: ("optimizer",),
    2: ("optimizer", "gradients"),
    3: ("optimizer", "gradients", "weights"),
}


@dataclass(frozen=True)
class Engine:
    """How a training is spread.

    Args:
        name: as people call it.
        kind: "ddp", "deepspeed" or "fsdp".
        shares: of "weights", "gradients" and "optimizer", what a device holds only its share of.
        offloads: of the same, what lies in the host's memory instead.
    """

    name: str
    kind: str = "ddp"
    shares: tuple[str, ...] = ()
    offloads: tuple[str, ...] = ()


def engine_of_recipe(recipe: Path) -> Engine:
    """The engine of the first accelerate file that the comments at the head of a recipe name; none: DDP."""
    head = "".join(line for line in recipe.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    named = re.search(r"--config_file (\S+\.yaml)", head)
    return Engine("one process, or DDP") if named is None else read_engine(ROOT / named.group(1))


def read_engine(path: Path) -> Engine:
    """The engine of an accelerate configuration.

    Raises:
        UsageError: it cannot be read, or starts an engine that is not known here.
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
        raise UsageError(f"{path}: no accelerate configuration that can be read ({error}).") from error
    raise UsageError(f"{path}: distributed_type {kind} is none of NO, MULTI_GPU, MULTI_CPU, FSDP, DEEPSPEED.")


def _zero(options: dict) -> Engine:
    """ZeRO, by accelerate's own keys or a DeepSpeed file."""
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
