"""LabelMe files are found in any folders, with their photos and splits."""

import json
from pathlib import Path

import numpy as np
import pytest
from own_folder import SIZE, drawn, labelme, photo, shape, write

from gemma_lisa.datasets_builder.formats.annotated import AS_SIZE, Notes
from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs
from gemma_lisa.datasets_builder.formats.labelme import BY_FILE_NAME, FORMAT, NO_FILE, NO_SIZE, NO_SPLIT, OTHER_FILES
from gemma_lisa.datasets_builder.formats.labelme_shapes import WITHOUT_AREA
from gemma_lisa.datasets_builder.rows import decode_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools

EXPORTS = Path(__file__).parents[2] / "exports" / "labelme"
SQUARE = shape("mug", [[1, 1], [5, 1], [5, 4], [1, 4]])


def label(root, name, image_path="1.jpg", shapes=(SQUARE,), **fields):
    """Write a LabelMe file. fields: replace others; None removes one."""
    labelme(root, name, list(shapes))
    content = json.loads((root / name).read_text()) | {"imagePath": image_path} | fields
    write(root, name, json.dumps(content))


def read(root):
    """Return {split: paths of photos relative to root}, the notes and the images."""
    assert FORMAT.recognizes(root)
    notes = Notes()
    splits = FORMAT.read(root, notes)
    paths = {split: [image.path.relative_to(root).as_posix() for image in images] for split, images in splits.items()}
    return paths, notes, [image for images in splits.values() for image in images]


