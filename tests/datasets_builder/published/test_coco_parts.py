"""Things and their parts: plain names, and the targets of a photo."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.published.coco_parts import Category, listed, present_targets, read_categories
from gemma_lisa.datasets_builder.published.paco_lvis import PacoLvis
from gemma_lisa.datasets_builder.rows import decode_mask, encode_mask

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "samples"
CUP, HANDLE, SPOON = 1, 2000, 7
CATEGORIES = {CUP: Category("cup"), HANDLE: Category("cup", "handle"), SPOON: Category("spoon")}


def box(left, top, right, bottom):
    """Return a mask of 8 x 6 pixels (width x height)."""
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def annotation(number, category, mask, **more):
    owner = {"obj_ann_id": number, **more}
    return {"id": number, "category_id": category, "segmentation": encode_mask(mask), **owner}


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg")
    return tmp_path / "a.jpg"


def targets_of(photo, marked, **record):
    skipped = defaultdict(list)
    image = {"id": 1, "file_name": "a.jpg", "height": 6, "width": 8, **record}
    return present_targets(image, marked, CATEGORIES, photo, "file: image 1", skipped), skipped


def pixels(target):
    return decode_mask(target["masks"][0], "")


def test_category_names_become_plain_words():
    names = {
        1: "car (automobile)",
        2: "car (automobile):steeringwheel",
        3: "bus:license plate",
    }  # as read_coco returns them
    categories = read_categories(Path("a.json"), names, {"steeringwheel": "steering wheel"})
    assert list(categories.values()) == [
        Category("car"),
        Category("car", "steering wheel"),
        Category("bus", "license plate"),
    ]


@pytest.mark.parametrize("name", ["a:b:c", ":wheel", "car:", "(automobile)"])
def test_name_that_is_neither_thing_nor_part_is_refused(name):
    with pytest.raises(ValueError, match="a.json: name of category 4 must be .thing. or .thing:part., got"):
        read_categories(Path("a.json"), {4: name}, {})


@pytest.mark.parametrize(
    ("category", "texts"),
    [
        (Category("cup"), ["the cup"]),
        (Category("cup", "handle"), ["the handle of the cup", "the cup handle"]),
        (Category("fan", "fan box"), ["the fan box of the fan", "the fan box"]),
        (Category("potted plant", "plant"), ["the plant of the potted plant"]),
    ],
)
def test_parts_have_two_texts_if_both_are_natural(category, texts):
    assert category.texts == texts


def test_instances_of_a_category_are_united_and_targets_keep_the_order_of_the_file(photo):
    marked = [annotation(3, SPOON, box(0, 0, 1, 1)), annotation(1, CUP, box(0, 2, 2, 4))]
    marked += [annotation(2, CUP, box(1, 3, 3, 5))]  # overlaps the first
    targets, skipped = targets_of(photo, marked)
    assert [target["texts"] for target in targets] == [["the spoon"], ["the cup"]]
    assert np.array_equal(pixels(targets[1]), box(0, 2, 2, 4) | box(1, 3, 3, 5))
    assert not skipped and targets[1]["ignore"] is None


def test_crowds_and_things_without_annotated_parts_are_ignored(photo):
    marked = [
        annotation(1, CUP, box(0, 0, 4, 4)),
        annotation(5, HANDLE, box(3, 0, 4, 2), obj_ann_id=1),
        annotation(2, CUP, box(4, 4, 6, 6)),  # its handle is not annotated
        annotation(3, CUP, box(6, 0, 8, 2), iscrowd=1),
    ]
    (cup, handle), _ = targets_of(photo, marked)
    assert np.array_equal(pixels(cup), box(0, 0, 4, 4) | box(4, 4, 6, 6))
    assert np.array_equal(decode_mask(cup["ignore"], ""), box(6, 0, 8, 2))
    assert np.array_equal(pixels(handle), box(3, 0, 4, 2))
    assert np.array_equal(decode_mask(handle["ignore"], ""), box(4, 4, 6, 6) | box(6, 0, 8, 2))


@pytest.mark.parametrize(
    ("partly", "asked"),
    [
        ([CUP], ["the spoon"]),
        ([HANDLE], ["the cup", "the spoon"]),
        ([999, SPOON], ["the cup", "the handle of the cup"]),
    ],
    ids=["thing and its parts", "part", "category of LVIS only"],
)
def test_categories_that_are_not_exhaustively_annotated_are_not_asked_for(photo, partly, asked):
    marked = [annotation(1, CUP, box(0, 0, 4, 4)), annotation(2, HANDLE, box(3, 0, 4, 2), obj_ann_id=1)]
    marked += [annotation(3, SPOON, box(5, 5, 6, 6))]
    targets, skipped = targets_of(photo, marked, not_exhaustive_category_ids=partly)
    assert [target["texts"][0] for target in targets] == asked
    assert sum(map(len, skipped.values())) == 3 - len(asked)


def test_annotation_with_an_empty_mask_is_skipped_and_recorded(photo):
    targets, skipped = targets_of(photo, [annotation(1, CUP, box(0, 0, 0, 0))])
    assert not targets and skipped == {"annotations with an empty mask": ["file: image 1: annotation 1"]}


def test_masks_are_rotated_by_the_exif_orientation_of_their_photo(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees clockwise
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)
    (target,), _ = targets_of(tmp_path / "a.jpg", [annotation(1, CUP, box(0, 0, 3, 1))])
    assert np.array_equal(pixels(target), np.rot90(box(0, 0, 3, 1), -1))


def test_invalid_list_of_ids_is_refused():
    with pytest.raises(ValueError, match="file: image 1: neg_category_ids must be a list of category ids, got 'cup'"):
        listed({"neg_category_ids": "cup"}, "neg_category_ids", CATEGORIES, "file: image 1")


@pytest.mark.skipif(not (SAMPLES / "vlpart").is_dir(), reason=f"no real samples: {SAMPLES}")
@pytest.mark.parametrize(
    ("file", "corrected", "things", "parts"),
    [
        ("paco/paco_lvis_v1_train_cat_info.json", PacoLvis.CORRECTED, 75, 456),
        ("pascal_part/categories.json", {}, 0, 93),
    ],
)
def test_real_names_become_words_and_all_texts_are_distinct(file, corrected, things, parts):
    names = {
        record["id"]: record["name"].replace("_", " ") for record in json.loads((SAMPLES / "vlpart" / file).read_text())
    }
    categories = read_categories(Path(file), names, corrected).values()
    assert sum(category.part is None for category in categories) == things
    assert sum(category.part is not None for category in categories) == parts
    texts = [text for category in categories for text in category.texts]
    assert len(texts) == len(set(texts)) and not [text for text in texts if set(text) & set("_:()")]
    words = {word for category in categories for word in (category.thing, category.part)}
    assert not words & set(corrected) and set(corrected.values()) <= words
