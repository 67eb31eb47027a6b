"""COCO panoptic files give one mask for each segment of their PNG files."""

import json

import numpy as np
import pytest
from annotated_files import box, masks_by_name, names, read, refusal
from own_folder import photo, write
from PIL import Image

from gemma_lisa.datasets_builder.formats import coco_panoptic
from gemma_lisa.datasets_builder.formats.annotated import AS_SIZE, Notes
from gemma_lisa.datasets_builder.formats.coco_panoptic import FORMAT

SIZE = (6, 8)
MUG, PLATE, CROWD = box(0, 0, 3, 3), box(5, 0, 8, 3), box(0, 4, 8, 6)
IDS = {7: MUG, 300: PLATE, 70_000: CROWD}  # one, two and three bytes


def png(root, name, ids=IDS, mode="RGB"):
    values = np.zeros(SIZE, dtype=np.uint32)
    for number, mask in ids.items():
        values[mask] = number
    pixels = np.stack([values & 255, values >> 8 & 255, values >> 16], axis=2).astype(np.uint8)
    picture = Image.fromarray(values.astype(np.uint8)) if mode == "L" else Image.fromarray(pixels)
    if mode == "P":
        picture = picture.quantize(16)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    picture.save(root / name)


def segment(number, category=1, **more):
    return {"id": number, "category_id": category, "iscrowd": 0, "bbox": [0, 0, 3, 3], "area": 9, **more}


SEGMENTS = [segment(7), segment(300, 2, bbox=[5, 0, 3, 3]), segment(70_000, iscrowd=1, note="far")]
CATEGORIES = [{"id": 1, "name": "coffee_mug", "isthing": 1}, {"id": 2, "name": "plate", "isthing": 0}]


def content(number=1, name="1.jpg", **more):
    record = {"id": number, "file_name": name, "width": SIZE[1], "height": SIZE[0]}
    marked = {"image_id": number, "file_name": name.replace(".jpg", ".png"), "segments_info": SEGMENTS}
    return {"images": [record], "annotations": [marked], "categories": CATEGORIES, **more}


def save(root, name, value):
    write(root, name, json.dumps(value))


@pytest.mark.parametrize(
    "file, pngs, photos, split",
    [
        ("annotations/panoptic_train2017.json", "annotations/panoptic_train2017", "train2017", "train"),
        ("annotations/panoptic_val2017.json", "panoptic_val2017", "images/val2017", "validation"),
        ("panoptic.json", "panoptic", "images", "train"),
        ("result.json", "masks", "images", "train"),
        ("panoptic_test.json", "panoptic_test", ".", "test"),
        ("annotations/panoptic.json", "somewhere/else", "my/photos", "train"),
        ("labels.json", "annotations/panoptic_masks", "train/images", "train"),
    ],
)
def test_segments_are_found_with_their_photo(tmp_path, file, pngs, photos, split):
    photo(tmp_path, f"{photos}/1.jpg")
    png(tmp_path, f"{pngs}/1.png")
    folder = tmp_path / ("annotations" if file.startswith("annotations") else "")
    folder.mkdir(exist_ok=True)
    save(tmp_path, file, content())
    splits, notes = read(FORMAT, tmp_path)
    (image,) = splits[split]
    assert image.path == tmp_path / photos / "1.jpg" and notes == {}
    assert (image.size, image.frame, image.name) == (SIZE, AS_SIZE, "1.jpg")
    found = masks_by_name(image, SIZE)
    assert np.array_equal(found["coffee mug"], [MUG, CROWD]) and np.array_equal(found["plate"], [PLATE])
    mug, plate, crowd = image.objects()
    assert (mug.crowd, crowd.crowd, crowd.fields) == (False, True, {"note": "far"})
    assert plate.box == (5, 0, 3, 3) and plate.area == 9


def test_photos_that_are_png_files_are_not_mixed_up_with_the_ids(tmp_path):
    photo(tmp_path, "images/1.png")
    png(tmp_path, "panoptic_train/1.png")
    save(tmp_path, "panoptic_train.json", content(name="1.png"))
    (image,) = read(FORMAT, tmp_path)[0]["train"]
    assert image.path == tmp_path / "images/1.png" and len(image.objects()) == 3


def test_two_files_are_two_splits(tmp_path):
    for split in ("train", "val"):
        photo(tmp_path, f"{split}/{split}.jpg")
        png(tmp_path, f"annotations/panoptic_{split}/{split}.png")
        save(tmp_path, f"annotations/panoptic_{split}.json", content(name=f"{split}.jpg"))
    save(tmp_path, "annotations/instances_train.json", {"images": [], "annotations": [], "categories": []})
    assert names(read(FORMAT, tmp_path)[0]) == {"train": ["train.jpg"], "validation": ["val.jpg"]}
    (tmp_path / "annotations/panoptic_val.json").rename(tmp_path / "annotations/panoptic_b.json")
    assert "cannot tell the splits" in refusal(FORMAT, tmp_path)


def ready(root, value=None, mode="RGB", ids=IDS):
    photo(root, "images/1.jpg")
    png(root, "panoptic/1.png", ids, mode)
    save(root, "panoptic.json", value or content())


