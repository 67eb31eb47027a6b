"""Shapes: an independent interpretation of each question gives the answer of its row; splits of the builder."""

from collections import Counter
from io import BytesIO

import numpy as np
import pytest
from easy_scenes import N_SCENES, RGB, SIZE, kind_of, make, named
from PIL import Image
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.rows import ROW_FEATURES, check_row, load_image
from gemma_lisa.datasets_builder.synthetic import shapes
from gemma_lisa.datasets_builder.synthetic.shapes import GRID_SHAPE_SHARE, GRID_SHARE, Shapes, code_hash

# pycocotools calls NumPy 2 with a deprecated signature
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def evaluation():
    return [make(index) for index in range(N_SCENES)]


@pytest.fixture(scope="module")
def training():
    return [make(index, training=True) for index in range(N_SCENES)]


def names(thing, size):
    """Return the names that an answer can give to an object after its slot."""
    row = ("top", "upper", "lower", "bottom")[int(thing.center[0] * 4 / size)]
    column = ("leftmost", "left", "right", "rightmost")[int(thing.center[1] * 4 / size)]
    return (f"{thing.color} {thing.shape}", f"{thing.shape} in {thing.color}", f"{row} {column}", f"{column} {row}")


@pytest.mark.parametrize("split", ["evaluation", "training"])
def test_each_question_has_one_correct_answer_and_it_is_that_of_the_row(split, request):
    n_questions, answers = 0, Counter()
    for scene, row in request.getfixturevalue(split):
        check_row(row)
        assert len({target["texts"][0] for target in row["targets"]}) == len(row["targets"]) == 4
        for target in row["targets"]:
            (text,) = target["texts"]
            plural = text.startswith("all the ")
            assert plural == text.endswith("s")
            found = named(scene.objects, text.removeprefix("all ").removeprefix("the "))
            assert len(found) != 1 if plural else len(found) <= 1
            found.sort(key=lambda thing: tuple(np.argwhere(thing.mask).mean(axis=0)))
            masks = [coco_mask.decode({**rle, "counts": rle["counts"].encode()}) for rle in target["masks"]]
            for mask, thing in zip(masks, found, strict=True):
                np.testing.assert_array_equal(mask, thing.mask)
            if not found:
                assert target["answer"] is None
            else:
                said = [
                    ", ".join(f"{{seg}} {name}" for name in ways)
                    for ways in zip(*(names(thing, SIZE) for thing in found), strict=True)
                ]
                assert target["answer"] in [f"{'They are' if plural else 'It is'} {things}." for things in said]
                answers[said.index(target["answer"].removeprefix("They are ").removeprefix("It is ")[:-1])] += 1
            assert target["kind"] == kind_of(target)
            assert (target["is_sentence"], target["ignore"], target["explanation"]) == (False, None, None)
            n_questions += 1
    assert n_questions == 4 * N_SCENES
    assert (
        min(answers[way] for way in range(4)) > 0.2 * answers.total()
    )  # all ways to name an object are used equally often


def test_image_of_a_row_is_its_scene(evaluation):
    for scene, row in evaluation[:20]:
        np.testing.assert_array_equal(np.asarray(load_image(row["image"], row["source"])), scene.image)


def asks_grid(row):
    return row["conversation"][0]["question"].startswith("Which ")


def test_counts_are_correct_and_the_four_kinds_are_equally_frequent(evaluation, training):
    ways = Counter()
    for scene, row in evaluation + [pair for pair in training if not asks_grid(pair[1])]:
        question, answer = row["conversation"][0].values()
        words = question.removeprefix("How many ").removesuffix(" are there?")
        assert answer == f"{len(named(scene.objects, words))}."
        ways[words.split()[0] in RGB, words.endswith("shapes")] += 1
    assert len(ways) == 4 and min(ways.values()) > (2 - GRID_SHARE) * N_SCENES / 4 * 0.75


