"""Level "easy" of shapes: valid scenes, and shares of the kinds of questions."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from easy_scenes import AREAS, N_SCENES, RGB, kind_of, make, named

from gemma_lisa.datasets_builder.synthetic.shapes_easy import EVAL, TRAIN

# pycocotools calls NumPy 2 with a deprecated signature
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def evaluation():
    return [make(index) for index in range(N_SCENES)]


@pytest.fixture(scope="module")
def training():
    return [make(index, training=True) for index in range(N_SCENES)]


def shares_of(pairs):
    kinds = Counter(kind_of(target) for _, row in pairs for target in row["targets"])
    return {kind: count / kinds.total() for kind, count in kinds.items()}


def test_scenes_have_two_to_five_objects_equally_often(evaluation):
    counts = Counter(len(scene.objects) for scene, _ in evaluation)
    assert set(counts) == {2, 3, 4, 5}
    assert min(counts.values()) > N_SCENES / 4 * 0.75


@pytest.mark.parametrize("size", [32, 64, 100])
def test_objects_are_separate_and_inside_the_canvas(size):
    for index in range(150):
        scene, _ = make(index, size=size)
        assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
        for thing in scene.objects:
            (y, x), radius = thing.center, thing.radius
            assert 7 <= radius * 64 / size <= 11
            assert min(y, x) - radius > 0 and max(y, x) + radius < size
            ys, xs = np.nonzero(thing.mask)
            assert np.hypot(ys + 0.5 - y, xs + 0.5 - x).max() <= radius + 1e-9
        for one, other in combinations(scene.objects, 2):
            gaps = np.argwhere(one.mask)[:, None] - np.argwhere(other.mask)[None]
            assert np.hypot(gaps[..., 0], gaps[..., 1]).min() >= 2 * size / 64


def test_masks_have_the_area_and_the_center_of_their_shape():
    for index in range(100):
        scene, _ = make(index, size=256)
        for thing in scene.objects:
            assert thing.mask.sum() == pytest.approx(AREAS[thing.shape] * thing.radius**2, rel=0.05)
            centroid = np.argwhere(thing.mask).mean(axis=0) + 0.5
            np.testing.assert_allclose(centroid, thing.center, atol=0.5)


def test_objects_have_the_color_of_their_name(evaluation):
    for scene, _ in evaluation:
        for thing in scene.objects:
            seen = scene.image[thing.mask].mean(axis=0)
            assert min(RGB, key=lambda color: np.abs(seen - RGB[color]).sum()) == thing.color
            assert np.abs(seen - RGB[thing.color]).max() < 25 + 10  # jitter and noise of the mean


def test_objects_and_background_are_noisy(evaluation):
    for scene, _ in evaluation[:50]:
        for thing in scene.objects:
            assert scene.image[thing.mask].std(axis=0).min() > 4
        background = ~np.any([thing.mask for thing in scene.objects], axis=0)
        assert scene.image[background].std(axis=0).min() > 5


@pytest.mark.parametrize("split, shares", [("evaluation", EVAL), ("training", TRAIN)])
def test_kinds_of_questions_have_their_shares(split, shares, request):
    assert sum(shares.values()) == pytest.approx(1)
    drawn = shares_of(request.getfixturevalue(split))
    assert set(drawn) == set(shares)
    expected = {
        "evaluation": {"color_shape": 0.40, "color": 0.15, "shape": 0.15, "plural": 0.10, "absent": 0.20},
        "training": {"color_shape": 0.34, "color": 0.13, "shape": 0.12, "plural": 0.11, "absent": 0.30},
    }
    assert drawn == pytest.approx(expected[split], abs=0.03)


def test_training_has_more_absent_questions_than_evaluation(evaluation, training):
    assert shares_of(training)["absent"] > shares_of(evaluation)["absent"] + 0.05


def test_absent_questions_have_all_forms(evaluation, training):
    forms = Counter()
    for scene, row in evaluation + training:
        for target in row["targets"]:
            if target["masks"]:
                continue
            words = target["texts"][0].split()
            if words[0] == "all":
                forms["plural"] += 1
            elif len(words) == 2:
                forms["shape"] += 1
            elif words[2] == "shape":
                forms["color"] += 1
            else:
                near = named(scene.objects, words[1]) and named(scene.objects, words[2])
                forms["near" if near else "far"] += 1
    shares = {form: count / forms.total() for form, count in forms.items()}
    assert shares["near"] + shares["far"] == pytest.approx(0.7, abs=0.1)
    assert min(shares["near"], shares["far"]) > 0.2
    assert min(shares["color"], shares["shape"], shares["plural"]) > 0.04