def test_a_palette_gives_its_colors(tmp_path):
    ready(tmp_path, mode="P")
    (image,) = read(FORMAT, tmp_path)[0]["train"]
    assert np.array_equal(masks_by_name(image, SIZE)["plate"], [PLATE])


def test_grey_values_are_ids_if_they_are_in_the_file(tmp_path):
    value = content()
    value["annotations"][0]["segments_info"] = [segment(7)]
    ready(tmp_path, value, "L", {7: MUG})
    splits, notes = read(FORMAT, tmp_path)
    assert np.array_equal(masks_by_name(splits["train"][0], SIZE)["coffee mug"], [MUG])
    assert notes == {coco_panoptic.GREY: 1}
    value["annotations"][0]["segments_info"] = [segment(7 * 0x010101)]
    ready(tmp_path, value, "L", {7: MUG})
    splits, notes = read(FORMAT, tmp_path)
    assert np.array_equal(masks_by_name(splits["train"][0], SIZE)["coffee mug"], [MUG]) and notes == {}


def test_differences_between_the_files_are_noted(tmp_path):
    value = content()
    value["annotations"][0]["segments_info"] = [segment(7), segment(9)]
    value["annotations"].append({"image_id": 5, "segments_info": []})
    value["images"] += [{"id": 2, "file_name": "2.jpg"}, {"id": 3}]
    ready(tmp_path, value)
    splits, notes = read(FORMAT, tmp_path)
    first, second = splits["train"]
    assert [annotated.segmentation is None for annotated in first.objects()] == [False, True]
    assert second.objects() == [] and not second.path.exists()
    assert notes == {
        coco_panoptic.MISSING_IN_PNG: 1,
        coco_panoptic.MISSING_IN_JSON: 2,
        coco_panoptic.WITHOUT_SEGMENTS: 1,
        coco_panoptic.WITHOUT_IMAGE: 1,
        coco_panoptic.BAD_IMAGE: 1,
    }


def test_ids_can_be_text_or_decimals(tmp_path):
    value = content(number="1")
    value["annotations"][0]["image_id"] = 1.0
    value["categories"][0] = {"id": "1", "name": "mug"}
    ready(tmp_path, value)
    assert len(read(FORMAT, tmp_path)[0]["train"][0].objects()) == 3
    value["categories"][0] = CATEGORIES[0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"segments_info": None}, "has no list segments_info"),
        ({"segments_info": [{"category_id": 1}]}, "index 0 of segments_info has no id"),
        ({"segments_info": [segment(7, 9)]}, "segment 7: there is no category 9"),
        ({"file_name": "9.png"}, "its PNG file 9.png is not in"),
    ],
)
def test_errors_of_one_photo_are_raised_by_its_objects(tmp_path, change, message):
    value = content()
    value["images"].append({"id": 2, "file_name": "2.jpg"})
    value["annotations"].append({**content(2, "2.jpg")["annotations"][0], **change})
    photo(tmp_path, "images/2.jpg")
    png(tmp_path, "panoptic/2.png")
    ready(tmp_path, value)
    good, bad = FORMAT.read(tmp_path, Notes())["train"]
    assert len(good.objects()) == 3
    with pytest.raises(ValueError, match=message) as refused:
        bad.objects()
    assert "2.jpg" in str(refused.value) and "\n" not in str(refused.value)


def test_a_damaged_png_file_is_an_error_of_its_photo(tmp_path):
    ready(tmp_path)
    (tmp_path / "panoptic/1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (image,) = FORMAT.read(tmp_path, Notes())["train"]
    assert image.size is None
    with pytest.raises(ValueError, match="1.png cannot be read"):
        image.objects()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": []}, "contains no images"),
        ({"images": None}, "the lists images, annotations, categories must be"),
        ({"categories": [{"id": 1}]}, "the category at index 0"),
        ({"categories": CATEGORIES * 2}, "category 1 exists twice"),
        ({"images": content()["images"] * 2}, "image 1 exists twice"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, change, message):
    ready(tmp_path, content(**change))
    assert refusal(FORMAT, tmp_path).startswith(str(tmp_path / "panoptic.json"))
    assert message in refusal(FORMAT, tmp_path)


@pytest.mark.parametrize("folder, text", [("panoptic", "such as 1.png, is in"), ("images", "such as 1.jpg, is in")])
def test_missing_files_are_refused_with_advice(tmp_path, folder, text):
    ready(tmp_path)
    for path in (tmp_path / folder).iterdir():
        path.unlink()
    assert text.replace("is in", "is") in refusal(FORMAT, tmp_path)


def test_files_outside_of_the_folder_are_not_read(tmp_path):
    root = tmp_path / "data"
    photo(tmp_path, "1.jpg")
    png(tmp_path, "1.png")
    save(root, "panoptic.json", content(name="../1.jpg"))
    assert "put them into" in refusal(FORMAT, root)


def test_other_files_are_not_recognized(tmp_path):
    photo(tmp_path, "1.jpg")
    save(tmp_path, "annotations/panoptic.json", {"images": [], "annotations": [], "categories": CATEGORIES})
    assert not FORMAT.recognizes(tmp_path) and not FORMAT.recognizes(tmp_path / "missing")