def grown(mask):
    """Return a mask that is larger by one pixel on each side."""
    padded = np.pad(mask, 1)
    shifts = [np.roll(padded, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return np.any(shifts, axis=0)[1:-1, 1:-1]


def test_files_saved_by_labelme_have_the_masks_that_it_draws():
    expected = json.loads((EXPORTS / "expected.json").read_text())
    paths, notes, images = read(EXPORTS)
    assert paths == {"train": ["images/train/1.png"], "validation": ["images/val/2.png"]}
    assert set(images[1].fields) == set() and images[1].size == (48, 64)
    for image in images:
        objects, masks = image.objects(), expected[image.path.stem]["masks"]
        assert {one.name for one in objects} == set(masks)
        for one in objects:
            found, theirs = (
                decode_mask(segmentation_runs(segmentation, image.size, ""), "").astype(bool)
                for segmentation in (one.segmentation, masks[one.name])
            )
            # LabelMe also fills the pixels under the outline
            assert (found & theirs).sum() > 0.95 * found.sum() and (theirs & ~grown(found)).sum() < 0.02 * theirs.sum()
            assert one.name != "plate" or "counts" in one.segmentation
            assert not one.fields or np.array_equal(found, theirs)  # the mask, which has a group_id
    assert {kind: len(cases) for kind, cases in notes.cases.items()} == {WITHOUT_AREA: 2, OTHER_FILES: 1}


@pytest.mark.parametrize(
    ("photos", "files"),
    [
        (["1.jpg", "2.png"], {"1.json": "1.jpg", "2.json": "2.png"}),
        (["images/1.jpg", "images/2.png"], {"labels/1.json": "..\\images\\1.jpg", "labels/2.json": "../images/2.png"}),
        (["photos/1.jpg", "photos/2.png"], {"ann/1.json": "C:\\Users\\me\\1.jpg", "ann/2.json": "/data/me/p/2.png"}),
        (["a/1.jpg", "a/2.png"], {"json/7.json": "1.jpg", "json/8.json": "2.png"}),
        (["a/1.jpg", "a/2.png"], {"json/1.json": "", "json/2.json": ""}),
        (["a/1.jpg", "a/2.png"], {"json/1.json": "gone.jpg", "json/2.json": "gone.jpg"}),
        (["a/1.jpg", "a/2.png"], {"json/1.jpg.json": "", "json/2.png.json": "gone.png"}),
        (["labels/1.jpg", "labels/2.png"], {"labels/1.json": "1.jpg", "labels/2.json": "2.png"}),
        (["a/1.jpg", "b/2.png", "masks/1.png"], {"a/1.json": "1.jpg", "b/2.json": "2.png"}),
        (["deep/er/1.jpg", "deep/er/2.png"], {"deep/er/1.json": "x.jpg", "deep/er/2.json": "2.png"}),
    ],
)
def test_photos_are_found_beside_their_files_and_in_other_folders(tmp_path, photos, files):
    for name in photos:
        photo(tmp_path, f"./{name}")
    for name, image_path in files.items():
        label(tmp_path, name, image_path)
    paths, _, images = read(tmp_path)
    assert paths == {"train": photos[:2]}
    assert all([one.name for one in image.objects()] == ["mug"] for image in images)
    assert all((image.size, image.frame, image.normalized) == (SIZE[::-1], AS_SIZE, False) for image in images)


@pytest.mark.parametrize(
    "folders",
    [("{}/images", "{}/labels"), ("images/{}", "labels/{}"), ("{}", "{}"), ("{}_images", "{}_labels")],
)
@pytest.mark.parametrize("image_path", ["1.jpg", "../../images/1.jpg", "D:\\old\\1.jpg"])
def test_folders_named_like_splits_are_splits(tmp_path, folders, image_path):
    for split in ("train", "val", "test"):
        photo(tmp_path, f"{folders[0].format(split)}/1.jpg")
        label(tmp_path, f"{folders[1].format(split)}/1.json", image_path)
    paths, notes, _ = read(tmp_path)
    names = [folders[0].format(split) + "/1.jpg" for split in ("train", "val", "test")]
    assert paths == {"train": names[:1], "validation": names[1:2], "test": names[2:]}
    assert not notes.cases


def test_photos_of_no_split_are_counted_and_file_names_are_no_splits(tmp_path):
    for name in ("val/1", "2", "test"):
        photo(tmp_path, f"./{name}.jpg")
        label(tmp_path, f"{name}.json", f"{name}.jpg".rpartition("/")[2])
    paths, notes, _ = read(tmp_path)
    assert paths == {"train": ["2.jpg", "test.jpg"], "validation": ["val/1.jpg"]}
    assert len(notes.cases[NO_SPLIT]) == 2


def test_a_copied_file_belongs_to_the_photo_of_its_name(tmp_path):
    photo(tmp_path, "1.jpg")
    photo(tmp_path, "2.jpg")
    photo(tmp_path, "3.jpg")
    label(tmp_path, "labels/1.json", "..\\images\\1.jpg")
    label(tmp_path, "labels/2.json", "..\\images\\1.jpg")
    paths, notes, _ = read(tmp_path)
    assert paths == {"train": ["images/1.jpg", "images/2.jpg"]}
    assert "labels/2.json" in notes.cases[BY_FILE_NAME][0].where
    assert [case.photo.name for case in notes.cases[NO_FILE]] == ["3.jpg"]


def test_image_path_decides_if_its_photo_has_no_file_of_its_own(tmp_path):
    photo(tmp_path, "cat.jpg")
    photo(tmp_path, "thumbnails/1.jpg")
    label(tmp_path, "ann/1.json", "C:\\data\\cat.jpg")
    assert read(tmp_path)[0] == {"train": ["images/cat.jpg"]}


def test_a_photo_of_another_split_is_not_used(tmp_path):
    photo(tmp_path, "val_images/1.jpg")
    label(tmp_path, "train_labels/1.json")
    _, _, [image] = read(tmp_path)
    assert not image.path.exists()
    with pytest.raises(ValueError, match="train_labels/1.json: its photo .* is in another split"):
        image.objects()


def test_two_files_of_one_photo_are_refused(tmp_path):
    photo(tmp_path, "1.jpg")
    label(tmp_path, "images/1.json")
    label(tmp_path, "labels/1.json")
    _, _, (first, second) = read(tmp_path)
    assert first.objects()
    with pytest.raises(ValueError, match=r"labels/1.json: .*images/1.json belongs to the same photo"):
        second.objects()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("/9j/AAAA", r"1.json: its photo gone.jpg is missing. The file contains it as imageData; save it"),
        (None, r"1.json: the photo '.*gone.jpg' is not in"),
    ],
)
def test_a_missing_photo_is_an_error_of_its_own(tmp_path, data, said):
    photo(tmp_path, "2.jpg")
    label(tmp_path, "labels/1.json", "..\\gone.jpg", imageData=data)
    label(tmp_path, "labels/2.json", "2.jpg")
    _, _, (missing, found) = read(tmp_path)
    assert missing.path.name == "gone.jpg" and not missing.path.exists() and found.objects()
    with pytest.raises(ValueError, match=said):
        missing.objects()


@pytest.mark.parametrize("image_path", ["../../secret.jpg", "/etc/passwd", "..\\..\\..\\secret.jpg", "\0", "."])
def test_photos_outside_of_the_folder_are_not_found(tmp_path, image_path):
    photo(tmp_path, "./secret.jpg")
    label(tmp_path / "my/data", "labels/1.json", image_path)
    _, _, [image] = read(tmp_path / "my/data")
    assert not image.path.exists()
    with pytest.raises(ValueError, match="1.json"):
        image.objects()


def test_shapes_without_an_area_are_counted_and_the_others_remain(tmp_path):
    photo(tmp_path, "1.jpg")
    empty = [shape("a", []), shape("a", [[1, 1], [2, 2]]), shape("a", [[1, 1]], "point"), shape("a", [], "circle")]
    empty += [shape("a", [[1, 1], [2, 2], [3, 3]], kind) for kind in ("line", "linestrip", "points")]
    bad = [shape("", SQUARE["points"]), shape("a", [[1, "x"]]), shape("a", [[1, 1]], "blob"), 7]
    bad += [shape("a", [[1, 1], [2, 2]], "mask") | {"mask": "AAAA"}]
    label(tmp_path, "images/1.json", shapes=[*empty, SQUARE, *bad])
    _, notes, [image] = read(tmp_path)
    found = image.objects()
    assert [one.where for one in found if not one.error] == [f"{tmp_path}/images/1.json: shape 8 (mug)"]
    assert len(found) == 1 + len(bad) and {kind: len(cases) for kind, cases in notes.cases.items()} == {WITHOUT_AREA: 7}
    assert all(case.photo == image.path for cases in notes.cases.values() for case in cases)


