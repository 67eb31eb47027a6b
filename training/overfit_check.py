"""Check a recipe before a long run: overfit a few rows, save, reload, compare, and restore everything."""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.data import IterableDataset
from transformers import Trainer

from gemma_lisa.checkpoints.lora import part_of_weight
from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.short_text import count_of

from .atomic_saves import ASIDE

ROWS, LOOKED_AT = 8, 64  # rows to overfit; number of candidates to choose from (rows with masks first)
STEPS, LOOK_EVERY = 100, 5  # maximum number of steps, and steps between two looks at the losses
FALLEN, LEARNED = 0.9, 0.05  # a loss must fall below this fraction of its first value, or below this value
SAME = 1e-3  # largest difference of a reloaded model's outputs, as a fraction of the largest output


def self_check(trainer: Trainer, reload: Callable[[Path], nn.Module]) -> None:
    """Run the check in the first process, before the engine wraps the model; all others wait.

    Args:
        trainer: the run's trainer, before it trains; model and random states are restored bit by bit.
        reload: loads a saved model from a folder as the run would.

    Raises:
        ValueError: the check failed.
        UsageError: the engine shards the model.
    """
    if trainer.accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        raise UsageError("self_check is not supported with DeepSpeed or FSDP. Run it once without them.")
    found: list[ValueError | None] = [None]
    if trainer.args.process_index == 0:
        try:
            with same_randomness(trainer.args.device):
                _check(trainer, reload)
        except ValueError as error:
            found = [error]
    if trainer.args.world_size > 1:
        torch.distributed.broadcast_object_list(found, device=trainer.args.device)
    if found[0] is not None:
        raise found[0]


