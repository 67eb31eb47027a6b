"""Photos that are listed twice in COCO JSON, the questions of several records, and the photos of remarks."""

import json

import numpy as np
import pytest
from coco_photos import Photos, annotation, box, box_mask, masks_of

from gemma_lisa.datasets_builder.custom.coco_instances import SAME_MASK
from gemma_lisa.datasets_builder.mixture import builder_of, load_rows, make_rows

# raised inside pycocotools with NumPy 2
pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture
def photos(tmp_path):
    return Photos(tmp_path / "photos")


def list_again(photos, name, **more):
    photos.content["images"].append({**photos.content["images"][0], "id": 2, "file_name": name, **more})
    photos.content["annotations"].append(annotation(9, [box(6, 6, 12, 12)], 9, image=2))


@pytest.mark.parametrize("name", ["images/1.png", "1.png", ".\\images\\1.png", "https://a.b/images/1.png"])
def test_a_photo_listed_by_another_name_is_counted_or_united(photos, caplog, name):
    list_again(photos, name)
    assert [len(row["targets"]) for row in photos.load()] == [2, 1]
    assert "each with its own objects; to unite them, set the option repeated to unite (1), first:" in caplog.text
    [row] = photos.load(repeated="unite")
    assert list(masks_of(row)) == ["the trash can", "the cat", "the cars, parked"]
    assert "photos listed more than once, whose objects were united (1)" in caplog.text


def test_united_records_are_checked_and_turned_each_by_its_own_size(photos):
    list_again(photos, "1.png", height=None, width=None)
    assert len(photos.load(repeated="unite")[0]["targets"]) == 3
    photos.content["images"][1] |= {"height": 12, "width": 16}
    with pytest.raises(ValueError, match="image 2 .*: its size is 16 x 12 pixels"):
        photos.load(repeated="unite")


def test_absent_never_asks_for_the_background_nor_for_what_another_record_has(photos):
    photos.content["categories"] = [*photos.content["categories"], {"id": 4, "name": "Background"}]
    photos.content["annotations"].append(annotation(7, [box(5, 17, 6, 18)], 4))
    list_again(photos, "1.png")
    [row] = photos.load(repeated="unite", absent=9)
    assert all(len(masks) for masks in masks_of(row).values())
    rows = photos.load(absent=9)
    assert [sorted(masks_of(row)) for row in rows] == [["the cars, parked", "the cat", "the trash can"]] * 2


@pytest.mark.parametrize("value", [5, "x", [[1]], {"a": 1}, [None]])
@pytest.mark.parametrize("field", ["neg_category_ids", "not_exhaustive_category_ids"])
def test_damaged_fields_of_lvis_name_no_category(photos, field, value):
    photos.content["images"][0][field] = value
    [row] = photos.load(absent=2)
    assert all(len(masks) for masks in masks_of(row).values())


def test_an_object_without_the_text_of_its_question_does_not_drop_the_others(photos):
    photos.content["annotations"][0]["caption"] = "the bin"
    with pytest.raises(ValueError, match="annotation 2 has no text in its field 'caption'"):
        photos.load(text="{caption}")
    [row] = photos.load(text="{caption}", max_bad=2)
    np.testing.assert_array_equal(masks_of(row)["the bin"], [box_mask(4, 16, 10, 20)])


def test_each_remark_has_photos_for_the_sheet(photos):
    photos.content["images"][0] |= {"height": None, "width": None}
    list_again(photos, "1.png")
    photos.load()
    builder = builder_of("coco_instances", str(photos.root), {})
    make_rows(builder)
    assert len(builder.remarks) == 2 and builder.examples == [[str(photos.root / "images/1.png")]] * 2


def test_the_same_photo_in_two_splits_is_counted(photos, caplog):
    (photos.root / "other.json").write_text(json.dumps(photos.content))
    photos.load("validation", annotations={"train": "result.json", "validation": "other.json"})
    assert "photos that are also in another split, so its scores are too good" in caplog.text
    assert "is in train and validation" in caplog.text
    caplog.clear()
    for split in ("train", "valid"):
        photos.load(file=f"{split}.json", annotations={"train": f"{split}.json"})
    (photos.root / "result.json").unlink()
    (photos.root / "other.json").unlink()
    load_rows("folder", "validation", str(photos.root))
    assert "is in train and validation" in caplog.text


def test_an_object_that_is_listed_twice_is_one_mask(photos, caplog):
    photos.content["annotations"].append({**photos.content["annotations"][0], "id": 8})
    [row] = photos.load(instances="separate")
    assert [len(masks) for masks in masks_of(row).values()] == [2, 1]
    assert f"{SAME_MASK} (1), first:" in caplog.text
