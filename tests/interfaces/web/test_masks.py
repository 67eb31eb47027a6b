"""Kept masks are small and exact, and are drawn once."""

import numpy as np
import pytest

from gemma_lisa.answers_gemma_lisa import FOUND, LOW_CONFIDENCE, NOTHING_FOUND
from gemma_lisa.interfaces.web import masks
from gemma_lisa.interfaces.web.layers import colour_of, mask_layer, number_place
from gemma_lisa.interfaces.web.masks import KeptMask


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (40, 61), (128, 128)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_unpacking_restores_the_mask(size, share):
    mask = np.random.default_rng(0).random(size) < share
    kept = KeptMask.pack(mask, 0, 0.5)
    assert kept.unpack().dtype == bool and (kept.unpack() == mask).all() and kept.unpack().shape == size


def test_a_mask_knows_its_area_and_status():
    mask = np.zeros((20, 30), dtype=bool)
    assert (KeptMask.pack(mask, 0, 0.9).area, KeptMask.pack(mask, 0, 0.9).status) == (0, NOTHING_FOUND)
    mask[:2, :5] = True
    assert (KeptMask.pack(mask, 0, 0.9).area, KeptMask.pack(mask, 0, 0.9).status) == (10, FOUND)
    assert KeptMask.pack(mask, 0, 0.2).status == LOW_CONFIDENCE


def test_the_mask_of_a_photo_takes_little_memory():
    rows, columns = np.ogrid[:3000, :4000]
    disc = (rows - 1500) ** 2 + (columns - 1000) ** 2 < 900**2
    assert len(KeptMask.pack(disc, 0, 0.5).packed) < disc.size / 100
    noise = np.random.default_rng(0).random((1000, 1000)) < 0.5
    assert len(KeptMask.pack(noise, 0, 0.5).packed) < 1.01 * noise.size / 8, "more than one bit per pixel"


def test_a_layer_is_made_once_when_it_is_shown(monkeypatch):
    made = []

    def layer(mask, colour):
        made.append(colour)
        return mask_layer(mask, colour)

    monkeypatch.setattr(masks, "mask_layer", layer)
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:9, 3:20] = True
    kept = KeptMask.pack(mask, 1, 0.98764)
    assert made == [] and kept.score == 0.9876
    expected = {"layer": mask_layer(mask, colour_of(1)), "place": number_place(mask)}
    assert kept.shown == expected and kept.shown == expected
    assert made == [colour_of(1)]
