"""Scenes of level "hard" of shapes: objects touch, hide and enclose each other as described."""

from collections import Counter

import numpy as np
import pytest

from gemma_lisa.datasets_builder.synthetic.scenes import COLORS, TEXTURES, shape_mask
from gemma_lisa.datasets_builder.synthetic.shapes_hard_scenes import SHAPES, SIZES, draw_scene

SIZE = 128


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(np.random.default_rng((3, index)), SIZE) for index in range(150)]


def test_masks_are_the_visible_parts(scenes):
    for scene in scenes[:60]:
        visible = np.sum([thing.mask for thing in scene.objects], axis=0)
        assert visible.max() == 1  # no pixel belongs to two objects
        if scene.hidden is not None:
            assert not (visible.astype(bool) & scene.hidden).any()
        for index, thing in enumerate(scene.objects):
            whole = shape_mask(thing.shape, thing.center, thing.radius, (SIZE, SIZE))
            assert (thing.full_area, thing.visible_area) == (whole.sum(), thing.mask.sum())
            assert thing.visible_area >= 0.5 * thing.full_area
            in_front = np.any([o.mask for o in scene.objects[index + 1 :]] + [np.zeros_like(whole)], axis=0)
            missing = whole & ~thing.mask
            if scene.hidden is not None:
                missing &= ~scene.hidden
            assert not (missing & ~in_front).any()  # later objects cover the missing pixels


def test_touching_objects_overlap_and_others_do_not(scenes):
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


def test_scenes_have_many_different_objects(scenes):
    counts = Counter(len(scene.objects) for scene in scenes)
    assert set(counts) == set(range(4, 10))
    for name, values in {"size": SIZES, "texture": TEXTURES, "color": COLORS, "shape": SHAPES}.items():
        assert {getattr(thing, name) for scene in scenes for thing in scene.objects} == set(values)
    assert sum(bool(thing.touches) for scene in scenes for thing in scene.objects) > 100
    assert sum(thing.inside is not None for scene in scenes for thing in scene.objects) > 20


def test_same_seed_gives_the_same_scene_and_the_same_layout_for_another_size():
    first, again, larger = (draw_scene(np.random.default_rng(5), size) for size in (SIZE, SIZE, 2 * SIZE))
    np.testing.assert_array_equal(first.image, again.image)
    assert [thing.shape for thing in first.objects] == [thing.shape for thing in larger.objects]
    for thing, large in zip(first.objects, larger.objects, strict=True):
        np.testing.assert_allclose(np.multiply(thing.center, 2), large.center)
