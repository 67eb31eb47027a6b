"""The areas marked in a photo of a user's own folder, by class name."""

import numpy as np
import pytest
from own_folder import mask, numbers, photo

from gemma_lisa.datasets_builder.custom.folder_files import pair_up
from gemma_lisa.datasets_builder.custom.folder_masks import Area, MaskReader, pick
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


def test_a_photo_without_a_mask_and_a_jpeg_mask_are_refused(tmp_path):
    photo(tmp_path, "1.jpg")
    with pytest.raises(ValueError, match="1.jpg: the photo has no mask; add masks/1.png"):
        MaskReader({}, 255).areas(the_photo(tmp_path))
    mask(tmp_path, "1.jpeg", numbers())
    with pytest.raises(ValueError, match="1.jpeg: JPEG compression changes the numbers of a mask"):
        MaskReader({}, 255).areas(the_photo(tmp_path))
