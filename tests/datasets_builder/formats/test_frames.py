"""In which frame annotations of rotated photos are drawn."""

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.formats.annotated import (
    AS_SIZE,
    PERCENT,
    AnnotatedImage,
    AnnotatedObject,
    Notes,
    loaded,
)
from gemma_lisa.datasets_builder.formats.frames import READ_AS, STORED, UPRIGHT, Frame, frames_of
from gemma_lisa.datasets_builder.rows import encode_mask

WIDTH, HEIGHT = 40, 24  # as stored
SIZE = (HEIGHT, WIDTH)
EXIF_ORIENTATION = 0x0112
SMALL = [[1, 1, 5, 1, 5, 5]]  # fits both frames
RIGHT = [[30, 1, 38, 1, 38, 5]]  # only the stored one
LOW = [[1, 30, 5, 30, 5, 38]]  # only the upright one


def photo(folder, orientation, size=(WIDTH, HEIGHT)):
    path = folder / f"{len(list(folder.iterdir()))}.png"
    picture = Image.new("RGB", size)
    exif = picture.getexif()
    exif[EXIF_ORIENTATION] = orientation
    picture.save(path, exif=exif)
    return path


def image(path, segmentation, size=None, **more):
    objects = [] if segmentation is None else [AnnotatedObject("a", "object", segmentation)]
    return AnnotatedImage(path, path.name, path.name, loaded(objects), size, **more)


def turned_sizes(frames):
    return [(frame.size, frame.turn is not None) for frame in frames]


def test_photos_without_a_rotation_are_not_mentioned(tmp_path):
    notes = Notes()
    frames = frames_of([image(photo(tmp_path, 1), SMALL, SIZE), image(photo(tmp_path, 1), None)], "auto", "set", notes)
    assert frames == [Frame(SIZE), Frame(SIZE)] and not notes.cases


@pytest.mark.parametrize(
    ("segmentation", "size", "upright"),
    [
        (SMALL, SIZE[::-1], True),
        (RIGHT, SIZE[::-1], False),  # the size was corrected, but not the coordinates
        (LOW, SIZE, True),  # the size is wrong, as pictures opened without their rotation show it
        (RIGHT, SIZE, False),
        (LOW, None, True),
        (RIGHT, None, False),
        (encode_mask(np.ones(SIZE, bool)), SIZE, False),
        (encode_mask(np.ones(SIZE[::-1], bool)), SIZE[::-1], True),
    ],
)
def test_the_frame_that_contains_all_coordinates_is_used(tmp_path, segmentation, size, upright):
    notes = Notes()
    [frame] = frames_of([image(photo(tmp_path, 6), segmentation, size)], "auto", "set", notes)
    assert turned_sizes([frame]) == [(SIZE[::-1], False) if upright else (SIZE, True)]
    assert list(notes.cases) == [READ_AS[UPRIGHT if upright else STORED]]


def test_one_photo_shows_the_frame_of_the_others(tmp_path):
    images = [image(photo(tmp_path, 6), part, SIZE) for part in (SMALL, LOW, SMALL, None)]
    frames = frames_of(images, "auto", "set", Notes())
    assert turned_sizes(frames[:3]) == [(SIZE[::-1], False)] * 3
    images = [image(photo(tmp_path, 8), part, SIZE) for part in (SMALL, RIGHT)]
    assert turned_sizes(frames_of(images, "auto", "set", Notes())) == [(SIZE, True)] * 2


def test_without_evidence_the_data_set_is_refused_and_the_option_decides(tmp_path):
    images = [image(photo(tmp_path, 6), SMALL, SIZE), image(photo(tmp_path, 1), SMALL, SIZE)]
    with pytest.raises(ValueError, match=r'set: 1 photo with an EXIF rotation, first: 0.png.*exif to "upright" or'):
        frames_of(images, "auto", "set", Notes())
    assert turned_sizes(frames_of(images, "upright", "set", Notes())) == [(SIZE[::-1], False), (SIZE, False)]
    assert turned_sizes(frames_of(images, "stored", "set", Notes())) == [(SIZE, True), (SIZE, False)]


def test_contradicting_photos_are_evidence_of_nothing(tmp_path):
    images = [image(photo(tmp_path, 6), part, SIZE) for part in (SMALL, LOW, RIGHT)]
    with pytest.raises(ValueError, match="set: 1 photo"):
        frames_of(images, "auto", "set", Notes())


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_rotation_that_keeps_the_size_is_upright_unless_the_option_says_stored(tmp_path, orientation):
    images, notes = [image(photo(tmp_path, orientation), SMALL, SIZE)], Notes()
    assert frames_of(images, "auto", "set", notes) == [Frame(SIZE)]
    assert list(notes.cases) == [READ_AS[UPRIGHT]]
    [frame] = frames_of(images, "stored", "set", Notes())
    assert frame.turn is not None


def test_a_square_photo_has_the_frame_of_the_other_photos(tmp_path):
    square = image(photo(tmp_path, 6, (24, 24)), SMALL, (24, 24))
    other = image(photo(tmp_path, 6), RIGHT, SIZE)
    assert [frame.turn is not None for frame in frames_of([square, other], "auto", "set", Notes())] == [True, True]


def test_the_size_shows_the_frame_of_programs_that_write_both_alike(tmp_path):
    images = [image(photo(tmp_path, 6), SMALL, size, frame=AS_SIZE) for size in (SIZE, SIZE[::-1])]
    assert turned_sizes(frames_of(images, "auto", "set", Notes())) == [(SIZE, True), (SIZE[::-1], False)]


def test_percent_of_the_upright_photo_is_scaled_back(tmp_path):
    notes = Notes()
    [frame] = frames_of([image(photo(tmp_path, 6), RIGHT, SIZE, frame=PERCENT)], "auto", "set", notes)
    assert frame == Frame(SIZE[::-1], (HEIGHT / WIDTH, WIDTH / HEIGHT)) and list(notes.cases) == [READ_AS[PERCENT]]


def test_fractions_are_of_the_frame(tmp_path):
    one = image(photo(tmp_path, 6), [[0, 0, 1, 0, 1, 1]], normalized=True)
    assert frames_of([one], "auto", "set", Notes()) == [Frame(SIZE[::-1], SIZE)]
    [frame] = frames_of([one], "stored", "set", Notes())
    assert frame.size == SIZE and frame.scale == (WIDTH, HEIGHT) and frame.turn is not None


def test_errors_belong_to_their_photo(tmp_path):
    broken = photo(tmp_path, 1)
    broken.write_bytes(b"no image")
    images = [
        image(tmp_path / "none.png", SMALL),
        image(photo(tmp_path, 6), SMALL, (7, 9)),
        image(broken, SMALL),
        image(photo(tmp_path, 1), SMALL, SIZE),
    ]
    missing, wrong, unreadable, right = frames_of(images, "auto", "set", Notes())
    assert "none.png does not exist" in str(missing)
    assert "its size is 9 x 7 pixels (width x height), but the image" in str(wrong) and "24 x 40" in str(wrong)
    assert "cannot be read" in str(unreadable) and right == Frame(SIZE)
