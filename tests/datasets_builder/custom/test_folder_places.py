"""The folders of photos, masks and labels are found under their usual names."""

import pytest
from own_folder import labelme, mask, numbers, photo, write

from gemma_lisa.datasets_builder.custom.folder_files import pair_up
from gemma_lisa.datasets_builder.custom.folder_places import find_place, place_remarks


def test_other_names_are_used_with_a_remark(tmp_path):
    photo(tmp_path, "image/1.jpg")
    mask(tmp_path, "mask/1_cat.png", numbers())
    labelme(tmp_path, "label/2.json", [])
    assert place_remarks({"train": tmp_path}) == [
        f"{tmp_path}/{name}: used as {name}s/, which does not exist" for name in ("image", "mask", "label")
    ]


def test_folders_with_singular_names_are_ignored_if_the_plural_exists(tmp_path):
    photo(tmp_path, "1.jpg")
    photo(tmp_path, "image/2.jpg")
    assert find_place(tmp_path, "images") == tmp_path / "images"
    assert list(pair_up(tmp_path, asked=set()).photos) == ["1"]
    assert place_remarks({"train": tmp_path}) == [f"{tmp_path}/image: ignored because images/ exists"]


@pytest.mark.parametrize("name", ["Masks", "labels", "annotations", "gt", "GroundTruth", "segmentations", "labelsTr"])
def test_masks_can_be_in_a_folder_with_another_usual_name(tmp_path, name):
    photo(tmp_path, "1.jpg")
    mask(tmp_path, f"{name}/1.png", numbers())
    assert find_place(tmp_path, "masks") == tmp_path / name
    assert place_remarks({"train": tmp_path}) == [f"{tmp_path}/{name}: used as masks/, which does not exist"]
    found = pair_up(tmp_path, asked=set())
    assert found.photos["1"].masks == [(None, tmp_path / name / "1.png")]
    assert found.errors == found.others == found.unused == []


def test_a_folder_without_images_of_the_photos_is_no_folder_of_masks(tmp_path):
    photo(tmp_path, "train/1.jpg")
    photo(tmp_path, "images/train/1.jpg")
    write(tmp_path, "labels/1.txt", "0 0.1 0.1 0.2 0.2")
    mask(tmp_path, "annotations/panoptic_train/1.png", numbers())
    assert find_place(tmp_path, "masks") == tmp_path / "masks"
    mask(tmp_path, "annotations/train/1.png", numbers())
    assert find_place(tmp_path, "masks") == tmp_path / "annotations"


def test_labels_can_contain_masks_and_labelme_files(tmp_path):
    for name in ("1.jpg", "2.jpg"):
        photo(tmp_path, name)
    mask(tmp_path, "labels/1.png", numbers())
    labelme(tmp_path, "labels/2.json", [])
    write(tmp_path, "labels/notes.txt", "x")
    found = pair_up(tmp_path, asked=set())
    assert found.photos["1"].masks == [(None, tmp_path / "labels/1.png")] and found.errors == []
    assert found.photos["2"].labels == tmp_path / "labels/2.json"
    assert found.others == [tmp_path / "labels/notes.txt"]


def test_images_in_labels_are_counted_as_unused_if_masks_exists(tmp_path):
    photo(tmp_path, "1.jpg")
    mask(tmp_path, "masks/1.png", numbers())
    mask(tmp_path, "labels/1.png", numbers())
    found = pair_up(tmp_path, asked=set())
    assert found.unused == [tmp_path / "labels/1.png"] and found.others == []


def test_folders_in_images_with_the_name_of_a_split_are_named(tmp_path):
    for name in ("images/train/1.jpg", "images/val/2.jpg", "images/kitchen/3.jpg"):
        photo(tmp_path, name)
    [remark] = place_remarks({"train": tmp_path})
    assert remark.startswith(f"{tmp_path}/images/val: its photos are in train; ") and "val/images/" in remark
