"""Choose the device of a model: one that was asked for, a GPU if there is one, or all of them by Accelerate."""

import sys
from pathlib import Path

import torch
from accelerate import infer_auto_device_map, init_empty_weights
from accelerate.utils import get_max_memory

from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration

# The device that stands for all there are.
AUTO = "auto"


def choose_device(wanted: str | None) -> torch.device | str:
    """The device asked for, else a GPU if there is one; says which, and aloud when it is not a GPU.

    "auto" stays a word: `load_checkpoint` spreads the model over all devices.
    """
    if wanted == AUTO:
        count = torch.cuda.device_count()
        print(f"device: auto, {f'over {count} GPUs' if count else 'on the CPU (no GPU was found)'}", file=sys.stderr)
        return wanted
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted or found)
    note = " (no GPU was found)" if found == "cpu" else " (a GPU is there but not used)" if device.type == "cpu" else ""
    print(f"device: {device}{note}", file=sys.stderr)
    return device


def resolve_dtype(dtype: torch.dtype | str, config: GemmaLisaConfig) -> torch.dtype:
    """Return the type of the weights; "auto" is the type that they are saved in."""
    return (config.dtype or torch.float32) if dtype == "auto" else dtype


def spread(
    config: GemmaLisaConfig,
    path: str | Path,
    dtype: torch.dtype | str = "auto",
    max_memory: dict[int | str, int] | None = None,
) -> dict[str, int | str]:
    """On which device each module is to be, by Accelerate: over GPUs, then the CPU's memory, then the disk.

    Whole on the first are SAM and its projector, as their parts are called one by one, and the embeddings and the head,
    which are one weight.

    max_memory: bytes of each device; by default what is free.

    Raises:
        ValueError: no room for these on the first.
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
        raise ValueError(f"{path}: SAM finds no room on the first device ({first}); try --device cpu.")
    del model.sam, model.seg_projector, model.lm_head, model.model.language_model.embed_tokens
    rest = infer_auto_device_map(
        model, room, no_split_module_classes=list(model._no_split_modules), dtype=dtype, fallback_allocation=True
    )
    if set(rest.values()) == {first}:
        return {"": first}
    # In this order: the device that is named first is taken for the one that computes
    return {**dict.fromkeys(at_first, first), **_in_parts(model, rest)}


def _in_parts(model: torch.nn.Module, places: dict[str, int | str]) -> dict[str, int | str]:
    """The places of the children where a whole is given that has lost some of its own."""
    parts = {}
    for name, place in places.items():
        if name in ("", "model", "model.language_model"):
            children = model.get_submodule(name).named_children()
            parts |= _in_parts(model, {f"{name}.{child}".lstrip("."): place for child, _ in children})
        else:
            parts[name] = place
    return parts
