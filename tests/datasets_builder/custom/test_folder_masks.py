"""The areas marked in a photo of a user's own folder, by class name."""

import numpy as np
import pytest
from own_folder import mask, numbers, photo
from PIL import Image, ImageFilter

from gemma_lisa.datasets_builder.custom.folder_files import pair_up
from gemma_lisa.datasets_builder.custom.folder_masks import (
    FILLS_BORDER,
    NAMED_BACKGROUND,
    UNUSED_TEXT,
    Area,
    MaskReader,
    pick,
)
from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.soft_masks import SOFT
from gemma_lisa.datasets_builder.rows import decode_mask, encode_mask

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # raised inside pycocotools

BOX = [[0, 0], [4, 0], [4, 2], [0, 2]]


def the_photo(root, stem="1"):
    return pair_up(root, set()).photos[stem]


def pixels(areas):
    """Return (pixels of the mask, ignored pixels) by class name; None for no mask."""
    return {
        name: tuple(None if rle is None else int(decode_mask(rle, "").sum()) for rle in area)
        for name, area in areas.items()
    }


def test_numbers_with_the_same_class_name_are_one_area(tmp_path):
    photo(tmp_path, "1.jpg")
    mask(tmp_path, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3), n3=slice(3, 4), n255=slice(5, 6)))
    reader = MaskReader({1: "cat", 2: "dog", 3: "cat"}, 255)
    assert pixels(reader.areas(the_photo(tmp_path))) == {"cat": (16, 8), "dog": (16, 8)}
    with pytest.raises(
        ValueError, match="1.png: contains the number 3, which is not a class; the classes are: 1 cat, 2 dog"
    ):
        MaskReader({1: "cat", 2: "dog"}, 255).areas(the_photo(tmp_path))


def test_a_mask_of_one_object_is_all_nonzero_pixels(tmp_path):
    photo(tmp_path, "1.jpg")
    mask(tmp_path, "1_cat.png", numbers(n7=slice(0, 1), n9=slice(1, 2)))
    mask(tmp_path, "1_dog.png", numbers(n1=slice(0, 1), n255=slice(1, 2)))
    mask(tmp_path, "1_bird.png", numbers(n255=slice(2, 5)))
    mask(tmp_path, "1_cow.png", numbers())
    found = MaskReader({}, 255).areas(the_photo(tmp_path))
    assert pixels(found) == {"bird": (24, None), "cat": (16, None), "cow": (None, None), "dog": (8, 8)}


def test_255_cannot_be_the_object_in_one_mask_and_ignored_in_another(tmp_path):
    for stem, labels in (("1", numbers(n1=slice(0, 1))), ("2", numbers(n255=slice(0, 1)))):
        photo(tmp_path, f"{stem}.jpg")
        mask(tmp_path, f"{stem}.png", labels)
    reader, nothing_ignored = MaskReader({}, 255), MaskReader({}, 0)
    for stem in ("1", "2"):
        for each in (reader, nothing_ignored):
            each.areas(the_photo(tmp_path, stem))
            each.check_agreement() if stem == "1" else None
    nothing_ignored.check_agreement()
    with pytest.raises(ValueError, match="2.png: marks the object with 255, but .*1.png marks it with another number"):
        reader.check_agreement()


def test_one_class_of_a_label_map_or_the_whole_unnamed_mask_is_selected(tmp_path):
    photo(tmp_path, "1.jpg")
    mask(tmp_path, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3)))
    path, shown = tmp_path / "masks/1.png", the_photo(tmp_path)
    named = MaskReader({1: "cat", 2: "dog"}, 255)
    assert pixels({"": named.of_class(path, shown, "DOG", "line 2")}) == {"": (16, None)}
    assert pixels({"": MaskReader({}, 255).of_class(path, shown, "dog", "line 2")}) == {"": (24, None)}
    with pytest.raises(ValueError, match="line 2: 1.png: 'cow' is not marked in it, only cat, dog; leave class empty"):
        named.of_class(path, shown, "cow", "line 2")


def test_a_class_is_picked_by_name_ignoring_case_and_underscores():
    rle = encode_mask(np.ones((2, 2)))
    areas = {"coffee cup": Area(rle, None), "dog": Area(None, None), None: Area(rle, None)}
    assert pick(areas, "Coffee_Cup", "here", "do that").mask == rle
    with pytest.raises(ValueError, match="here: 'dog' is not marked in it, only coffee cup; do that."):
        pick(areas, "dog", "here", "do that")
    with pytest.raises(ValueError, match="only no named class"):
        pick({None: Area(rle, None)}, "dog", "here", "do that")


def test_a_photo_without_a_mask_is_refused(tmp_path):
    photo(tmp_path, "1.jpg")
    with pytest.raises(ValueError, match="1.jpg: the photo has no mask; add masks/1.png"):
        MaskReader({}, 255).areas(the_photo(tmp_path))


def test_a_jpeg_of_classes_is_refused_with_any_name_and_a_black_and_white_one_is_read(tmp_path):
    photo(tmp_path, "1.jpg", (64, 48))
    values = np.zeros((48, 64), dtype=np.uint8)
    values[10:30, 20:50] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(values).save(tmp_path / "masks/1.png", "JPEG")
    notes = Notes()
    found = MaskReader({}, 255, "the mug", notes).areas(the_photo(tmp_path))
    assert np.array_equal(decode_mask(found[None].mask, ""), values > 0) and [*notes.cases] == [SOFT]
    for names in ({1: "mug"}, {1: "mug", 2: "plate"}):
        with pytest.raises(ValueError, match="1.png: its content is JPEG or another lossy format"):
            MaskReader(names, 255).areas(the_photo(tmp_path))


