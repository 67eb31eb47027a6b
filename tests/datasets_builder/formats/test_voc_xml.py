"""XML files of Pascal VOC and of the LabelMe web tool give polygons; files with only boxes are refused."""

import math
from pathlib import Path

import numpy as np
import pytest
from annotated_files import box, masks_by_name, names, read, refusal
from own_folder import photo, write
from PIL import Image, ImageDraw

from gemma_lisa.datasets_builder.formats import voc_xml
from gemma_lisa.datasets_builder.formats.annotated import AS_SIZE, Notes
from gemma_lisa.datasets_builder.formats.voc import FORMAT

EXPORT = Path(__file__).parents[2] / "exports"


def annotation(*objects, name="1.jpg"):
    size = "<size><width>8</width><height>6</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{size}{''.join(objects)}</annotation>"


def thing(name, left, top, right, bottom, polygon=True):
    """Return an object with the pixels left..right - 1 and top..bottom - 1; numbers in the file start at 1."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    points = "".join(f"<x{at}>{x + 1}</x{at}><y{at}>{y + 1}</y{at}>" for at, (x, y) in enumerate(corners, start=1))
    bounds = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    outline = f"<polygon>{points}</polygon>" if polygon else ""
    return f"<object><name>{name}</name><bndbox>{bounds}</bndbox>{outline}</object>"


def test_polygons_and_boxes_start_at_1(tmp_path):
    photo(tmp_path, "JPEGImages/1.jpg")
    text = annotation(thing("mug", 1, 2, 5, 4), thing("plate", 0, 0, 2, 2, polygon=False))
    write(tmp_path, "Annotations/1.xml", text)
    (image,) = read(FORMAT, tmp_path)[0]["train"]
    mug, plate = image.objects()
    image.objects = lambda: [mug]
    assert np.array_equal(masks_by_name(image, (6, 8))["mug"][0], box(1, 2, 5, 4))
    assert mug.box == (1, 2, 4, 2) and plate.segmentation is None and plate.box == (0, 0, 2, 2)
    assert image.size == (6, 8) and image.frame == AS_SIZE


def test_roboflow_puts_photos_and_files_into_a_folder_for_each_split(tmp_path):
    for split in ("train", "valid"):
        photo(tmp_path, f"{split}/1.jpg")
        write(tmp_path, f"{split}/1.xml", annotation(thing("mug", 1, 2, 5, 4)))
    splits, notes = read(FORMAT, tmp_path)
    assert {split: image.path for split, (image,) in splits.items()} == {
        "train": tmp_path / "train/1.jpg",
        "validation": tmp_path / "valid/1.jpg",
    }
    assert notes == {}


def test_lists_define_the_splits(tmp_path):
    for number in ("1", "2", "3"):
        photo(tmp_path, f"JPEGImages/{number}.jpg")
        write(tmp_path, f"Annotations/{number}.xml", annotation(thing("mug", 1, 2, 5, 4), name=f"{number}.jpg"))
    write(tmp_path, "ImageSets/Main/val.txt", "2\n")
    write(tmp_path, "Annotations/9.xml", annotation(name="9.jpg"))
    splits, notes = read(FORMAT, tmp_path)
    assert names(splits) == {"train": ["1.jpg", "3.jpg"], "validation": ["2.jpg"]}
    assert notes == {voc_xml.WITHOUT_PHOTO: 1}


def test_an_export_of_supervision_gives_its_masks():
    splits, notes = read(FORMAT, EXPORT / "supervision_voc")
    assert names(splits) == {"train": ["1.jpg", "2.jpg", "3.jpg"]} and notes == {}
    for image in splits["train"]:
        found = {}
        for annotated in image.objects():
            # supervision writes the numbers of the outermost pixels, so its outlines belong to the object
            canvas = Image.new("1", (96, 72))
            points = np.reshape(annotated.segmentation[0], (-1, 2)).astype(int).tolist()
            ImageDraw.Draw(canvas).polygon([tuple(point) for point in points], fill=1, outline=1)
            found[annotated.name] = found.get(annotated.name, False) | np.asarray(canvas)
        masks = (EXPORT / "supervision_masks").glob(f"{image.path.stem}_*.png")
        expected = {path.stem.split("_", 2)[2]: np.asarray(Image.open(path)) for path in masks}
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[kind], expected[kind]) for kind in expected)


def test_the_labelme_web_tool_starts_at_0(tmp_path):
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in [(1, 2), (5, 2), (5, 4), (1, 4)])
    polygon = f"<polygon><username>me</username>{points}</polygon>"
    kept = f"<object><name>mug</name><deleted>0</deleted>{polygon}</object>"
    drawn = f"<object><name>mug</name><type>bounding_box</type>{polygon}</object>"
    size = "<imagesize><nrows>6</nrows><ncols>8</ncols></imagesize>"
    text = f"<annotation><filename>1.jpg</filename>{kept}{kept.replace('>0<', '>1<', 1)}{drawn}{size}</annotation>"
    photo(tmp_path, "1.jpg")
    write(tmp_path, "1.xml", text)
    splits, notes = read(FORMAT, tmp_path)
    (image,) = splits["train"]
    mug, only_box = image.objects()
    assert mug.segmentation == [[1, 2, 5, 2, 5, 4, 1, 4]] and image.size == (6, 8)
    assert only_box.segmentation is None and only_box.box == (1, 2, 4, 2)
    assert notes == {voc_xml.DELETED: 1}


def test_boxes_are_refused_with_advice(tmp_path):
    photo(tmp_path, "JPEGImages/1.jpg")
    write(tmp_path, "Annotations/1.xml", annotation(thing("mug", 1, 2, 5, 4, polygon=False)))
    assert FORMAT.recognizes(tmp_path)
    assert "contains boxes only, in 1 XML file of Pascal VOC" in refusal(FORMAT, tmp_path)
    (tmp_path / "masks").mkdir()
    assert not FORMAT.recognizes(tmp_path)


def test_a_bad_file_is_an_error_of_its_photo(tmp_path):
    texts = {
        "1": annotation(thing("mug", 1, 2, 5, 4)),
        "2": "<annotation><object>",
        "3": f'<!DOCTYPE x [<!ENTITY a "b">]>{annotation()}',
        "4": annotation(thing("", 1, 2, 5, 4)),
        "5": annotation(thing("mug", 1, 2, 5, 4).replace("<x1>2<", "<x1>?<").replace("<xmin>2<", "<xmin>?<")),
    }
    for name, text in texts.items():
        photo(tmp_path, f"JPEGImages/{name}.jpg")
        write(tmp_path, f"Annotations/{name}.xml", text.replace("1.jpg", f"{name}.jpg"))
    good, cut, entity, nameless, no_number = FORMAT.read(tmp_path, Notes())["train"]
    assert len(good.objects()) == 1
    for image, message in (
        (cut, "2.xml cannot be read as XML"),
        (entity, "3.xml: XML with"),
        (nameless, "1 has no name"),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            image.objects()
        assert "\n" not in str(refused.value)
    (annotated,) = no_number.objects()
    assert math.isnan(annotated.segmentation[0][0]) and annotated.box is None


@pytest.mark.parametrize("text", ["<annotations><image/></annotations>", "<annotation/>", "<svg/>"])
def test_other_xml_files_are_not_recognized(tmp_path, text):
    write(tmp_path, "Annotations/1.xml", text)
    assert not FORMAT.recognizes(tmp_path)


def test_missing_photos_are_refused_with_advice(tmp_path):
    write(tmp_path, "Annotations/1.xml", annotation(thing("mug", 1, 2, 5, 4)))
    assert "no photo of theirs; put the photos into JPEGImages/" in refusal(FORMAT, tmp_path)
