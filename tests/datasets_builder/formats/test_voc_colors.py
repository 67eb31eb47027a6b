"""Pixels of Pascal VOC's masks are numbers or colors, and class lists give their names."""

import numpy as np
import pytest
from own_folder import mask, write
from PIL import Image

from gemma_lisa.datasets_builder.custom import folder_classes
from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.voc_colors import (
    STANDARD_NAMES,
    VOC_COLORS,
    VOID_COLOR,
    class_names_of,
    find_classes,
    read_raster,
)

LABEL_MAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nmug:51,221,255::\nsteel_plate:250,50,83:a,b:\n"
MUG, PLATE = 0x33DDFF, 0xFA3253


def test_the_palette_is_that_of_voc():
    # VOC2012: aeroplane, bicycle, tvmonitor, void
    places = [(1, 0x800000), (2, 0x008000), (20, 0x004080), (255, 0xE0E0C0)]
    assert [VOC_COLORS[number] for number, _ in places] == [color for _, color in places]
    assert len(set(VOC_COLORS)) == 256 and VOID_COLOR == 0xE0E0C0


def named(root, values, mode=None, palette=None, text=None, file="labelmap.txt"):
    """Return the names of the pixel values in a mask that is saved in a mode."""
    if text is not None:
        write(root, file, text)
    picture = Image.fromarray(values)
    if mode == "P":
        picture = picture.convert("P")
        picture.putpalette(palette if palette is not None else voc_palette())
    (root / "SegmentationClass").mkdir(exist_ok=True)
    picture.save(root / "SegmentationClass/1.png")
    notes = Notes()
    raster = read_raster(root / "SegmentationClass/1.png")
    names = class_names_of(raster, np.unique(raster.values).tolist(), find_classes([root]), notes)
    return names, list(notes.cases)


def voc_palette():
    return [part for color in VOC_COLORS for part in (color >> 16, color >> 8 & 255, color & 255)]


def rgb(*colors):
    return np.array([[(color >> 16, color >> 8 & 255, color & 255) for color in colors]], dtype=np.uint8)


@pytest.mark.parametrize("channels", [3, 4])
def test_colors_are_named_by_labelmap(tmp_path, channels):
    pixels = np.concatenate([rgb(0, MUG, PLATE, VOID_COLOR), np.full((1, 4, 1), 7, dtype=np.uint8)], axis=2)
    names, notes = named(tmp_path, pixels[..., :channels], text=LABEL_MAP)
    assert names == {0: None, MUG: "mug", PLATE: "steel_plate", VOID_COLOR: folder_classes.IGNORED} and notes == []


def test_numbers_are_the_order_in_labelmap(tmp_path):
    numbers = np.array([[0, 1, 2, 255]], dtype=np.uint8)
    expected = {0: None, 1: "mug", 2: "steel_plate", 255: folder_classes.IGNORED}
    assert named(tmp_path, numbers, text=LABEL_MAP)[0] == expected
    assert named(tmp_path, numbers, "P", text=LABEL_MAP)[0] == expected
    assert named(tmp_path, numbers, text=LABEL_MAP.replace("51,221,255", ""))[0] == expected


def test_colors_of_a_palette_come_before_its_numbers(tmp_path):
    palette = [250, 50, 83, 0, 0, 0, 51, 221, 255]
    numbers = np.array([[0, 1, 2]], dtype=np.uint8)
    assert named(tmp_path, numbers, "P", palette, LABEL_MAP)[0] == {0: "steel_plate", 1: None, 2: "mug"}


def test_grey_colors_of_labelmap(tmp_path):
    text = "background:0,0,0::\nmug:255,255,255::\n"
    assert named(tmp_path, np.array([[0, 255]], dtype=np.uint8), text=text)[0] == {0: None, 255: "mug"}


