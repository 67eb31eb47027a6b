"""What the browser shows over the picture: a layer and a number for each mask."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.interfaces.web.layers import mask_layer, number_place, shown_picture


@pytest.mark.parametrize("size", [(40, 60), (512, 300), (2000, 1500), (1, 900)])
def test_a_layer_covers_what_its_mask_covers(size):
    mask = np.zeros(size, dtype=bool)
    mask[: size[0] // 2 + 1, size[1] // 3 :] = True
    kind, content = mask_layer(mask, (255, 0, 10)).split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as opened:
        layer = np.asarray(opened.convert("RGBA"))
    assert max(layer.shape[:2]) <= 1280
    assert (layer[layer[..., 3] > 0][:, :3] == (255, 0, 10)).all()
    assert (layer[..., 3] > 0).mean() == pytest.approx(mask.mean(), abs=0.01)
    assert set(np.unique(layer[..., 3])) <= {0, 110, 255}


def test_a_number_stands_on_its_mask():
    ring = np.ones((50, 100), dtype=bool)
    ring[5:45, 5:95] = False
    x, y = number_place(ring)
    assert ring[int(y * 50), int(x * 100)]
    assert number_place(np.zeros((5, 5), dtype=bool)) is None


def test_a_large_picture_goes_to_the_browser_smaller_and_keeps_its_size_in_words(make_picture):
    shown = shown_picture(make_picture(1000, 2600))
    with Image.open(io.BytesIO(base64.b64decode(shown["url"].split(",")[1]))) as opened:
        assert opened.size == (1280, 492)
    assert (shown["width"], shown["height"], shown["is_small"]) == (2600, 1000, False)
