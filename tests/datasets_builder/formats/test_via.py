"""VIA's JSON files become photos with objects, or an error names the reason."""

import json

import pytest
from PIL import Image

from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.via import FORMAT, SEVERAL_ATTRIBUTES
from gemma_lisa.datasets_builder.formats.via_regions import DESCRIPTIONS

TRIANGLE = {"name": "polygon", "all_points_x": [1, 7, 7], "all_points_y": [1, 1, 5]}


def photo(root, name="1.jpg", size=(8, 6)):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(root / name)


def region(shape=TRIANGLE, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def record(*regions, name="1.jpg", **more):
    return {"filename": name, "size": 12345, "regions": list(regions), "file_attributes": {}} | more


def project(*records, **attributes):
    settings = {"ui": {"annotation_editor_height": 25}, "core": {"buffer_size": 18}, "project": {"name": "x"}}
    metadata = {f"{one['filename']}{number}": one for number, one in enumerate(records)}
    definitions = {"region": attributes, "file": {}}
    return {"_via_settings": settings, "_via_img_metadata": metadata, "_via_attributes": definitions}


def write(root, content, name="via.json"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content), encoding="utf-8")


def read(root, notes=None):
    assert FORMAT.recognizes(root)
    return FORMAT.read(root, notes or Notes())


@pytest.mark.parametrize("kind", ["project", "annotations", "VIA 1"])
def test_projects_and_annotations_are_read(tmp_path, kind):
    photo(tmp_path, "images/1.jpg")
    photo(tmp_path, "images/2.jpg")
    records = [record(region(kind="mug"), region(kind="plate"), file_attributes={"x": "y"}), record(name="2.jpg")]
    if kind == "VIA 1":
        records = [one | {"regions": {str(at): two for at, two in enumerate(one["regions"])}} for one in records]
    content = project(*records)
    write(tmp_path, content if kind == "project" else content["_via_img_metadata"])
    first, second = read(tmp_path)["train"]
    assert [one.name for one in first.objects()] == ["mug", "plate"] and second.objects() == []
    assert first.objects()[0].segmentation == [[1, 1, 7, 1, 7, 5]]
    assert first.path == tmp_path / "images" / "1.jpg" and first.size is None and first.fields == {"x": "y"}
    assert first.objects()[1].where.endswith("via.json: photo 1 (1.jpg): region 2 (polygon plate)")


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ({"species": "mug"}, "mug"),
        ({"color": "red", "Label": "mug"}, "mug"),
        ({"color": "", "species": "mug"}, "mug"),
        ({"color": {}, "species": {"mug": True, "plate": False}}, "mug"),
        ({"number": 3}, "3"),
    ],
)
def test_the_class_is_the_only_attribute_or_that_with_a_known_name(tmp_path, attributes, found):
    photo(tmp_path)
    write(tmp_path, project(record(region(**attributes))))
    notes = Notes()
    [one] = read(tmp_path, notes)["train"][0].objects()
    assert one.name == found and (SEVERAL_ATTRIBUTES in notes.cases) == ("Label" in attributes)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"color": "red", "size": "big"}, "the regions have the attributes color, size; rename"),
        ({"name": "red", "type": "mug"}, "the regions have the attributes name, type; rename"),
        ({}, "no region has an attribute with its class"),
        ({"name": ""}, "no region has an attribute with its class"),
    ],
)
def test_an_unknown_class_is_refused(tmp_path, attributes, reason):
    photo(tmp_path)
    write(tmp_path, project(record(region(**attributes))))
    with pytest.raises(ValueError, match=f"via.json: {reason}"):
        read(tmp_path)


def test_options_are_named_by_their_descriptions(tmp_path):
    photo(tmp_path)
    options = {"type": "dropdown", "options": {"1": "mug", "plate": ""}}
    write(tmp_path, project(record(region(kind="1"), region(kind="plate"), region(kind="new")), kind=options))
    notes = Notes()
    [one] = read(tmp_path, notes)["train"]
    assert [part.name for part in one.objects()] == ["mug", "plate", "new"] and len(notes.cases[DESCRIPTIONS]) == 1


def test_names_of_files_and_folders_are_splits(tmp_path):
    for folder in ("train", "val"):
        photo(tmp_path, f"{folder}/1.jpg")
        write(tmp_path, project(record(region(kind="mug")))["_via_img_metadata"], f"{folder}/via_region_data.json")
    found = {split: [str(one.path.relative_to(tmp_path)) for one in images] for split, images in read(tmp_path).items()}
    assert found == {"train": ["train/1.jpg"], "validation": ["val/1.jpg"]}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(name="3.jpg"), "the photo '3.jpg' is not in"),
        (record(name=None), "the file name of the photo is missing"),
        (record(regions=3), "its regions must be a list, got 3"),
    ],
)
def test_a_bad_record_is_an_error_of_its_photo(tmp_path, bad, reason):
    photo(tmp_path)
    write(tmp_path, project(bad, record(region(kind="mug"))))
    first, second = read(tmp_path)["train"]
    with pytest.raises(ValueError, match=f"via.json: photo 1 .*: {reason}"):
        first.objects()
    assert len(second.objects()) == 1


def test_photos_without_regions_are_read(tmp_path):
    photo(tmp_path)
    write(tmp_path, project(record()))
    assert read(tmp_path)["train"][0].objects() == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"project": {"pid": "x", "vid_list": ["1"]}, "metadata": {}}, "is a project of VIA 3, which is not supported"),
        ({"_via_settings": {}, "_via_img_metadata": []}, "the photos must be objects"),
        ({"_via_settings": {}, "_via_img_metadata": {"a": 3}}, "the photos must be objects"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "contains no photo"),
        ({"_via_settings": {}}, "the photos must be objects|contains no photo"),
    ],
)
def test_another_content_is_refused_with_advice(tmp_path, content, reason):
    write(tmp_path, content)
    with pytest.raises(ValueError, match=f"via.json:? ({reason}).*VIA 2"):
        read(tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "via.json").write_text(json.dumps(project(record()))[:-5])
    with pytest.raises(ValueError, match="via.json cannot be read as JSON"):
        read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"images": [], "annotations": [], "categories": []},
        {"version": "5", "shapes": [], "imagePath": "1.jpg"},
        {"regions": [], "name": "1.jpg"},
        [{"filename": "1.jpg", "regions": []}],
        3,
    ],
)
def test_other_files_are_not_recognized(tmp_path, content):
    assert not FORMAT.recognizes(tmp_path) and not FORMAT.recognizes(tmp_path / "missing")
    write(tmp_path, content)
    assert not FORMAT.recognizes(tmp_path)
