"""Measure which part of the model uses the time, or the FLOP, of a training step or of an answer."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakTensorKeyDictionary

from gemma_lisa.benchmarks.way_processes import table
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration

REST = "losses and rest"
OPTIMIZER = "optimizer"
PARTS = ("SAM encoder", "SigLIP", "language layers", "embedding + head", "mask decoder + projector", REST, OPTIMIZER)
FORWARD, BACKWARD = "forward", "backward"


def modules_of_parts(model: GemmaLisaForConditionalGeneration) -> list[tuple[str, nn.Module]]:
    """Return (part, module) for the modules whose calls belong to a part."""
    return [
        ("SAM encoder", model.sam.vision_encoder),
        ("SigLIP", model.model.vision_tower),
        ("SigLIP", model.model.multi_modal_projector),
        ("language layers", model.model.language_model),
        ("embedding + head", model.get_input_embeddings()),
        ("embedding + head", model.get_output_embeddings()),
        ("mask decoder + projector", model.seg_projector),
        ("mask decoder + projector", model.sam.prompt_encoder),
        ("mask decoder + projector", model.sam.mask_decoder),
    ]


class PartClock:
    """Adds up a counter, such as a clock, by part and direction.

    In the backward pass, a part begins when the gradient of its output is complete, and ends when that of its input is.

    Args:
        model: the model, with or without LoRA layers.
        read: function that returns the counter.

    Attributes:
        spent: {(part, direction): amount}.
    """

    def __init__(self, model: GemmaLisaForConditionalGeneration, read: Callable[[], float]):
        self.spent: dict[tuple[str, str], float] = defaultdict(float)
        self._read, self._now, self._since = read, None, 0.0
        self._hooks = []
        self._watched = WeakTensorKeyDictionary()
        for part, module in modules_of_parts(model):
            self._add_hooks(part, module)

    def switch(self, part: str | None, direction: str = FORWARD) -> None:
        """Count for this part and direction from now on; for none, if `part` is None."""
        value = self._read()
        if self._now is not None:
            self.spent[self._now] += value - self._since
        self._now, self._since = None if part is None else (part, direction), self._read()

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _add_hooks(self, part: str, module: nn.Module) -> None:
        outer = []

        def enter(module, given, options):
            outer.append(self._now)
            self._watch((given, options), REST)
            self.switch(part)

        def leave(module, given, result):
            self._watch(result, part)
            self.switch(*(outer.pop() or (REST, FORWARD)))

        self._hooks += [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave),
        ]

    def _watch(self, nested: Any, part: str) -> None:
        """Switch to the part when the gradient of the first of these tensors that has one is complete.

        A tensor that leaves one part and enters another counts as the output of the first.
        """
        for leaf in tree_leaves(nested):
            if isinstance(leaf, torch.Tensor) and leaf.requires_grad and not leaf.is_leaf:
                if leaf not in self._watched:
                    leaf.register_hook(lambda gradient: self.switch(part, BACKWARD))
                    self._watched[leaf] = part
                return


# Attention on a CPU, which FlopCounterMode does not know
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *args, **kwargs: (
        sdpa_flop_count(query, key, value)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, query, key, value, *args, **kwargs: sdpa_backward_flop_count(gradient, query, key, value)
    ),
}


def flop_counter() -> FlopCounterMode:
    """Return a mode that counts the FLOP of matrix products, convolutions and attention."""
    return FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)


# ---------------------------------------------------------------------------------------------------------------------
# Results
# ---------------------------------------------------------------------------------------------------------------------
def key_of(unit: str, part: str, direction: str) -> str:
    """Return the name of a number in the results."""
    return f"{part}, {direction}, {unit}"


def count_parts(model: GemmaLisaForConditionalGeneration, work: Callable[[PartClock], Any]) -> dict[str, float]:
    """Return the FLOP of each part and direction. work: does the work once and switches the clock."""
    with flop_counter() as counter:
        clock = PartClock(model, counter.get_total_flops)
        work(clock)
        clock.close()
    return {key_of("FLOP", *key): float(flop) for key, flop in clock.spent.items()}


def time_parts(
    model: GemmaLisaForConditionalGeneration, work: Callable[[PartClock], Any], now: Callable[[], float]
) -> dict[str, float]:
    """Return the seconds of each part and direction, and of the whole work. now: returns seconds."""
    clock = PartClock(model, now)
    work(clock)
    clock.close()
    seconds = {key_of("s", *key): taken for key, taken in clock.spent.items()}
    return {**seconds, "seconds": sum(seconds.values())}


def table_of_parts(way: str, result: dict[str, Any]) -> list[str]:
    """Return a table with share, FLOP and share of the matrix-product peak of each part that took time.

    Args:
        way: name of what was measured.
        result: results of `time_parts` and `count_parts`, and `matmul_peak` in FLOP per second.
    """
    whole, peak, lines, total = result["seconds"], result["matmul_peak"], [], 0.0
    for part in PARTS:
        for direction in (FORWARD, BACKWARD):
            seconds = result.get(key_of("s", part, direction), 0.0)
            flop = result.get(key_of("FLOP", part, direction), 0.0)
            total += flop
            if seconds:
                used = f"{100 * flop / seconds / peak:.0f} %"
                lines.append([part, direction, seconds, f"{100 * seconds / whole:.1f} %", f"{flop / 1e9:,.1f}", used])
    lines.append(["all", "", whole, "100 %", f"{total / 1e9:,.1f}", f"{100 * total / whole / peak:.0f} %"])
    columns = [f"part ({way})", "direction", "s", "share", "GFLOP", f"of {peak / 1e9:,.0f} GFLOP/s"]
    return table(columns, lines)
