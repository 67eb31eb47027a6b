"""Shapes, hard: what is drawn touches, hides and encloses as the description of the scene says."""

from collections import Counter

import numpy as np
import pytest

from gemma_lisa.datasets_builder.synthetic.scenes import COLORS, TEXTURES, shape_mask
from gemma_lisa.datasets_builder.synthetic.shapes_hard_scenes import SHAPES, SIZES, draw_scene

SIZE = 128


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(np.random.default_rng((3, index)), SIZE) for index in range(150)]


def test_masks_are_what_is_seen(scenes):
    for scene in scenes[:60]:
        seen = np.sum([thing.mask for thing in scene.objects], axis=0)
        assert seen.max() == 1  # no pixel shows two things
        if scene.hidden is not None:
            assert not (seen.astype(bool) & scene.hidden).any()
        for index, thing in enumerate(scene.objects):
            whole = shape_mask(thing.shape, thing.center, thing.radius, (SIZE, SIZE))
            assert (thing.full_area, thing.visible_area) == (whole.sum(), thing.mask.sum())
            assert thing.visible_area >= 0.5 * thing.full_area
            in_front = np.any([o.mask for o in scene.objects[index + 1 :]] + [np.zeros_like(whole)], axis=0)
            gone = whole & ~thing.mask
            if scene.hidden is not None:
                gone &= ~scene.hidden
            assert not (gone & ~in_front).any()  # what is missing lies behind a later thing


def test_touching_things_overlap_and_others_keep_apart(scenes):
    for scene in scenes[:60]:
        wholes = [shape_mask(thing.shape, thing.center, thing.radius, (SIZE, SIZE)) for thing in scene.objects]
        for one, thing in enumerate(scene.objects):
            for other in range(one):
                overlap = (wholes[one] & wholes[other]).any()
                assert overlap == (other in thing.touches) == (one in scene.objects[other].touches)
            if thing.inside is not None:
                ring = scene.objects[thing.inside]
                assert ring.shape == "ring" and thing.size == "small"
                assert np.hypot(*np.subtract(thing.center, ring.center)) + thing.radius < 0.6 * ring.radius


def test_scenes_are_full_and_varied(scenes):
    counts = Counter(len(scene.objects) for scene in scenes)
    assert set(counts) == set(range(4, 10))
    for name, values in {"size": SIZES, "texture": TEXTURES, "color": COLORS, "shape": SHAPES}.items():
        assert {getattr(thing, name) for scene in scenes for thing in scene.objects} == set(values)
    assert sum(bool(thing.touches) for scene in scenes for thing in scene.objects) > 100
    assert sum(thing.inside is not None for scene in scenes for thing in scene.objects) > 20


def test_the_same_generator_draws_the_same_scene_and_another_size_the_same_layout():
    first, again, larger = (draw_scene(np.random.default_rng(5), size) for size in (SIZE, SIZE, 2 * SIZE))
    np.testing.assert_array_equal(first.image, again.image)
    assert [thing.shape for thing in first.objects] == [thing.shape for thing in larger.objects]
    for thing, large in zip(first.objects, larger.objects, strict=True):
        np.testing.assert_allclose(np.multiply(thing.center, 2), large.center)