def test_a_mask_that_fills_the_border_is_counted(tmp_path):
    inverted = np.ones((6, 8), dtype=np.uint8)
    inverted[1:5, 2:5] = 0
    for stem, values in (("1", inverted), ("2", 1 - inverted), ("3", inverted)):
        photo(tmp_path, f"{stem}.jpg")
        mask(tmp_path, f"{stem}.png", values)
    notes = Notes()
    reader = MaskReader({}, 255, "the mug", notes)
    for stem in "123":
        reader.areas(the_photo(tmp_path, stem))
    assert {kind: [case.photo.stem for case in cases] for kind, cases in notes.cases.items()} == {
        FILLS_BORDER: ["1", "3"]
    }


def test_a_mask_without_background_is_refused(tmp_path):
    photo(tmp_path, "1.jpg")
    for values in (numbers(n1=slice(0, 3), n2=slice(3, 5), n3=slice(5, 6)), numbers(n255=slice(0, 6))):
        mask(tmp_path, "1.png", values)
        with pytest.raises(ValueError, match=r"1.png: no pixel is 0 \(the background\)"):
            MaskReader({}, 255).areas(the_photo(tmp_path))


def test_a_listed_background_is_not_asked_for_and_a_border_can_be_ignored(tmp_path):
    photo(tmp_path, "1.jpg")
    mask(tmp_path, "1.png", numbers(n1=slice(0, 2), n2=slice(2, 5), n3=slice(5, 6)))
    notes = Notes()
    reader = MaskReader({1: "mug", 2: "background"}, 3, None, notes)
    assert pixels(reader.areas(the_photo(tmp_path))) == {"mug": (16, 8)} and [*notes.cases] == [NAMED_BACKGROUND]


def test_0_can_be_a_class(tmp_path):
    photo(tmp_path, "1.jpg")
    mask(tmp_path, "1.png", numbers(n1=slice(0, 2)))
    assert pixels(MaskReader({0: "wall", 1: "mug"}, 255).areas(the_photo(tmp_path))) == {
        "wall": (32, None),
        "mug": (16, None),
    }


def test_the_numbers_of_listed_classes_can_be_white(tmp_path):
    photo(tmp_path, "1.jpg")
    mask(tmp_path, "1.png", numbers(n128=slice(0, 1), n255=slice(1, 3)))
    with pytest.raises(ValueError, match="has 2 numbers besides 0 .*`128: mug`"):
        MaskReader({}, 255).areas(the_photo(tmp_path))
    reader = MaskReader({128: "mug", 255: "mug"}, 255)
    assert pixels(reader.areas(the_photo(tmp_path))) == {"mug": (24, None)}


def test_soft_edges_of_a_single_listed_class_are_read_as_one_object(tmp_path):
    photo(tmp_path, "1.jpg", (64, 48))
    picture = Image.new("L", (64, 48))
    picture.paste(255, (20, 10, 50, 30))
    picture = picture.filter(ImageFilter.GaussianBlur(1))
    (tmp_path / "masks").mkdir()
    picture.save(tmp_path / "masks/1.png")
    found = MaskReader({1: "mug"}, 255).areas(the_photo(tmp_path))
    assert np.array_equal(decode_mask(found["mug"].mask, ""), np.asarray(picture) >= 127.5)
    with pytest.raises(ValueError, match="1.png: contains the number .*, which is not a class"):
        MaskReader({1: "mug", 2: "plate"}, 255).areas(the_photo(tmp_path))


def test_black_and_white_masks_of_several_kinds_agree(tmp_path):
    values = numbers(n255=slice(0, 2))
    for stem, picture in (
        ("1", Image.fromarray(values)),
        ("2", Image.fromarray(values).convert("1")),
        ("3", Image.fromarray(values.astype(np.uint16) * 257)),
        ("4", Image.fromarray(values).convert("RGB")),
    ):
        photo(tmp_path, f"{stem}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        picture.save(tmp_path / f"masks/{stem}.png")
    reader = MaskReader({}, 255)
    for stem in "1234":
        assert pixels(reader.areas(the_photo(tmp_path, stem))) == {None: (16, None)}
    reader.check_agreement()


def test_classes_that_are_asked_for_instead_of_the_option_text_are_counted(tmp_path):
    photo(tmp_path, "1.jpg")
    mask(tmp_path, "1.png", numbers(n1=slice(0, 1)))
    notes = Notes()
    MaskReader({1: "cat"}, 255, "the mug", notes).areas(the_photo(tmp_path))
    assert [*notes.cases] == [UNUSED_TEXT]


def test_interpolated_class_numbers_are_an_error_of_the_photo(tmp_path):
    photo(tmp_path, "1.jpg", size=(64, 48))
    labels = np.zeros((24, 32), dtype=np.uint8)
    labels[4:20, 6:26] = 6
    mask(tmp_path, "1.png", np.asarray(Image.fromarray(labels).resize((64, 48), Image.Resampling.BICUBIC)))
    reader = MaskReader({number: f"class {number}" for number in range(1, 9)}, 255)
    with pytest.raises(ValueError, match="masks/1.png: .* was resized with smooth edges"):
        reader.areas(the_photo(tmp_path))
