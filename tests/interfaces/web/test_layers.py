"""Images for the browser: a layer and a number for each mask."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.drawing.overlay import INK, PALETTE, WHITE
from gemma_lisa.interfaces.web.layers import mask_layer, number_place, shown_picture


@pytest.mark.parametrize("size", [(40, 60), (512, 300), (2000, 1500), (1, 900)])
def test_a_layer_covers_the_same_area_as_its_mask(size):
    mask = np.zeros(size, dtype=bool)
    mask[: size[0] // 2 + 1, size[1] // 3 :] = True
    kind, content = mask_layer(mask, (255, 0, 10)).split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as opened:
        layer = np.asarray(opened.convert("RGBA"))
    assert max(layer.shape[:2]) <= 1280
    assert {tuple(colour) for colour in layer[layer[..., 3] > 0][:, :3]} <= {INK, WHITE, (255, 0, 10)}
    assert (layer[..., 3] > 0).mean() == pytest.approx(mask.mean(), abs=0.01)
    assert set(np.unique(layer[..., 3])) <= {0, 110, 255}


@pytest.mark.parametrize("background", [WHITE, (0, 0, 0), (128, 128, 128), *PALETTE])
def test_the_outline_of_a_mask_is_visible_on_every_background(background):
    mask = np.zeros((600, 600), dtype=bool)
    mask[100:300, 100:300] = True
    for colour in PALETTE:
        content = base64.b64decode(mask_layer(mask, colour).split(",")[1])
        picture = Image.new("RGBA", (600, 600), background)
        with Image.open(io.BytesIO(content)) as layer:
            picture.alpha_composite(layer.convert("RGBA"))
        luma = np.asarray(picture.convert("L"), dtype=int)
        across = luma[200, 95:110]  # from the background to the inside of the mask
        assert np.abs(across - luma[0, 0]).max() > 90
        assert np.abs(np.diff(across)).max() > 90


def test_a_number_is_placed_on_its_mask():
    ring = np.ones((50, 100), dtype=bool)
    ring[5:45, 5:95] = False
    x, y = number_place(ring)
    assert ring[int(y * 50), int(x * 100)]
    assert number_place(np.zeros((5, 5), dtype=bool)) is None


def test_a_large_picture_is_sent_smaller_with_its_original_size(make_picture):
    shown = shown_picture(make_picture(1000, 2600))
    with Image.open(io.BytesIO(base64.b64decode(shown["url"].split(",")[1]))) as opened:
        assert opened.size == (1280, 492)
    assert (shown["width"], shown["height"], shown["is_small"]) == (2600, 1000, False)