def _check(trainer: Trainer, reload: Callable[[Path], nn.Module]) -> None:
    model, args = trainer.model, trainer.args
    batches = [send_to_device(batch, args.device) for batch in batches_of(trainer)]
    batches = [trainer.processing_class.normalize_images(batch) for batch in batches]
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {name: _sum_of(parameter) for name, parameter in model.named_parameters() if name not in trained}
    before = {name: parameter.detach().cpu().clone() for name, parameter in trained.items()}
    wanted = {"mask loss"} if any(batch["prepared"].num_masks for batch in batches) else set()
    if any("language_model." in name for name in trained):
        wanted |= {"language loss", "loss of [SEG]"}
    if args.activation_checkpointing:
        model.activation_checkpointing_enable()  # as in the run; memory could be too small without it
    was_training, folder = model.training, Path(args.output_dir) / ASIDE / "self_check"
    try:
        first = losses_of(trainer, model, batches)
        pulled, last = memorize(trainer, trained, batches, first, wanted)
        _check_moves(trained, before, pulled)
        _check_frozen(model, frozen)
        _check_losses(first, last, wanted)
        trainer.save_model(str(folder), _internal_call=True)
        _check_outputs(trainer, reload(folder).to(args.device), batches)
    finally:
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(before[name])
        model.zero_grad(set_to_none=True)
        model.train(was_training)
        trainer.optimizer = None
        shutil.rmtree(folder.parent, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------------------------------------------------
def batches_of(trainer: Trainer) -> list[dict[str, Any]]:
    """Return a few training rows, those with masks first, in batches of the run's size.

    Raises:
        ValueError: the rows have no labels, no masks or no [SEG].
    """
    data = trainer.train_dataset
    if isinstance(data, IterableDataset):
        samples = list(islice(iter(data), LOOKED_AT))
    else:
        samples = [data[at] for at in np.unique(np.linspace(0, len(data) - 1, LOOKED_AT).astype(int)).tolist()]
    looked_at = len(samples)
    samples = sorted(samples, key=lambda sample: not any(len(masks) for masks in sample["masks"] if masks is not None))
    samples = samples[:ROWS]
    size = trainer.args.train_batch_size
    batches = [trainer.data_collator(samples[at : at + size]) for at in range(0, len(samples), size)]
    sources = [source for batch in batches for source in batch.pop("sources", [])]
    labels = torch.cat([batch["labels"][:, 1:].flatten() for batch in batches])
    if not (labels != IGNORE_INDEX).any():
        raise ValueError(f"self-check: labels empty: no token of {', '.join(sources)} is a label.")
    if trainer.data_collator.learn_masks:
        if not any(batch["prepared"].num_masks for batch in batches):
            raise ValueError(
                f"self-check: labels empty: none of {count_of(looked_at, 'row')} has a mask, such as {sources[0]}. To "
                "train on text only, set learn_masks to false."
            )
        if not (labels == trainer.processing_class.seg_token_id).any():
            raise ValueError(f"self-check: no [SEG] learned: {', '.join(sources)} have masks, but no [SEG] label.")
    return batches


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------
def memorize(
    trainer: Trainer,
    trained: dict[str, nn.Parameter],
    batches: list[dict[str, Any]],
    first: dict[str, float],
    wanted: set[str],
) -> tuple[set[str], dict[str, float]]:
    """Train on the batches until all wanted losses have fallen.

    Returns:
        The names of the parameters that had a gradient, and the last losses.
    """
    model, args = trainer.model, trainer.args
    optimizer, pulled, last = trainer.create_optimizer(), set(), first
    for step in range(1, STEPS + 1):
        model.train()
        for batch in batches:
            with trainer.accelerator.autocast():
                loss = model(**batch)["loss"] / len(batches)
            loss.backward()
        pulled |= {name for name, weight in trained.items() if weight.grad is not None and bool(weight.grad.any())}
        if args.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(trained.values(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if step % LOOK_EVERY == 0:
            last = losses_of(trainer, model, batches)
            if not any(_has_stayed(first, last, name) for name in wanted):
                break
    return pulled, last


@torch.no_grad()
def losses_of(trainer: Trainer, model: nn.Module, batches: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean losses of all tokens, of the [SEG] tokens and of the batches with masks, in evaluation mode."""
    model.eval()
    tokens, of_seg, of_masks = [], [], []
    weights = (model.config.bce_loss_weight, model.config.dice_loss_weight)
    for batch in batches:
        with trainer.accelerator.autocast():
            outputs = model(**batch)
        labels = batch["labels"][:, 1:]
        labels = labels[labels != IGNORE_INDEX]
        losses = nn.functional.cross_entropy(outputs["logits"].float(), labels, reduction="none")
        tokens.append(losses)
        of_seg.append(losses[labels == trainer.processing_class.seg_token_id])
        if batch["prepared"].num_masks:
            parts = (outputs["mask_bce_loss"], outputs["mask_dice_loss"])
            of_masks.append(sum(weight * part.float() for weight, part in zip(weights, parts, strict=True)))
    means = {"language loss": torch.cat(tokens), "loss of [SEG]": torch.cat(of_seg)}
    means |= {"mask loss": torch.stack(of_masks)} if of_masks else {}
    return {name: losses.mean().item() if len(losses) else 0.0 for name, losses in means.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Checks
# ---------------------------------------------------------------------------------------------------------------------
def _check_moves(trained: dict[str, nn.Parameter], before: dict[str, torch.Tensor], pulled: set[str]) -> None:
    moved = {name for name, parameter in trained.items() if not torch.equal(parameter.detach().cpu(), before[name])}
    if stuck := sorted(pulled - moved):
        raise ValueError(
            f"self-check: {stuck[0]}, one of {count_of(len(stuck), 'parameter')}, has a gradient but did not move: the "
            "optimizer does not have it, or its learning rate is 0."
        )
    if still := sorted({part_of_weight(name) for name in trained} - {part_of_weight(name) for name in moved}):
        raise ValueError(f"self-check: {', '.join(still)} is trainable but did not move. Remove it from trainable.")


def _check_frozen(model: nn.Module, frozen: dict[str, int]) -> None:
    moved = [name for name, weight in model.named_parameters() if name in frozen and _sum_of(weight) != frozen[name]]
    if moved:
        raise ValueError(f"self-check: {moved[0]}, one of {count_of(len(moved), 'parameter')}, is frozen but moved.")


def _has_stayed(first: dict[str, float], last: dict[str, float], name: str) -> bool:
    return not (last[name] < FALLEN * first[name] or last[name] < LEARNED)


def _check_losses(first: dict[str, float], last: dict[str, float], wanted: set[str]) -> None:
    meanings = {
        "language loss": "the language loss does not fall",
        "loss of [SEG]": "no [SEG] learned: its loss does not fall",
        "mask loss": "the mask loss does not fall",
    }
    for name, meaning in meanings.items():
        if name in wanted and _has_stayed(first, last, name):
            raise ValueError(
                f"self-check: {meaning}: {first[name]:.4g} before, {last[name]:.4g} after {STEPS} steps on the same "
                f"{ROWS} rows. Check learning_rate, trainable and the rows."
            )


@torch.no_grad()
def _check_outputs(trainer: Trainer, reloaded: nn.Module, batches: list[dict[str, Any]]) -> None:
    trainer.model.eval()
    reloaded.eval()
    for batch in batches:
        with trainer.accelerator.autocast():
            ours, theirs = trainer.model(**batch), reloaded(**batch)
        for name in ("logits", "pred_masks"):
            if ours.get(name) is None or not ours[name].numel():
                continue
            furthest = (ours[name] - theirs[name]).abs().max().item()
            largest = ours[name].abs().max().item()
            if not furthest <= SAME * largest:
                raise ValueError(
                    f"self-check: weights not loaded: {name} of the reloaded model differ by up to {furthest:.3g} from "
                    f"those of the saved one (their largest value is {largest:.3g})."
                )


def _sum_of(tensor: torch.Tensor) -> int:
    """Return the sum of a tensor's bytes, as a checksum."""
    return int(tensor.detach().contiguous().flatten().view(torch.uint8).sum(dtype=torch.int64))


@contextmanager
def same_randomness(device: torch.device) -> Iterator[None]:
    """Restore all random generators after the block."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])
