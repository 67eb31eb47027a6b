"""Choose the device of a model: the given device, a GPU if available, or all devices with Accelerate."""

import sys
from pathlib import Path

import torch
from accelerate import infer_auto_device_map, init_empty_weights
from accelerate.utils import get_max_memory

from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration

# Value of --device that spreads the model over all devices.
AUTO = "auto"


def choose_device(wanted: str | None) -> torch.device | str:
    """Return the wanted device, or by default a GPU if there is one, else the CPU. Print the choice to stderr.

    "auto" is returned unchanged: `load_checkpoint` then spreads the model over all devices.
    """
    if wanted == AUTO:
        count = torch.cuda.device_count()
        print(f"device: auto, {_gpus(count) if count else 'on the CPU (no GPU was found)'}", file=sys.stderr)
        return wanted
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted or found)
    note = (
        " (no GPU was found)"
        if found == "cpu"
        else " (a GPU is available but not used)"
        if device.type == "cpu"
        else ""
    )
    print(f"device: {device}{note}", file=sys.stderr)
    return device


def _gpus(count: int) -> str:
    return f"over {count} GPUs" if count > 1 else "on 1 GPU"


def resolve_dtype(dtype: torch.dtype | str, config: GemmaLisaConfig) -> torch.dtype:
    """Return the type of the weights. "auto" is the type in which they are saved."""
    return (config.dtype or torch.float32) if dtype == "auto" else dtype


def spread(
    config: GemmaLisaConfig,
    path: str | Path,
    dtype: torch.dtype | str = "auto",
    max_memory: dict[int | str, int] | None = None,
) -> dict[str, int | str]:
    """Return Accelerate's device map: modules are placed on the GPUs, then in CPU memory, then on disk.

    SAM and `seg_projector` stay whole on the first device, because their submodules are called one by one. So do the
    embeddings and the head, which share one weight.

    Args:
        config: of the model.
        path: of the checkpoint, for error messages.
        dtype: type of the weights.
        max_memory: bytes to use on each device (default: the free memory).

    Raises:
        ValueError: these modules do not fit on the first device.
    """
    with init_empty_weights():
        model = GemmaLisaForConditionalGeneration(config)
    dtype = resolve_dtype(dtype, config)
    room = get_max_memory(max_memory)
    first = next(iter(room))
    at_first = ["sam", "seg_projector", "lm_head", "model.language_model.embed_tokens"]
    numbers = {name: sum(weight.numel() for weight in model.get_submodule(name).parameters()) for name in at_first}
    room[first] -= (sum(numbers.values()) - numbers["lm_head"]) * dtype.itemsize
    if room[first] < 0:
        raise ValueError(f"{path}: SAM does not fit on the first device ({first}). Use --device cpu.")
    del model.sam, model.seg_projector, model.lm_head, model.model.language_model.embed_tokens
    rest = infer_auto_device_map(
        model, room, no_split_module_classes=list(model._no_split_modules), dtype=dtype, fallback_allocation=True
    )
    if set(rest.values()) == {first}:
        return {"": first}
    # The order matters: Accelerate computes on the device of the first entry
    return {**dict.fromkeys(at_first, first), **_in_parts(model, rest)}


def _in_parts(model: torch.nn.Module, places: dict[str, int | str]) -> dict[str, int | str]:
    """Return the device map with the entry of a module whose submodules were removed replaced by its children's."""
    parts = {}
    for name, place in places.items():
        if name in ("", "model", "model.language_model"):
            children = model.get_submodule(name).named_children()
            parts |= _in_parts(model, {f"{name}.{child}".lstrip("."): place for child, _ in children})
        else:
            parts[name] = place
    return parts