def test_only_training_has_grid_questions_and_their_sixteen_words_locate_each_object(evaluation, training):
    assert not any(asks_grid(row) for _, row in evaluation)
    asked = Counter()
    for scene, row in training:
        [grid] = row["conversation"]
        if not asks_grid(row):
            continue
        attribute = grid["question"].removeprefix("Which ").removesuffix(" is in each of 4 x 4 cells?")
        asked[attribute] += 1
        words = grid["answer"].split(" ")
        assert len(words) == 16
        assert sum(word != "none" for word in words) == len(scene.objects)  # at most one object per cell
        for thing in scene.objects:
            y, x = thing.center
            assert words[int(y // 16) * 4 + int(x // 16)] == {"shape": thing.shape, "color": thing.color}[attribute]
    assert asked["shape"] + asked["color"] == pytest.approx(GRID_SHARE * N_SCENES, rel=0.1)
    assert asked["shape"] == pytest.approx(GRID_SHARE * GRID_SHAPE_SHARE * N_SCENES, rel=0.15)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    def build(**config):
        folder = tmp_path_factory.mktemp("shapes")  # a separate cache for each build
        rows = {"train_rows": 30, "validation_rows": 20, "test_rows": 25}
        builder = Shapes(cache_dir=str(folder), **{"config_name": "easy", **rows, **config})
        builder.download_and_prepare()
        return builder.as_dataset()

    return build


def test_builder_returns_three_splits_with_sources(built):
    splits = built()
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 30, "validation": 20, "test": 25}
    for name, rows in splits.items():
        assert rows.features == ROW_FEATURES
        assert list(rows["source"]) == [f"shapes-easy/{name}/{index:06d}" for index in range(len(rows))]
        assert {len(row["conversation"]) for row in rows} == {1}
        for row in rows:
            check_row(row)


def test_same_seed_gives_the_same_rows_and_another_seed_gives_others(built):
    first, again, other = built(), built(train_rows=10), built(seed=1)
    assert first["test"].to_list() == again["test"].to_list()
    assert first["train"].select(range(10)).to_list() == again["train"].to_list()
    images = [{row["image"]["bytes"] for rows in splits.values() for row in rows} for splits in (first, other)]
    assert images[0].isdisjoint(images[1])


def test_splits_share_no_image(built):
    images = [row["image"]["bytes"] for rows in built().values() for row in rows]
    assert len(set(images)) == len(images) == 75


def test_rows_of_other_code_are_not_read_from_the_cache(tmp_path, monkeypatch):
    rows = {"config_name": "easy", "cache_dir": str(tmp_path), "train_rows": 1, "validation_rows": 1, "test_rows": 1}
    first, again = Shapes(**rows), Shapes(**rows)
    assert code_hash() in first.cache_dir and first.cache_dir == again.cache_dir
    monkeypatch.setattr(shapes, "code_hash", lambda: "other")
    assert Shapes(**rows).cache_dir != first.cache_dir


def test_images_have_the_configured_size(built):
    row = built(image_size=96)["test"][0]
    assert Image.open(BytesIO(row["image"]["bytes"])).size == (96, 96)
    assert {tuple(rle["size"]) for target in row["targets"] for rle in target["masks"]} == {(96, 96)}


@pytest.mark.parametrize("level, size", [("easy", 16), ("hard", 64), ("both", 64), ("reason", 63)])
def test_too_small_image_size_is_refused(tmp_path, level, size):
    builder = Shapes(config_name=level, cache_dir=str(tmp_path), image_size=size)
    with pytest.raises(ValueError, match=f"shapes: image_size must be at least .* pixels, got {size}"):
        builder.download_and_prepare()


def test_level_both_alternates_easy_and_hard_rows(built):
    rows = built(config_name="both", train_rows=6, validation_rows=2, test_rows=4)["test"]
    assert [len(row["targets"]) for row in rows] == [4, 6, 4, 6]
    assert {Image.open(BytesIO(row["image"]["bytes"])).size for row in rows} == {(128, 128)}
