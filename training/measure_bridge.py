"""Measure the inputs of a new bridge before its training, so that they have mean 0 and standard deviation 1.

`bridge_gemma_lisa.Standardize` says why. A bridge that is already measured, such as that of a resumed run, keeps its
numbers.
"""

import itertools
import logging
from collections.abc import Iterable
from contextlib import ExitStack

import torch
from transformers import Trainer, TrainerCallback

from gemma_lisa.bridge_gemma_lisa import Standardize

logger = logging.getLogger(__name__)

# Number of `[SEG]` states in all processes that give good numbers, and the maximum number of batches to read
ENOUGH_STATES = 256
MOST_BATCHES = 32


class Sums:
    """Sums over the inputs of a `Standardize` module: number, sum and sum of squares of each feature, in fp64."""

    def __init__(self, module: Standardize):
        self.module = module
        self.total = torch.zeros(3, len(module.mean), dtype=torch.float64, device=module.mean.device)  # (3, features)

    def add(self, module: Standardize, inputs: tuple[torch.Tensor]) -> None:
        """Add the inputs; a forward pre-hook of the module."""
        found = inputs[0].detach().flatten(0, -2).double()  # (N, features)
        self.total += torch.stack([torch.full_like(found[0], len(found)), found.sum(0), found.square().sum(0)])


class MeasureBridge(TrainerCallback):
    """Measures the bridge at the start of a training."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, train_dataloader, **kwargs):
        if self.trainer.data_collator.learn_masks:
            measure_bridge(self.trainer, train_dataloader)


def measure_bridge(trainer: Trainer, batches: Iterable[dict]) -> None:
    """Set the numbers of the trained `Standardize` modules of the model, if it has any that are not yet measured.

    Every process runs the same number of forward passes, as sharded models require, and gets the same numbers.
    """
    wanted = [
        module
        for name, module in trainer.model.named_modules()  # PEFT keeps the frozen original of a trained module
        if isinstance(module, Standardize) and not module.is_measured and "original_module" not in name
    ]
    if not wanted:
        return
    sums = [Sums(module) for module in wanted]
    states = torch.zeros((), device=trainer.args.device)
    model = trainer.model_wrapped
    model.eval()  # without simulated prompts and dropout
    for batch in itertools.islice(batches, MOST_BATCHES):
        masks = batch["prepared"].num_masks
        with ExitStack() as stack, torch.no_grad(), trainer.compute_loss_context_manager():
            if masks:  # without masks, the bridge gets a placeholder
                for one in sums:
                    stack.callback(one.module.register_forward_pre_hook(one.add).remove)
            given = {name: part for name, part in batch.items() if name != "sources"}
            model(**trainer.model_inputs(given, learns=True))
        states += trainer.accelerator.reduce(torch.tensor(float(masks), device=states.device), reduction="sum")
        if states >= ENOUGH_STATES:
            break
    model.train()
    if not states:
        return  # a training on text only; a later one measures
    for one in sums:
        count, total, squares = trainer.accelerator.reduce(one.total, reduction="sum")
        mean = total / count
        one.module.set_statistics(mean, (squares / count - mean.square()).clamp(min=0).sqrt())
    logger.info("Bridge: its inputs were measured at %d [SEG] tokens.", int(states))
