"""Level "drawings" of shapes: flat backgrounds, rotated and stretched shapes, canvases of different aspect ratios."""

import colorsys

import numpy as np
import pytest

from gemma_lisa.datasets_builder.synthetic import shapes_drawings

SIZE = 128
HUES = {"red": 0, "green": 120, "blue": 230}


@pytest.fixture(scope="module")
def scenes():
    return [shapes_drawings.draw_scene(np.random.default_rng(seed), SIZE) for seed in range(60)]


def test_long_side_has_the_given_size_and_short_side_varies(scenes):
    sizes = {scene.image.shape[:2] for scene in scenes}
    assert all(max(size) == SIZE for size in sizes)
    assert (SIZE, SIZE) in sizes and any(height < width for height, width in sizes)
    assert any(height > width for height, width in sizes)


def test_background_has_one_color(scenes):
    for scene in scenes:
        covered = np.any([thing.mask for thing in scene.objects], axis=0)
        # Exclude the smooth edges of the objects
        padded, steps = np.pad(covered, 4), range(-4, 5)
        near = np.any([np.roll(padded, (y, x), (0, 1)) for y in steps for x in steps], axis=0)[4:-4, 4:-4]
        assert len(np.unique(scene.image[~near], axis=0)) == 1


def test_masks_are_separate_inside_the_canvas_and_of_the_named_color(scenes):
    for scene in scenes:
        assert 1 <= len(scene.objects) <= 5
        assert np.sum([thing.mask for thing in scene.objects], axis=0).max() == 1
        for thing in scene.objects:
            assert not (thing.mask[[0, -1]].any() or thing.mask[:, [0, -1]].any())
            hue, saturation, _ = colorsys.rgb_to_hsv(*np.median(scene.image[thing.mask], axis=0) / 255)
            distance = abs((360 * hue - HUES[thing.color] + 180) % 360 - 180)
            assert distance < 35 and saturation > 0.5


def test_areas_follow_from_shape_and_radius_for_all_rotations(scenes):
    shares = {"circle": np.pi, "square": 2.0, "triangle": 3 * np.sqrt(3) / 4}
    for scene in scenes:
        for thing in scene.objects:
            assert thing.mask.sum() == pytest.approx(shares[thing.shape] * thing.radius**2, rel=0.1, abs=8)


def test_layout_of_large_objects_on_a_narrow_canvas_ends():
    for seed in range(200):
        places = shapes_drawings._draw_places(np.random.default_rng(seed), (SIZE, round(0.55 * SIZE)), SIZE)
        assert 1 <= len(places) <= 5


def test_same_seed_gives_the_same_scene():
    first, second = (shapes_drawings.draw_scene(np.random.default_rng(3), SIZE) for _ in range(2))
    assert np.array_equal(first.image, second.image)
