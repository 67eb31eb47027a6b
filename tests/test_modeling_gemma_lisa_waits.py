"""A training step on a batch of the collator needs no GPU synchronization.

The tests use the meta device, whose tensors have no values. An operation that needs a value fails or is recorded.
`tests/end_to_end/test_gpu.py` tests the same on a GPU.
"""

from copy import deepcopy

import pytest
import torch
from comparing import batches_of_all_kinds, own_batch, with_prepared, without
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gemma_lisa.collator import GemmaLisaCollator

META = torch.device("meta")
# On a GPU, these operations read a value, or make a tensor whose size depends on values. multinomial checks its input.
WAITING = (
    "_is_all_true",
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "multinomial",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
)


class Waits(TorchDispatchMode):
    """Record operations that would make the CPU wait for the device.

    Attributes:
        found: names of operations on device tensors whose result depends on values.
        copied: names of operations that copy a CPU tensor to the device.
    """

    def __init__(self):
        super().__init__()
        self.found, self.copied = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if any(tensor.is_meta for tensor in given):
            is_bool_index = name.startswith("index") and any(index.dtype == torch.bool for index in given[1:])
            if name in WAITING or is_bool_index:
                self.found.append(name)
            if any(not tensor.is_meta and tensor.ndim for tensor in given):
                self.copied.append(name)
        return func(*args, **(kwargs or {}))


def on_meta(batch):
    return {
        name: [part.to(META) for part in value] if isinstance(value, list) else value.to(META)
        for name, value in batch.items()
    }


@pytest.fixture
def learning(tiny):
    """A model with all losses in training mode on the meta device, and its processor."""
    model, processor = deepcopy(tiny)
    model.config.prompted_loss_weight = model.config.score_loss_weight = 0.5
    return model.to(META).train(), processor


KINDS = ("with_masks", "without_seg", "text_only", "mixed", "words_only")


@pytest.mark.parametrize("kind", KINDS)
def test_training_step_has_no_gpu_synchronization(learning, make_sample, kind):
    model, processor = learning
    batch = on_meta(batches_of_all_kinds(processor, make_sample)[kind])
    counts = {"num_items_in_batch": torch.ones((), device=META), "num_masks_in_batch": torch.ones((), device=META)}
    with Waits() as waits:
        output = model(**batch, **counts)
        output.loss.backward()
    assert waits.found == []
    assert output.language_loss.is_meta and output.prompted_loss.is_meta
    assert all(parameter.grad is not None for parameter in model.seg_projector.parameters())


def test_training_step_with_cached_embeddings_copies_nothing_to_the_device(learning, make_sample):
    """Without cached embeddings, SAM's encoder creates its relative positions on the CPU."""
    model, processor = learning
    batch = on_meta(batches_of_all_kinds(processor, make_sample)["with_masks"])
    batch["image_embeddings"] = model.encode_for_sam(batch.pop("sam_pixel_values")).detach()
    with Waits() as waits:
        model(**batch).loss.backward()
    assert waits.found == waits.copied == []


def test_batch_without_prepared_synchronizes(learning, make_sample):
    """This shows that the tests above can fail."""
    model, processor = learning
    with pytest.raises((NotImplementedError, RuntimeError)):
        model(**on_meta(own_batch(processor, [make_sample(["It is {seg}."])])))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_with_and_without_prepared_give_identical_results(tiny, make_sample, kind):
    model, processor = deepcopy(tiny)
    model.config.prompted_loss_weight = model.config.score_loss_weight = 0.5
    model.train()
    samples = batches_of_all_kinds(processor, make_sample, lambda samples, **_: samples)[kind]
    found = []
    collate = GemmaLisaCollator(processor, learn_masks=kind != "words_only")
    own = own_batch(processor, samples)
    if kind == "words_only":
        for name in ("sam_pixel_values", "original_sizes", "reshaped_input_sizes", "mask_labels"):
            own.pop(name)
    for batch in (collate(samples), own):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        output = model(**batch)
        output.loss.backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        found.append({"loss": output.loss, "logits": output.logits, "pred_masks": output.pred_masks, **gradients})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 100
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_mask_labels_and_prepared_targets_together_are_an_error(tiny, make_sample):
    model, processor = tiny
    samples = [make_sample(["{seg}."])]
    batch = GemmaLisaCollator(processor)(samples) | {"mask_labels": own_batch(processor, samples)["mask_labels"]}
    with pytest.raises(ValueError, match="mask_labels and prepared.mask_targets are both target masks"):
        model(**batch)


@pytest.mark.parametrize("lost", ["mask_targets", "mask_sizes", "seg_positions"])
def test_prepared_targets_that_do_not_match_are_an_error(tiny, make_sample, lost):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)([make_sample(["{seg} and {seg}."])])
    with pytest.raises(ValueError, match=r"\d \[SEG\] tokens but \d mask_targets and \d mask_sizes"):
        model(**with_prepared(batch, **{lost: getattr(batch["prepared"], lost)[:1]}))


def test_prepared_targets_without_sizes_are_an_error(tiny, make_sample):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)([make_sample(["{seg}."])])
    with pytest.raises(ValueError, match="1 mask_targets and None mask_sizes"):
        model(**with_prepared(batch, mask_sizes=None))


@pytest.mark.parametrize("of_model", [32, 1024])
def test_targets_of_another_mask_loss_size_are_an_error(tiny, make_sample, set_config, of_model):
    model, processor = tiny
    set_config(model, mask_loss_size=of_model)
    batch = GemmaLisaCollator(processor, mask_loss_size=48)([make_sample(["{seg}."])])
    error_text = rf"mask_loss_size=48, but the model has mask_loss_size={of_model}. .*, mask_loss_size={of_model}\)"
    with pytest.raises(ValueError, match=error_text):
        model(**batch)


def test_image_positions_of_another_batch_are_an_error(tiny, make_sample):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)([make_sample(["No."])])
    with pytest.raises(ValueError, match="image tokens but"):
        model(**with_prepared(batch, image_positions=batch["prepared"].image_positions[1:]))


def test_sliced_rows_with_the_whole_prepared_are_an_error(tiny, make_sample):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)([make_sample(["Two."], with_image=False)] * 2)
    halved = {name: value if name == "prepared" else value[:1] for name, value in batch.items()}
    with pytest.raises(ValueError, match=r"a batch of shape \(2, \d+\), but input_ids have \(1, \d+\)"):
        model(**halved)


def test_prepared_arguments_without_effect_are_an_error(tiny, make_sample):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)([make_sample(["{seg}."])])
    with pytest.raises(ValueError, match="prepared.learned_positions needs labels"):
        model(**without(batch, "labels"))
    with pytest.raises(ValueError, match="prepared.mask_sizes needs prepared.mask_targets"):
        model(**with_prepared(batch, mask_targets=None))
    embeds = model.get_input_embeddings()(batch["input_ids"])
    with pytest.raises(ValueError, match="inputs_embeds cannot be combined with prepared.image_positions"):
        model(**batch, inputs_embeds=embeds)
