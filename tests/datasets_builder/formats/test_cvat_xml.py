"""CVAT's XML files become photos with objects, or an error names the reason."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.formats.annotated import AS_SIZE, Notes
from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs
from gemma_lisa.datasets_builder.formats.cvat_xml import FORMAT, NO_SPLIT
from gemma_lisa.datasets_builder.rows import decode_mask

EXPORT = Path(__file__).parents[2] / "exports" / "cvat"
META = "<meta><task><name>x</name><labels><label><name>mug</name></label></labels>{}</task></meta>"
POLYGON = '<polygon label="mug" occluded="0" points="1.00,1.00;7.50,1.00;7.50,5.00" z_order="0"></polygon>'
UNSUPPORTED = ("polyline", "points", "cuboid", "skeleton", "tag")


def write(root, name="annotations.xml", *images, meta=""):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    content = f"<annotations><version>1.1</version>{META.format(meta)}{''.join(images)}</annotations>"
    (root / name).write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{content}\n', encoding="utf-8")


def image(*shapes, name="1.jpg", size=(8, 6), number=0, more=""):
    return f'<image id="{number}" name="{name}" width="{size[0]}" height="{size[1]}" {more}>{"".join(shapes)}</image>'


def photo(root, name="images/1.jpg", size=(8, 6)):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(root / name)


def mask(rle, left=0, top=0, width=8, height=6, label="mug"):
    box = f'left="{left}" top="{top}" width="{width}" height="{height}"'
    return f'<mask label="{label}" source="manual" occluded="0" rle="{rle}" {box} z_order="0"></mask>'


def read(root, notes=None):
    assert FORMAT.recognizes(root)
    return FORMAT.read(root, notes or Notes())


def objects(root, notes=None):
    [(_, [found])] = read(root, notes).items()
    return found.objects()


def pixels(one, size=(6, 8)):
    assert one.error is None, one.error
    return decode_mask(segmentation_runs(one.segmentation, size, ""), "")


def test_an_export_of_datumaro_has_its_masks():
    notes, drawn = Notes(), np.load(EXPORT / "masks.npz")
    splits = read(EXPORT, notes)
    assert {split: [one.name for one in images] for split, images in splits.items()} == {
        "train": ["a/mug 1.jpg"],
        "validation": ["2.jpg"],
    }
    for images in splits.values():
        [one] = images
        assert one.path == EXPORT / "images" / one.name and one.path.is_file()
        assert one.size == (30, 40) and one.frame == AS_SIZE and not one.normalized
        found = one.objects()
        assert [(part.name, bool(part.segmentation)) for part in found] == [
            ("corner", True),  # by z_order
            ("plate", True),
            ("mug", False),
            ("mug", False),
            ("mug", True),
        ]
        for part in (found[0], found[1], found[4]):
            assert np.array_equal(pixels(part, (30, 40)), drawn[part.name])
        assert [part.box for part in found[2:4]] == [(1, 2, 10, 12), (17, 10, 6, 10)]
        assert found[4].fields == {"color": "red"}
    assert {kind: len(cases) for kind, cases in notes.cases.items()} == {
        f"skipped shapes of type {kind}, which is not supported": 2 for kind in ("polyline", "points", "tag")
    }


def test_a_mask_is_pasted_at_its_place(tmp_path):
    photo(tmp_path)
    write(tmp_path, "annotations.xml", image(mask("1, 2, 1, 3, 2", 2, 1, 3, 3), mask("0,4", 6, 4, 2, 2)))
    ring, corner = objects(tmp_path)
    expected = np.zeros((6, 8), dtype=np.uint8)
    expected[1:4, 2:5] = [[0, 1, 1], [0, 1, 1], [1, 0, 0]]
    assert np.array_equal(pixels(ring), expected)
    assert np.argwhere(pixels(corner)).tolist() == [[4, 6], [4, 7], [5, 6], [5, 7]]


def test_a_mask_can_exceed_the_border_by_a_pixel(tmp_path):
    photo(tmp_path)
    write(tmp_path, "annotations.xml", image(mask("0,9", -1, -1, 3, 3), mask("0,9", 6, 4, 3, 3)))
    first, last = objects(tmp_path)
    assert np.argwhere(pixels(first)).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert np.argwhere(pixels(last)).tolist() == [[4, 6], [4, 7], [5, 6], [5, 7]]


def test_an_ellipse_is_a_polygon(tmp_path):
    photo(tmp_path, size=(100, 60))
    round_one = '<ellipse label="mug" cx="50" cy="30" rx="20" ry="10" rotation="90"></ellipse>'
    beyond = '<ellipse label="mug" cx="0" cy="60" rx="20" ry="20"></ellipse>'
    write(tmp_path, "annotations.xml", image(round_one, beyond, size=(100, 60)))
    rotated, corner = (pixels(one, (60, 100)) for one in objects(tmp_path))
    assert abs(rotated.sum() - np.pi * 200) < 20 and rotated[11:49, 50].all() and not rotated[30, :39].any()
    assert abs(corner.sum() - np.pi * 100) < 20 and corner[59, 0]


def test_attributes_are_fields_and_the_background_is_kept(tmp_path):
    photo(tmp_path)
    named = POLYGON.replace("></", '><attribute name="color">light\n red</attribute><attribute name="x"/></')
    write(tmp_path, "annotations.xml", image(named, POLYGON.replace("mug", "background")))
    mug, background = objects(tmp_path)
    assert mug.fields == {"color": "light\n red", "x": ""} and background.name == "background"
    assert mug.where.endswith("annotations.xml: image 0 (1.jpg): shape 1 (polygon mug)")


def test_shapes_without_an_area_are_counted(tmp_path):
    photo(tmp_path)
    shapes = [f'<{kind} label="a" points="1,1;2,2"></{kind}>' for kind in UNSUPPORTED]
    shapes[3] = '<skeleton label="a"><points label="b" points="1,1"></points></skeleton>'
    write(tmp_path, "annotations.xml", image(*shapes, POLYGON))
    notes = Notes()
    [one] = objects(tmp_path, notes)
    assert one.where.endswith("shape 6 (polygon mug)")
    kinds = [f"skipped shapes of type {kind}, which is not supported" for kind in UNSUPPORTED]
    assert list(notes.cases) == kinds and all(len(cases) == 1 for cases in notes.cases.values())


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (POLYGON.replace('label="mug"', ""), "it has no label"),
        (POLYGON.replace("1.00,1.00;", "1.00;"), "its points must be pairs x,y;x,y;..."),
        (POLYGON.replace("7.50,5.00", "7.50,a"), "its points must be pairs x,y;x,y;..."),
        (mask("1,2"), "its rle covers 3 pixels, but its box of 8 x 6 has 48"),
        (mask("50,-2"), "its rle covers 48 pixels"),
        (mask("9" * 30), "its rle must be a list of numbers"),
        (mask("a"), "its rle must be a list of numbers"),
        (mask(""), "its rle must be a list of numbers"),
        (mask("9", width=3, height=3, left=8), "its box extends 3 pixels beyond the photo of 8 x 6 pixels"),
        (mask("9", width=0), "its box is 0 x 6"),
        (mask("9", width="nan"), "a coordinate must be a number of pixels"),
        (mask("9", width="1e99"), "a coordinate must be a number of pixels"),
        ('<box label="mug" xtl="1" ytl="2" xbr="3"></box>', "its attributes must be numbers, got xtl='1'"),
        ('<box label="mug" xtl="1" ytl="2" xbr="3" ybr="inf"></box>', "a coordinate must be a number of pixels"),
        ('<ellipse label="mug" cx="1" cy="2" rx="0" ry="1"></ellipse>', "the radii of an ellipse must be positive"),
        ('<ellipse label="mug" cx="1" cy="2" rx="1" ry="1" rotation="nan"></ellipse>', "a coordinate must be a number"),
    ],
)
def test_a_bad_shape_is_an_error_of_one_object(tmp_path, shape, reason):
    photo(tmp_path)
    write(tmp_path, "annotations.xml", image(shape, POLYGON))
    bad, good = objects(tmp_path)
    message = str(bad.error)
    assert reason in message and message.startswith(bad.where) and "\n" not in message
    assert bad.segmentation is None and pixels(good).any()


def test_a_mask_larger_than_the_limit_is_not_allocated(tmp_path):
    photo(tmp_path)
    write(tmp_path, "annotations.xml", image(mask("0,2", width=2, height=1), size=(10**9, 10**9)))
    [one] = objects(tmp_path)
    assert "must have 1 to 100,000,000 pixels" in str(one.error)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (image(POLYGON, name="2.jpg"), "the photo '2.jpg' is not in"),
        (image(POLYGON, name=""), "the file name of the photo is missing"),
        (image(POLYGON, size=(0, 6)), "width and height must be numbers of pixels, got '0' and '6'"),
        (image(POLYGON, size=("9" * 40, 6)), "width and height must be numbers of pixels"),
        (image(POLYGON, size=("", 6)), "width and height must be numbers of pixels"),
    ],
)
def test_a_bad_record_is_an_error_of_its_photo(tmp_path, record, reason):
    photo(tmp_path)
    write(tmp_path, "annotations.xml", record)
    with pytest.raises(ValueError, match=f"annotations.xml: image 0 .*{reason}"):
        objects(tmp_path)


def test_a_photo_without_size_and_an_empty_one_are_read(tmp_path):
    photo(tmp_path)
    record = image(mask("0,48")).replace('width="8" height="6" >', ">")
    write(tmp_path, "annotations.xml", record, '<image id="1" name="1.jpg" width="8" height="6"/>')
    first, empty = read(tmp_path)["train"]
    assert first.size is None and pixels(first.objects()[0]).all() and empty.objects() == []


def test_subsets_and_names_of_files_are_splits(tmp_path):
    records = [image(name="a.jpg", more='subset="Train"'), image(name="b.jpg", more='subset="valid"')]
    records += [image(name="c.jpg", more='subset="default"'), image(name="d.jpg", more='subset="batch 7"')]
    for name in ("images/Train/a.jpg", "images/valid/b.jpg", "images/default/c.jpg", "images/batch 7/d.jpg"):
        photo(tmp_path, name)
    write(tmp_path, "annotations.xml", *records)
    notes = Notes()
    found = {split: [one.path.name for one in images] for split, images in read(tmp_path, notes).items()}
    assert found == {"train": ["a.jpg", "c.jpg", "d.jpg"], "validation": ["b.jpg"]}
    assert [case.photo.name for case in notes.cases[NO_SPLIT]] == ["d.jpg"]


def test_the_photos_of_each_subset_are_in_its_folder(tmp_path):
    photo(tmp_path, "images/train/1.jpg")
    photo(tmp_path, "images/test/1.jpg")
    write(tmp_path, "annotations.xml", image(more='subset="train"'), image(more='subset="test"', number=1))
    found = {split: [str(one.path.relative_to(tmp_path)) for one in images] for split, images in read(tmp_path).items()}
    assert found == {"train": ["images/train/1.jpg"], "test": ["images/test/1.jpg"]}


def test_files_in_folders_and_subsets_of_tasks_are_read(tmp_path):
    for folder in ("val", "task_1"):
        photo(tmp_path, f"{folder}/images/1.jpg")
    photo(tmp_path, "task_2/1.jpg")
    write(tmp_path, "val/annotations.xml", image())
    write(tmp_path, "task_1/annotations.xml", image())
    write(tmp_path, "task_2/annotations.xml", image(), meta="<subset>Test</subset>")
    found = {split: [str(one.path.relative_to(tmp_path)) for one in images] for split, images in read(tmp_path).items()}
    assert found == {"train": ["task_1/images/1.jpg"], "validation": ["val/images/1.jpg"], "test": ["task_2/1.jpg"]}


def test_a_video_is_refused_with_advice(tmp_path):
    write(tmp_path, "annotations.xml", '<track id="0" label="mug"><box frame="0" xtl="1"></box></track>')
    with pytest.raises(ValueError, match='annotations.xml contains tracks .* in the format "CVAT for images 1.1"'):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<annotations></annotations>", "contains no <image>"),
        ('<annotations><image id="0">', "is not valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "has a document type"),
        ("<annotations>&b;</annotations>", "is not valid XML"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, reason):
    (tmp_path / "annotations.xml").write_text(content)
    with pytest.raises(ValueError, match=f"annotations.xml {reason}"):
        read(tmp_path)


def test_other_files_are_not_recognized(tmp_path):
    assert not FORMAT.recognizes(tmp_path) and not FORMAT.recognizes(tmp_path / "missing")
    (tmp_path / "1.xml").write_text("<annotation><filename>1.jpg</filename></annotation>")
    (tmp_path / "._annotations.xml").write_text("<annotations>")
    (tmp_path / "2.xml").write_bytes(b"\xff\xfe\0")
    assert not FORMAT.recognizes(tmp_path)