def test_objects_are_as_in_the_file(tmp_path):
    photo(tmp_path, "1.jpg")
    shapes = [
        SQUARE | {"label": "Mug_1", "group_id": 3, "description": "blue", "difficult": False},
        shape("box", [[4, 3], [1, 1]], "rectangle"),
        shape("ball", [[4, 3], [4, 1]], "circle"),
        drawn("AI", [[2, 3], [3, 4]], np.array([[1, 0], [1, 1]], dtype=np.uint8)),
        shape("__ignore__", SQUARE["points"]),
        shape("_background_", SQUARE["points"]) | {"shape_type": None},
    ]
    label(tmp_path, "images/1.json", shapes=shapes, flags={"indoor": True})
    _, notes, [image] = read(tmp_path)
    objects = image.objects()
    assert [one.name for one in objects] == ["Mug_1", "box", "ball", "AI", "__ignore__", "_background_"]
    assert [one.crowd for one in objects] == [False] * 4 + [True, False]
    assert objects[0].fields == {"group_id": 3, "description": "blue", "difficult": False} and image.fields == {
        "flags": {"indoor": True}
    }
    assert objects[0].segmentation == [[1, 1, 5, 1, 5, 4, 1, 4]]
    assert objects[1].segmentation == [[4, 3, 1, 3, 1, 1, 4, 1]]
    pixels = [decode_mask(segmentation_runs(one.segmentation, image.size, ""), "") for one in objects]
    assert pixels[1].sum() == 6 and pixels[2].sum() == 12 and pixels[2][1:5, 2:6].sum() == 12
    assert np.argwhere(pixels[3]).tolist() == [[3, 2], [4, 2], [4, 3]]
    assert not notes.cases


@pytest.mark.parametrize("sides", [(None, None), (None, 8), ("6", 8), (0, 8), (True, 8), (6.5, 8)])
def test_without_a_valid_size_the_photo_has_none(tmp_path, sides):
    photo(tmp_path, "1.jpg", color="blue")
    label(
        tmp_path,
        "images/1.json",
        shapes=[SQUARE, shape("a", [[4, 3], [4, 1]], "circle")],
        imageHeight=sides[0],
        imageWidth=sides[1],
    )
    _, notes, [image] = read(tmp_path)
    assert image.size is None and image.objects()[1].segmentation["size"] == [6, 8]
    assert len(notes.cases[NO_SIZE]) == (sides != (None, None))


def test_a_circle_on_a_huge_image_is_an_error_before_it_is_allocated(tmp_path):
    photo(tmp_path, "1.jpg")
    circle = shape("a", [[4, 3], [4, 1]], "circle")
    label(tmp_path, "images/1.json", shapes=[circle], imageHeight=10**9, imageWidth=10**9)
    _, notes, [image] = read(tmp_path)
    [one] = image.objects()
    assert "more than the maximum" in str(one.error)


def test_a_damaged_file_is_an_error_of_its_photo(tmp_path):
    for name in ("1.jpg", "2.jpg"):
        photo(tmp_path, name)
    label(tmp_path, "images/1.json")
    text = (tmp_path / "images/1.json").read_text()
    write(tmp_path, "images/2.json", text[:-20])
    write(tmp_path, "classes.json", '["mug"]')
    write(tmp_path, "._1.json", "\0\0")
    write(tmp_path, "__MACOSX/images/1.json", text)
    paths, notes, images = read(tmp_path)
    assert paths == {"train": ["images/1.jpg", "images/2.jpg"]} and images[0].objects()
    with pytest.raises(ValueError, match="2.json cannot be read as JSON"):
        images[1].objects()
    assert [case.where for case in notes.cases[OTHER_FILES]] == [f"{tmp_path}/classes.json"]
    assert NO_FILE not in notes.cases


@pytest.mark.parametrize(
    "text",
    [
        '{"text": ["the mug"], "is_sentence": false, "shapes": [{"label": "target", "points": [[0, 0]]}]}',
        '{"images": [], "annotations": [], "categories": []}',
        "[]",
        '[{"imagePath": 1}]',
        "",
        "\0",
        '{"a": 1}',
    ],
)
def test_other_json_files_are_not_recognized(tmp_path, text):
    photo(tmp_path, "1.jpg")
    write(tmp_path, "images/1.json", text)
    assert not FORMAT.recognizes(tmp_path) and not FORMAT.recognizes(tmp_path / "missing")
    with pytest.raises(ValueError, match="contains no JSON file of LabelMe"):
        FORMAT.read(tmp_path, Notes())


def test_names_are_compared_in_one_unicode_form(tmp_path):
    photo(tmp_path, "ku\u0308che.jpg")
    label(tmp_path, "labels/k\u00fcche.json", "C:\\k\u00fcche.jpg")
    assert read(tmp_path)[0] == {"train": ["images/ku\u0308che.jpg"]}
