"""COCO instances JSON as annotated images, and in the folder data set."""

import json

import pytest
from coco_photos import Photos, annotation, box, masks_of

from gemma_lisa.datasets_builder.formats.annotated import PERCENT, Notes, ReportedError
from gemma_lisa.datasets_builder.formats.coco_json import FORMAT
from gemma_lisa.datasets_builder.mixture import load_rows

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # raised inside pycocotools
]


@pytest.fixture
def photos(tmp_path):
    return Photos(tmp_path / "photos")


def read(photos):
    (photos.root / "result.json").write_text(json.dumps(photos.content))
    assert FORMAT.recognizes(photos.root)
    return FORMAT.read(photos.root, Notes())


def test_images_have_what_the_file_states(photos):
    photos.content["annotations"][0] |= {"bbox": [4, 16, 6, 4], "area": 24, "iscrowd": 1, "color": "red"}
    [image] = read(photos)["train"]
    assert image.path == photos.root / "images/1.png" and image.size == (24, 32) and image.frame == ""
    first, second, third = image.objects()
    assert first.crowd and first.box == [4, 16, 6, 4] and first.area == 24 and first.fields["color"] == "red"
    assert [one.name for one in (first, second, third)] == ["trash can", "trash can", "cat"]
    assert second.box is None and not second.crowd and "annotation 2" in second.where


def test_the_coordinates_of_label_studio_are_percent_of_the_upright_photo(photos):
    photos.content["info"] = {"contributor": "Label Studio"}
    assert read(photos)["train"][0].frame == PERCENT


def test_a_bad_record_is_an_error_of_its_own_and_its_object_is_marked(photos):
    photos.content["annotations"][0]["iscrowd"] = 7
    image, error = read(photos)["train"]
    assert isinstance(image.objects()[0].error, ReportedError) and image.objects()[1].error is None
    with pytest.raises(ValueError, match="annotation 1: iscrowd is 7"):
        error.objects()


def test_a_missing_photo_is_an_error_of_its_image(photos):
    photos.content["images"].append({"id": 2, "file_name": "gone.png", "height": 24, "width": 32})
    _, image = read(photos)["train"]
    assert not image.path.exists()
    with pytest.raises(ValueError, match="the photo 'gone.png' is not in"):
        image.objects()


def test_the_folder_data_set_reads_coco_files(photos, caplog):
    photos.content["annotations"].append(annotation(8, [box(0, 0, 300, 300)]))
    (photos.root / "result.json").write_text(json.dumps(photos.content))
    with pytest.raises(ValueError, match="annotation 8: a polygon extends from"):
        load_rows("folder", "train", str(photos.root))
    [row] = load_rows("folder", "train", str(photos.root), {"max_bad": 1})
    assert list(masks_of(row)) == ["the cat"] and row["source"] == "folder/train/images/1"
    assert "recognized as COCO instances JSON" in caplog.text
