"""The losses: values and gradients of LISA, and ignored pixels."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comparing import assert_close

from gemma_lisa.losses_gemma_lisa import bce_loss, dice_loss, normalize, sample_mask_logits, token_loss

CASES = (
    "random",
    "random_num1",
    "one_empty_target",
    "all_empty_confident_neg",
    "all_empty_very_neg_eps",
    "perfect",
    "zero_masks",
)
LOSSES = {"bce": bce_loss, "dice": dice_loss}
REFERENCE_EPSILON = 1e-8  # LISA divides the sum over the masks by their number plus this
TOLERANCE = 1e-5

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@pytest.fixture(scope="module")
def values(reference):
    return np.load(reference / "lisa_reference.npz")


def random_masks(seed, count=3, size=(8, 10)):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, *size, generator=generator) * 3
    targets = (torch.rand(count, *size, generator=generator) > 0.6).float()
    valid = torch.rand(count, *size, generator=generator) > 0.3
    return logits, targets, valid


def value_and_gradient(loss, logits, *rest):
    logits = logits.clone().requires_grad_()
    value = loss(logits, *rest)
    value.sum().backward()
    return value.detach(), logits.grad


def test_every_case_of_the_reference_is_tested(values):
    assert {name.split(".")[1] for name in values if name.startswith("loss.")} == set(CASES)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_lisa(values, case, name):
    logits = torch.from_numpy(values[f"loss.{case}.logits"]).requires_grad_()
    targets = torch.from_numpy(values[f"loss.{case}.targets"])
    total = LOSSES[name](logits, targets).sum() / (int(values[f"loss.{case}.num_masks"]) + REFERENCE_EPSILON)
    total.backward()
    np.testing.assert_allclose(total.item(), values[f"loss.{case}.{name}"], rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(logits.grad, values[f"loss.{case}.{name}_grad"], rtol=TOLERANCE, atol=TOLERANCE)


def test_reference_gradients_are_large_enough_to_compare(values):
    assert np.abs(values["loss.random.bce_grad"]).max() > 100 * TOLERANCE
    assert np.abs(values["loss.random.dice_grad"]).max() > 100 * TOLERANCE


def test_weighted_sum_is_that_of_lisa(values, reference):
    expected = json.loads((reference / "lisa_reference.json").read_text(encoding="utf-8"))["loss.combined_1_plus_2"]
    logits, targets = (torch.from_numpy(values[f"loss.random.{name}"]) for name in ("logits", "targets"))
    total = 2.0 * bce_loss(logits, targets).mean() + 0.5 * dice_loss(logits, targets).mean()
    assert total.item() == pytest.approx(expected["mask_loss_weighted"], abs=TOLERANCE)


@every_loss
def test_losses_have_one_value_per_mask(loss):
    logits, targets, valid = random_masks(0)
    together = loss(logits, targets, valid)
    assert together.shape == (3,)
    for at in range(3):
        alone = loss(logits[at : at + 1], targets[at : at + 1], valid[at : at + 1])
        torch.testing.assert_close(together[at : at + 1], alone)


@every_loss
@pytest.mark.parametrize("with_valid", [False, True])
def test_losses_without_masks_are_empty(loss, with_valid):
    nothing = torch.zeros(0, 8, 10)
    valid = torch.zeros(0, 8, 10, dtype=torch.bool) if with_valid else None
    assert loss(nothing, nothing, valid).shape == (0,)


@every_loss
def test_ignored_pixels_change_neither_value_nor_gradient(loss):
    logits, targets, valid = random_masks(1)
    value, gradient = value_and_gradient(loss, logits, targets, valid)
    other_logits = torch.where(valid, logits, 7 - logits)
    other_targets = torch.where(valid, targets, 1 - targets)
    other_value, other_gradient = value_and_gradient(loss, other_logits, other_targets, valid)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)
    assert torch.all(gradient[~valid] == 0) and torch.any(gradient[valid] != 0)


@every_loss
def test_ignored_pixels_are_equal_to_cropped_pixels(loss):
    logits, targets, _ = random_masks(2)
    valid = torch.ones_like(targets, dtype=torch.bool)
    valid[..., 7:] = False
    torch.testing.assert_close(loss(logits, targets, valid), loss(logits[..., :7], targets[..., :7]))


@every_loss
def test_all_pixels_valid_is_the_same_as_no_valid_mask(loss):
    logits, targets, _ = random_masks(3)
    torch.testing.assert_close(loss(logits, targets, torch.ones_like(targets, dtype=torch.bool)), loss(logits, targets))


@every_loss
def test_mask_without_valid_pixels_has_zero_loss_and_no_gradient(loss):
    logits, targets, valid = random_masks(4)
    value, gradient = value_and_gradient(loss, logits, targets, torch.zeros_like(valid))
    assert torch.equal(value, torch.zeros(3))
    assert torch.equal(gradient, torch.zeros_like(logits))


@every_loss
def test_integer_targets_are_accepted(loss):
    logits, targets, _ = random_masks(5)
    assert torch.equal(loss(logits, targets.to(torch.uint8)), loss(logits, targets))


def test_token_loss_is_the_mean_or_the_sum_over_the_divisor():
    logits, targets = random_masks(6)[0].flatten(1), torch.tensor([3, 0, 79])
    total = -logits.log_softmax(-1)[torch.arange(3), targets].sum()
    torch.testing.assert_close(token_loss(logits, targets, None), total / 3)
    torch.testing.assert_close(token_loss(logits, targets, 12), total / 12)
    torch.testing.assert_close(token_loss(logits, targets, torch.tensor(12)), total / 12)


def test_average_of_nothing_is_zero_and_not_nan():
    assert token_loss(torch.zeros(0, 80), torch.zeros(0, dtype=torch.long), None).item() == 0
    for divisor in (None, 0, torch.tensor(0.0)):
        assert normalize(torch.tensor(0.0), 0, divisor).item() == 0


# ---------------------------------------------------------------------------------------------------------------------
# Logits at the pixels of an image
# ---------------------------------------------------------------------------------------------------------------------
SIZES = [(64, 64), (48, 64), (64, 48), (100, 150), (150, 100), (33, 200), (200, 37), (20, 16), (240, 240)]


@pytest.mark.parametrize("size", SIZES)
def test_mask_logits_are_equal_to_those_of_the_processor(tiny, make_picture, size):
    """The processor interpolates twice and this function once: probabilities are equal, logits nearly."""
    model, processor = tiny
    (reshaped,) = processor.encode_images([make_picture(*size)])["reshaped_input_sizes"]
    coarse = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    pred_masks = F.interpolate(coarse[None], size=(32, 32), mode="bicubic", align_corners=False)[0] * 2
    sampled = sample_mask_logits(
        pred_masks,
        side=64,
        reshaped_sizes=reshaped.expand(3, 2),
        sizes=torch.tensor([size] * 3),
        canvas=size,
    )
    expected = processor.masks_to_image(pred_masks, size, reshaped.tolist())
    off = (sampled.sigmoid() - expected.sigmoid()).abs()
    assert off.mean() < 1e-2 and off.max() < 8e-2


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (128, 128), (50, 50)])
def test_masks_of_an_image_that_fills_the_square_are_interpolated(size):
    pred_masks = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(1))
    sampled = sample_mask_logits(
        pred_masks,
        side=64,
        reshaped_sizes=torch.tensor([[64, 64]] * 2),
        sizes=torch.tensor([size] * 2),
        canvas=size,
    )
    assert_close(sampled, F.interpolate(pred_masks[None], size=size, mode="bilinear", align_corners=False)[0])


def test_masks_on_a_larger_canvas_are_the_same_inside_their_size():
    pred_masks = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(2))
    reshaped, sizes = torch.tensor([[48, 64], [64, 40]]), torch.tensor([[30, 40], [80, 50]])
    together = sample_mask_logits(pred_masks, 64, reshaped, sizes, canvas=(80, 50))
    for at, (height, width) in enumerate(sizes.tolist()):
        one = slice(at, at + 1)
        alone = sample_mask_logits(pred_masks[one], 64, reshaped[one], sizes[one], canvas=(height, width))
        assert_close(together[one, :height, :width], alone)
