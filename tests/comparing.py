"""Helpers for tests of the model: compare outputs, remove inputs, and make batches as users do."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gemma_lisa.collator import GemmaLisaCollator

TOLERANCE = 1e-5

both_states = pytest.mark.parametrize("seg_state", ["token", "previous"])


def without(batch, *names):
    return {name: value for name, value in batch.items() if name not in names}


def assert_close(found, expected, tolerance=TOLERANCE):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def run_with_gradients(model, batch, **options):
    model.zero_grad(set_to_none=True)
    output = model(**batch, **options)
    output.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return output, gradients


def assert_gradients_close(found, expected):
    """Check that each gradient differs by at most TOLERANCE times its largest value (or times 1, if larger)."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        off = (found[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1)
        assert off <= TOLERANCE, f"{name}: {off}"


def with_prepared(batch, **changes):
    """Return a batch of the collator with changed fields of its `prepared`."""
    return batch | {"prepared": replace(batch["prepared"], **changes)}


def without_labels(batch):
    return with_prepared(without(batch, "labels"), learned_positions=None)


def without_masks(batch):
    return with_prepared(batch, mask_targets=None, mask_sizes=None)


def own_batch(processor, samples):
    """Return a batch as in a user's own training loop: a list of masks per image, and no `prepared`."""
    batch = without(GemmaLisaCollator(processor)(samples), "prepared")
    shown = [sample for sample in samples if sample["image"] is not None]
    if shown:
        nothing = [np.zeros((0, 1, 1), dtype=np.uint8)]
        batch["mask_labels"] = [
            torch.from_numpy(np.concatenate([masks for masks in sample["masks"] if masks is not None] or nothing))
            for sample in shown
        ]
    return batch


def two_things(processor, make_sample):
    """Return a batch without `prepared` of two images, with two masks and one mask."""
    return own_batch(processor, [make_sample(["{seg} and {seg}."]), make_sample(["{seg}."], seed=1)])


def batches_of_all_kinds(processor, make_sample, collate=None):
    """Return batches of different content by name; `collate(samples, learn_masks=...)` makes them."""

    def make(samples, learn_masks=True):
        return GemmaLisaCollator(processor, learn_masks=learn_masks)(samples)

    collate = collate or make
    words, no = make_sample(["Two."], with_image=False), "No, it is not there."
    return {
        "with_masks": collate([make_sample(["It is {seg}.", no])]),
        "without_seg": collate([make_sample([no]), make_sample(["No, I do not see it."], seed=1)]),
        "text_only": collate([words]),
        "mixed": collate([words, make_sample(["It is {seg}."])]),
        "words_only": collate([make_sample(["It is {seg}."])], learn_masks=False),
    }
