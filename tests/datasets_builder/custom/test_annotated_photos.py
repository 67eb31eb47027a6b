"""Photos of labelling tools' exports in the folder data set: classes, repeated photos, rotation, bad objects."""

import numpy as np
import pytest
from coco_photos import Photos, annotation, box, box_mask, masks_of
from own_folder import areas, labelme, load, photo, refusal, shape, turned, write

from gemma_lisa.datasets_builder.mixture import load_rows

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # raised inside pycocotools
]
MUG, PLATE = [[0, 0], [4, 0], [4, 3], [0, 3]], [[4, 3], [8, 3], [8, 6], [4, 6]]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def test_spellings_of_a_class_are_united_unless_the_classes_are_listed(root, caplog):
    photo(root, "1.jpg")
    labelme(root, "labels/1.json", [shape("Mug-1", MUG), shape("mug 2", PLATE), shape("mug 2", PLATE)])
    assert areas(load(root)[0]) == {"the mug": 24}
    assert "united class names that differ only in a trailing number" in caplog.text
    write(root, "classes.txt", "1: Mug-1\n2: mug 2\n")
    assert areas(load(root)[0]) == {"the Mug-1": 12, "the mug 2": 12}


def test_a_class_with_a_bad_object_is_not_asked_for_and_the_others_are(root, caplog):
    photo(root, "1.jpg")
    far = shape("mug", [[0, 0], [80, 0], [80, 40]])
    labelme(root, "labels/1.json", [far, shape("mug", MUG), shape("plate", PLATE)])
    assert "shape 1 (mug)" in refusal(root)
    assert areas(load(root, max_bad=1)[0]) == {"the plate": 12}
    assert "skipped classes with an error in one of their objects (1), first: mug in" in caplog.text


def test_a_photo_that_is_listed_twice_is_two_rows_or_one(root, caplog):
    photos = Photos(root / "twice")
    photos.content["images"].append({**photos.content["images"][0], "id": 2})
    photos.content["annotations"] += [annotation(9, [box(6, 6, 12, 12)], 9, image=2)]
    photos.load()

    def rows(**options):
        return load_rows("folder", "train", str(photos.root), options)

    assert [list(masks_of(row)) for row in rows()] == [["the trash can", "the cat"], ["the cars, parked"]]
    assert (
        "listed more than once, each with its own objects; to unite them, set the option repeated to unite (1)"
        in caplog.text
    )
    [row] = rows(repeated="unite")
    assert list(masks_of(row)) == ["the trash can", "the cat", "the cars, parked"]


def test_photos_with_the_same_name_and_another_suffix_are_two(root):
    photos = Photos(root / "suffixes")
    photo(photos.root, "images/1.jpg", (32, 24))
    photos.content["images"].append({**photos.content["images"][0], "id": 2, "file_name": "images/1.jpg"})
    photos.content["annotations"] += [annotation(9, [box(6, 6, 12, 12)], 9, image=2)]
    photos.load()
    found = load_rows("folder", "train", str(photos.root))
    assert [row["image"]["path"].rpartition("/")[2] for row in found] == ["1.png", "1.jpg"]
    assert len({row["source"] for row in found}) == 2


def test_a_missing_photo_and_a_bad_record_are_not_the_same_photo(root, caplog):
    photos = Photos(root / "missing")
    photos.content["images"] += [{**photos.content["images"][0], "id": at, "file_name": f"{at}0.png"} for at in (2, 3)]
    photos.content["annotations"] += [annotation(at, [box(6, 6, 12, 12)], image=8) for at in (8, 9)]
    photos.load(max_bad=4)
    [row] = load_rows("folder", "train", str(photos.root), {"max_bad": 4})
    assert row["source"].endswith("images/1") and "listed more than once" not in caplog.text


def test_questions_choose_the_classes_of_a_tools_export(root):
    photos = Photos(root / "coco")
    photos.load()
    write(photos.root, "questions.csv", "image,question,class\n1.png,What holds the waste?,trash can\n1.png,the dog,\n")
    [row] = load_rows("folder", "train", str(photos.root))
    found = masks_of(row)
    np.testing.assert_array_equal(found["What holds the waste?"], [box_mask(4, 16, 10, 20) | box_mask(20, 2, 28, 8)])
    assert len(found["the dog"]) == 0


@pytest.mark.parametrize("exif", ["auto", "stored"])
def test_the_option_exif_turns_annotations_of_rotated_photos(root, caplog, exif):
    photo(root, "1.jpg", (8, 6), exif=turned(3))
    labelme(root, "images/1.json", [shape("mug", MUG)])
    [row] = load(root, exif=exif)
    mask = masks_of(row)["the mug"][0]
    assert mask[:3, :4].all() if exif == "auto" else mask[3:, 4:].all()
    assert ("as drawn on the upright photo" if exif == "auto" else "on the stored pixels") in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"exif": "left"}, "folder: exif must be auto or upright or stored, got 'left'"),
        ({"crowds": 1}, "folder: crowds must be ignore or things, got 1"),
        ({"repeated": True}, "folder: repeated must be separate or unite, got True"),
        ({"format": "png"}, "folder: format must be masks or one of coco, "),
        ({"text": "the mug"}, "the option text is not supported for LabelMe JSON files"),
    ],
)
def test_wrong_options_are_one_line(root, options, said):
    photo(root, "1.jpg")
    labelme(root, "labels/1.json", [shape("mug", MUG)])
    assert said in refusal(root, **options)
