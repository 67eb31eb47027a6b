"""Images of every size: pixels for Gemma and SAM, masks of the image size, training."""

import weakref

import numpy as np
import pytest
import torch
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from gemma_lisa import lazy_images_gemma_lisa
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.images_gemma_lisa import (
    PixelNormalization,
    load_rgb,
)

SIZES = [(1, 1), (3, 50), (50, 3), (1, 8000), (8000, 1), (2, 4000), (4000, 2), (64, 64), (48, 101)]  # (height, width)


@pytest.mark.parametrize("size", [(40, 60), (64, 64), (131, 77), (3, 50)])
def test_pixels_are_equal_to_those_of_the_stock_processors(tiny, make_picture, size):
    processor, picture = tiny[1], make_picture(*size)
    found = processor.encode_images([picture])
    gemma = Gemma3ImageProcessorPil.from_dict(processor.image_processor.to_dict())([picture], return_tensors="pt")
    sam = SamImageProcessorPil.from_dict(processor.sam_image_processor.to_dict())([picture], return_tensors="pt")
    assert torch.equal(found["pixel_values"], gemma["pixel_values"])
    assert torch.equal(found["sam_pixel_values"], sam["pixel_values"])
    for name in ("original_sizes", "reshaped_input_sizes"):
        assert torch.equal(found[name], torch.as_tensor(sam[name]))


@pytest.mark.parametrize(
    ("options", "computed"),
    [
        ({}, True),
        ({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}, True),
        ({"do_normalize": False}, True),
        ({"do_rescale": False}, True),
        ({"do_rescale": False, "do_normalize": False}, True),
        ({"rescale_factor": 0.0039}, False),  # no division by a float32 number gives the same result
    ],
)
def test_normalization_is_equal_to_the_stock_processor_with_any_options(make_picture, options, computed):
    stock = Gemma3ImageProcessorPil(**{"size": {"height": 64, "width": 64}, **options})
    picture = make_picture(64, 64)
    normalization = PixelNormalization(stock)
    assert (normalization.steps is not None) == computed
    found = normalization(torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())[None])
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, stock([picture], return_tensors="np")["pixel_values"])


def say(model, processor, answer):
    """Make the model generate the answer for every input."""
    script = iter(processor.tokenizer(answer, add_special_tokens=False)["input_ids"])

    def forced(module, inputs, output):
        logits = torch.zeros_like(output)
        logits[:, -1, next(script)] = 1
        return logits

    return model.lm_head.register_forward_hook(forced)


def test_masks_have_the_size_of_the_image(tiny, make_picture):
    model, processor = tiny
    conversations = [
        [{"role": "user", "content": [{"type": "image", "image": make_picture(*size)}, {"type": "text", "text": "it"}]}]
        for size in SIZES
    ]
    inputs = processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert inputs["original_sizes"].tolist() == [list(size) for size in SIZES]
    assert inputs["reshaped_input_sizes"].min() == 1 and inputs["reshaped_input_sizes"].max() == 64
    hook = say(model, processor, "[SEG] and [SEG]<end_of_turn>")
    output = model.segment(**inputs, max_new_tokens=8)
    hook.remove()
    answers = processor.post_process_segmentation(output, inputs)
    for number, (size, answer) in enumerate(zip(SIZES, answers, strict=True)):
        assert answer["masks"].shape == (2, *size) and answer["masks"].dtype == torch.bool
        logits = processor.masks_to_image(
            output.pred_masks[2 * number :][:2], size, inputs["reshaped_input_sizes"][number]
        )
        assert logits.isfinite().all() and torch.equal(answer["masks"], logits > 0)


@pytest.mark.parametrize("size", SIZES)
def test_images_of_any_size_can_be_trained_on(tiny, make_sample, size):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)([make_sample(["It is {seg}.", "{seg} and {seg}."], size=size)])
    masks = batch["prepared"].mask_targets
    assert len(masks) == 3 and max(masks.shape[1:]) == min(1024, max(size))
    output = model(**batch)
    assert output.loss.isfinite() and output.mask_bce_loss > 0 and output.mask_dice_loss > 0
    model.zero_grad()
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()


def test_only_one_image_of_a_batch_at_a_time_is_in_memory(tiny, make_picture, tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        make_picture(20, 30).save(path)
    opened, held = [], []

    def counting(image, *options):
        held.append(sum(reference() is not None for reference in opened))
        rgb = load_rgb(image, *options)
        opened.append(weakref.ref(rgb))
        return rgb

    monkeypatch.setattr(lazy_images_gemma_lisa, "load_rgb", counting)
    tiny[1].encode_images(paths)
    assert len(held) == 4 and max(held) <= 1