def test_a_class_can_have_the_color_of_the_background(tmp_path):
    text = "mug:0,0,0::\nbackground:51,221,255::\nvoid:250,50,83::\n"
    assert named(tmp_path, rgb(0, MUG, PLATE), text=text)[0] == {0: "mug", MUG: None, PLATE: folder_classes.IGNORED}


def test_classes_txt_names_numbers_and_colors_of_voc(tmp_path):
    text = "mug\nsteel_plate\n"
    expected = {0: None, 1: "mug", 2: "steel plate"}
    assert named(tmp_path, np.array([[0, 1, 2]], dtype=np.uint8), text=text, file="classes.txt")[0] == expected
    assert named(tmp_path, rgb(0, 0x800000, VOID_COLOR))[0] == {
        0: None,
        0x800000: "mug",
        VOID_COLOR: folder_classes.IGNORED,
    }


def test_without_a_list_the_colors_of_voc_have_its_names(tmp_path):
    names, notes = named(tmp_path, np.array([[0, 8, 20, 255]], dtype=np.uint8), "P")
    assert names == {0: None, 8: "cat", 20: "tvmonitor", 255: folder_classes.IGNORED} and notes == [STANDARD_NAMES]
    assert named(tmp_path, rgb(0x800000))[0] == {0x800000: "aeroplane"}
    assert named(tmp_path, np.array([[0, 255]], dtype=np.uint8), "P")[1] == []


@pytest.mark.parametrize(
    "values, mode, value",
    [
        (np.array([[0, 1]], dtype=np.uint8), None, "number 1"),  # no palette: own numbers
        (np.array([[0, 21]], dtype=np.uint8), "P", "number 21"),
        (rgb(0, MUG), None, "color 51,221,255"),
    ],
)
def test_without_a_list_other_values_are_refused_with_advice(tmp_path, values, mode, value):
    with pytest.raises(ValueError, match=f"1.png: there is no class list, and the {value} .* add labelmap.txt"):
        named(tmp_path, values, mode)


def test_unknown_values_are_named(tmp_path):
    with pytest.raises(ValueError, match="2 colors of its pixels, such as 0,0,1; 0,0,2, are not in labelmap.txt .mug"):
        named(tmp_path, rgb(1, 2, MUG), text=LABEL_MAP)
    with pytest.raises(ValueError, match="1 number of its pixels, such as 9, is not in"):
        named(tmp_path, np.array([[0, 9]], dtype=np.uint8))


@pytest.mark.parametrize(
    "text, message",
    [
        ("mug", "line 1: 'mug' is not"),
        ("mug:1,2,3::\ncat:1,2,3::", "line 2: line 1 has the same color 1,2,3"),
        ("mug:1,2,300::", "line 1: a color has numbers from 0 to 255"),
        ("mug:1,2::", "line 1"),
        (":1,2,3::", "line 1"),
        ("x" * 5000, "line 1"),
        ("# nothing", "no classes"),
    ],
)
def test_a_bad_labelmap_is_named(tmp_path, text, message):
    write(tmp_path, "labelmap.txt", text)
    with pytest.raises(ValueError, match=f"labelmap.txt.*{message}") as refused:
        find_classes([tmp_path])
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_a_name_can_contain_a_colon(tmp_path):
    write(tmp_path, "labelmap.txt", "a:b:1,2,3::\n")
    assert find_classes([tmp_path]).by_color == {0x010203: "a:b"}


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "LA"])
def test_greyscale_modes_give_numbers(tmp_path, mode):
    mask(tmp_path, "masks/1.png", np.array([[0, 255]], dtype=np.uint8), mode)
    assert read_raster(tmp_path / "masks/1.png").values[0, 1] in (1, 255)


def test_other_modes_are_refused_by_name(tmp_path):
    Image.new("CMYK", (2, 2)).save(tmp_path / "1.tif")
    with pytest.raises(ValueError, match="1.tif: a mask must have numbers or colors, got mode CMYK"):
        read_raster(tmp_path / "1.tif")
