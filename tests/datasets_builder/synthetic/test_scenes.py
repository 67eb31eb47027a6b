"""Building blocks of scenes: shapes, textures, phrases and cells."""

import numpy as np
import pytest

from gemma_lisa.datasets_builder.synthetic.scenes import (
    COLOR_JITTER,
    COLORS,
    CORNERS,
    DULL,
    DULL_TINT,
    NOISE,
    RING_HOLE,
    TEXTURE_DARK,
    Object,
    add_noise,
    cell,
    draw_background,
    matching,
    noun,
    paint,
    shape_mask,
)

SIDE = 200  # pixels
CENTER = (100.0, 100.0)
RADIUS = 80.0


def thing(color, shape, **more):
    return Object(color, shape, np.zeros((4, 4), dtype=bool), (2.0, 2.0), 1.0, **more)


def test_noun_has_the_attributes_in_order_without_empty_ones():
    everything = {"shape": "star", "color": "red", "texture": "striped", "size": "small"}
    assert noun(everything) == "small striped red star"
    assert noun(everything | {"texture": ""}, plural=True) == "small red stars"
    assert noun({"shape": "cross"}, plural=True) == "crosses"
    assert noun({"color": "blue"}) == "blue shape" and noun({}, plural=True) == "shapes"


def test_objects_match_if_all_attributes_are_equal():
    objects = [thing("red", "star", size="small"), thing("red", "ring"), thing("blue", "star")]
    assert matching(objects, {"color": "red"}) == [0, 1]
    assert matching(objects, {"color": "red", "shape": "star"}) == [0]
    assert matching(objects, {"size": "large"}) == [] and matching(objects, {}) == [0, 1, 2]


@pytest.mark.parametrize("shape", ["circle", "ring", *CORNERS])
def test_shape_is_inscribed_in_its_circle(shape):
    mask = shape_mask(shape, CENTER, RADIUS, (SIDE, SIDE))
    ys, xs = np.nonzero(mask)
    distance = np.hypot(ys + 0.5 - CENTER[0], xs + 0.5 - CENTER[1])
    assert RADIUS - 2 < distance.max() <= RADIUS
    assert mask[100, 100] == (shape != "ring")
    np.testing.assert_array_equal(mask, mask[:, ::-1])  # all shapes are symmetric


def test_areas_are_those_of_the_geometric_shapes():
    def share(shape):
        return shape_mask(shape, CENTER, RADIUS, (SIDE, SIDE)).sum() / RADIUS**2

    assert share("circle") == pytest.approx(np.pi, rel=0.01)
    assert share("ring") == pytest.approx(np.pi * (1 - RING_HOLE**2), rel=0.01)
    assert share("square") == pytest.approx(2, rel=0.02)
    assert share("triangle") == pytest.approx(3 * np.sqrt(3) / 4, rel=0.01)
    assert share("star") == pytest.approx(10 * 0.5 * 0.5 * np.sin(np.pi / 5), rel=0.01)
    arm = 0.34
    assert share("cross") == pytest.approx(8 * arm * np.sqrt(1 - arm**2) - 4 * arm**2, rel=0.01)


def test_background_is_dull_and_determined_by_the_generator():
    canvas = draw_background(np.random.default_rng(0), SIDE)
    assert canvas.shape == (SIDE, SIDE, 3) and canvas.dtype == np.float32
    reach = DULL_TINT + 3 * COLOR_JITTER  # three blobs at the same position
    assert DULL[0] - reach < canvas.min() and canvas.max() < DULL[1] + reach
    assert canvas.std() > 1
    np.testing.assert_array_equal(canvas, draw_background(np.random.default_rng(0), SIDE))
    assert not np.array_equal(canvas, draw_background(np.random.default_rng(1), SIDE))


@pytest.mark.parametrize(("texture", "dark"), [("", 0), ("plain", 0), ("striped", 0.5), ("dotted", np.pi * 0.32**2)])
def test_texture_darkens_its_share_of_the_mask_only(texture, dark):
    canvas = np.full((SIDE, SIDE, 3), 7, dtype=np.float32)
    mask = shape_mask("square", CENTER, RADIUS, (SIDE, SIDE))
    paint(canvas, mask, "red", texture, CENTER, np.random.default_rng(0))
    assert (canvas[~mask] == 7).all()
    tones, counts = np.unique(canvas[mask], axis=0, return_counts=True)
    light = tones[-1]
    assert np.abs(light - COLORS["red"]).max() <= COLOR_JITTER
    assert len(tones) == (2 if dark else 1)
    if dark:
        np.testing.assert_allclose(tones[0], TEXTURE_DARK * light, rtol=1e-4)
        assert counts[0] / counts.sum() == pytest.approx(dark, abs=0.05)


def test_noise_has_its_standard_deviation_in_each_channel_and_does_not_overflow():
    noisy = add_noise(np.full((SIDE, SIDE, 3), 128, dtype=np.float32), np.random.default_rng(0))
    assert noisy.dtype == np.uint8
    np.testing.assert_allclose(noisy.reshape(-1, 3).std(axis=0), NOISE, rtol=0.05)
    bright = add_noise(np.full((SIDE, SIDE, 3), 255, dtype=np.float32), np.random.default_rng(0))
    assert bright.min() > 200  # no overflow


def test_center_is_in_one_cell():
    assert cell((0.0, 63.9), (64, 64), 4) == (0, 3)
    assert cell((16.0, 15.9), (64, 32), 4) == (1, 1)
    assert {cell((y + 0.5, 0.5), (64, 64), 4)[0] for y in range(64)} == {0, 1, 2, 3}
