"""The row schema: rows load as they were saved, and errors name the row."""

import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.rows import (
    IGNORE_VALUE,
    ROW_FEATURES,
    check_row,
    decode_mask,
    encode_mask,
    load_image,
    new_row,
    new_target,
    sort_by_centroid,
    target_masks,
)
from gemma_lisa.images_gemma_lisa import pixel_limit

# raised inside pycocotools with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SOURCE = "some_set/val/000007"
EXIF_ORIENTATION = 0x0112
ROTATED = 6  # must be rotated by 90 degrees clockwise


def box_mask(top, left, bottom, right, size=(6, 8)):
    mask = np.zeros(size, dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def make_target(masks=(), ignore=None, answer=None, texts=("the box",)):
    return {
        "texts": list(texts),
        "kind": None,
        "is_sentence": False,
        "masks": [encode_mask(mask) for mask in masks],
        "answer": answer,
        "ignore": None if ignore is None else encode_mask(ignore),
        "explanation": None,
    }


def make_row(targets=(), conversation=(), image=None):
    return {"image": image, "source": SOURCE, "targets": list(targets), "conversation": list(conversation)}


def encoded(picture, **options):
    buffer = BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def assert_refused(call, *words):
    """Check that the call raises a one-line ValueError that starts with the row and contains the words."""
    with pytest.raises(ValueError) as refusal:
        call()
    message = str(refusal.value)
    assert message.startswith(f"{SOURCE}: ") and "\n" not in message
    for word in words:
        assert word in message


def test_rows_load_from_disk_as_they_were_saved(tmp_path):
    box = box_mask(1, 2, 4, 5)
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 6)).save(path)
    rows = [
        make_row(
            [make_target([box, 1 - box], ignore=box, answer="{seg} and {seg}"), make_target(texts=["a", "b"])],
            [{"question": "How many?", "answer": "2."}],
            {"bytes": encoded(Image.new("RGB", (8, 6)), format="PNG"), "path": None},
        ),
        make_row(conversation=[{"question": "Hello?", "answer": "Hello."}]),
        make_row([make_target([box])], image={"bytes": None, "path": str(path)}),
    ]
    Dataset.from_list(rows, features=ROW_FEATURES).save_to_disk(tmp_path / "rows")
    read = Dataset.load_from_disk(tmp_path / "rows")
    assert read.features == ROW_FEATURES
    rows[-1]["image"] = {"bytes": path.read_bytes(), "path": path.name}  # save_to_disk embeds files
    assert read.to_list() == rows


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (64, 64), (33, 50), (300, 401)])
def test_encoded_masks_decode_to_the_same_mask_as_with_pycocotools(size):
    rng = np.random.default_rng(0)
    masks = [np.zeros(size, bool), np.ones(size, bool), rng.random(size) < 0.5, rng.random(size) < 0.003]
    for mask in [*masks, masks[2].T.copy().T, masks[2][::-1]]:
        rle = encode_mask(mask)
        assert rle["size"] == list(size) and isinstance(rle["counts"], str)
        decoded = decode_mask(rle, SOURCE)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, mask)
        np.testing.assert_array_equal(coco_mask.decode({**rle, "counts": rle["counts"].encode()}), mask)


GOOD = encode_mask(box_mask(5, 10, 40, 50, (64, 64)))


@pytest.mark.parametrize(
    "rle",
    [
        {**GOOD, "counts": ""},
        {**GOOD, "counts": "garbage!"},
        {**GOOD, "counts": "~~~"},
        {**GOOD, "counts": "été"},
        {**GOOD, "counts": None},
        {**GOOD, "counts": GOOD["counts"][:-1]},
        {**GOOD, "counts": GOOD["counts"] + "1"},
        {**GOOD, "counts": "o" * 20 + "1"},
        {**GOOD, "counts": "PP4O"},  # -1 at the end
        {**GOOD, "size": [64, 63]},
        {**GOOD, "size": [-64, -64]},
        {**GOOD, "size": [64]},
        {**GOOD, "size": []},
        {**GOOD, "size": [0, 0]},
    ],
)
def test_an_invalid_rle_is_refused_by_name(rle):
    assert decode_mask(GOOD, SOURCE).sum() == 35 * 40
    assert_refused(lambda: decode_mask(rle, SOURCE), "RLE")


def test_an_rle_that_ends_inside_a_number_is_truncated():
    for counts in (GOOD["counts"] + "o", "o"):  # "o" has the flag for another digit
        assert_refused(lambda counts=counts: decode_mask({**GOOD, "counts": counts}, SOURCE), "truncated")


def test_a_damaged_rle_gives_a_mask_or_an_error():
    rng = np.random.default_rng(0)
    n_refused = 0
    for _ in range(2000):
        counts = list(GOOD["counts"])
        counts[rng.integers(len(counts))] = chr(rng.integers(40, 120))
        try:
            mask = decode_mask({**GOOD, "counts": "".join(counts)}, SOURCE)
            assert mask.shape == (64, 64) and mask.max() <= 1
        except ValueError as error:
            assert str(error).startswith(SOURCE)
            n_refused += 1
    assert n_refused > 1500


@pytest.mark.parametrize(
    "picture, rgb",
    [
        (Image.new("L", (8, 6), 77), (77, 77, 77)),
        (Image.new("1", (8, 6), 1), (255, 255, 255)),
        (Image.new("RGB", (8, 6), (10, 200, 30)).quantize(4), (10, 200, 30)),
        (Image.new("RGBA", (8, 6), (10, 200, 30, 255)), (10, 200, 30)),
        (Image.new("LA", (8, 6), (77, 0)), (255, 255, 255)),  # transparent, on white
    ],
)
def test_every_eight_bit_mode_becomes_rgb_from_memory_path_and_bytes(picture, rgb, tmp_path):
    file = encoded(picture, format="PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(file)
    ways = [picture, path, str(path), {"bytes": file, "path": None}, {"bytes": None, "path": str(path)}]
    for way in [*ways, {"bytes": file, "path": "gone.png"}]:
        image = load_image(way, SOURCE)
        assert (image.mode, image.size) == ("RGB", (8, 6))
        assert image.getpixel((3, 3)) == rgb


def test_exif_orientation_is_applied():
    picture = Image.new("RGB", (8, 6), "white")
    picture.paste("black", (0, 0, 4, 3))  # top left as stored = top right as shown
    exif = picture.getexif()
    exif[EXIF_ORIENTATION] = ROTATED
    file = encoded(picture, format="PNG", exif=exif)
    for way in ({"bytes": file, "path": None}, Image.open(BytesIO(file))):
        image = load_image(way, SOURCE)
        assert image.size == (6, 8)
        assert image.getpixel((5, 0)) == (0, 0, 0) and image.getpixel((0, 0)) == (255, 255, 255)
        assert load_image(image, SOURCE).size == (6, 8)  # not rotated twice


def test_a_text_only_row_has_no_image():
    assert load_image(None, SOURCE) is None


def test_images_that_cannot_be_read_are_refused_by_name(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    file = encoded(noise, format="JPEG")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(file[: len(file) // 2])
    text = tmp_path / "text.jpg"
    text.write_text("this is no picture")
    missing = tmp_path / "missing.jpg"
    assert_refused(lambda: load_image(missing, SOURCE), "does not exist", str(missing))
    assert_refused(lambda: load_image({"bytes": None, "path": str(missing)}, SOURCE), "does not exist", str(missing))
    assert_refused(lambda: load_image(cut, SOURCE), "truncated", str(cut))
    assert_refused(lambda: load_image(Image.open(cut), SOURCE), "truncated")
    assert_refused(lambda: load_image({"bytes": cut.read_bytes(), "path": None}, SOURCE), "truncated")
    assert_refused(lambda: load_image(text, SOURCE), "cannot be read", str(text))
    assert_refused(lambda: load_image({"bytes": b"", "path": None}, SOURCE), "cannot be read")
    assert_refused(lambda: load_image({"bytes": None, "path": None}, SOURCE), "neither bytes nor a path")
    assert_refused(lambda: load_image(tmp_path, SOURCE), "does not exist", str(tmp_path))


def test_images_with_more_than_eight_bits_are_refused_by_name():
    deep = Image.fromarray(np.full((6, 8), 1000, dtype=np.int32))
    assert_refused(lambda: load_image({"bytes": encoded(deep, format="TIFF"), "path": None}, SOURCE), "8 bits")


def test_masks_are_ordered_by_centroid_from_top_to_bottom_then_left_to_right():
    bottom_left, top_right = box_mask(4, 0, 6, 2), box_mask(0, 6, 2, 8)
    middle_right, middle_left = box_mask(2, 5, 4, 7), box_mask(2, 1, 4, 3)
    empty = box_mask(0, 0, 0, 0)
    assert sort_by_centroid([bottom_left, empty, middle_right, top_right, middle_left]) == [3, 4, 2, 0, 1]
    tall = box_mask(
        0, 0, 6, 1
    )  # starts higher than middle_left, but its centroid has the same height and is further left
    assert sort_by_centroid([middle_left, tall]) == [1, 0]
    assert sort_by_centroid([]) == []


def test_ignored_pixels_are_set_except_on_the_object():
    thing, other, ignore = box_mask(0, 0, 2, 2), box_mask(4, 4, 6, 6), box_mask(1, 1, 3, 3)
    masks = target_masks(make_target([thing, other], ignore), (6, 8), SOURCE)
    assert masks.shape == (2, 6, 8) and masks.dtype == np.uint8
    expected = thing.copy()
    expected[1, 2] = expected[2, 1] = expected[2, 2] = IGNORE_VALUE
    np.testing.assert_array_equal(masks[0], expected)
    np.testing.assert_array_equal(masks[1] == IGNORE_VALUE, ignore == 1)
    np.testing.assert_array_equal(masks[1] == 1, other == 1)
    assert set(np.unique(target_masks(make_target([thing]), (6, 8), SOURCE))) == {0, 1}


def test_an_absent_object_has_zero_masks_of_the_image_size():
    assert target_masks(make_target(), (6, 8), SOURCE).shape == (0, 6, 8)


def test_a_mask_with_another_size_than_its_image_is_refused():
    thing = box_mask(0, 0, 2, 2)
    assert_refused(lambda: target_masks(make_target([thing]), (8, 6), SOURCE), "6 x 8", "8 x 6")
    ignoring = make_target([thing], ignore=box_mask(0, 0, 2, 2, (5, 8)))
    assert_refused(lambda: target_masks(ignoring, (6, 8), SOURCE), "5 x 8", "6 x 8")


def one_run(length):
    """Return COCO's compressed counts of one background run."""
    counts = ""
    while True:
        digit, length = length & 0x1F, length >> 5
        more = length != -1 if digit & 0x10 else length != 0
        counts += chr(48 + (digit | (0x20 if more else 0)))
        if not more:
            return counts


@pytest.fixture
def peak_memory():
    """Return a function that measures the peak memory of a call in bytes."""

    def measure(do):
        tracemalloc.start()
        try:
            do()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


@pytest.mark.parametrize("side", [30_000, 9_000, 10**9])
def test_a_mask_of_a_huge_size_is_refused_before_it_is_decoded(side, peak_memory):
    huge = {"size": [side, side], "counts": one_run(side * side)}
    target = {"masks": [huge], "ignore": None}
    assert peak_memory(lambda: assert_refused(lambda: target_masks(target, (64, 64), SOURCE), "64 x 64")) < 1e6
    ignoring = {"masks": [], "ignore": huge}
    assert peak_memory(lambda: assert_refused(lambda: target_masks(ignoring, (64, 64), SOURCE), "64 x 64")) < 1e6
    if side * side > pixel_limit():
        assert peak_memory(lambda: assert_refused(lambda: decode_mask(huge, SOURCE), "RLE")) < 1e6


def test_runs_with_an_overflowing_sum_are_refused(peak_memory):
    # 2 ** 15 runs of the same length, each with difference 0 to the run two before
    length = (2**64 + 64 * 64) // 2**15
    digits = [length >> (5 * place) & 0x1F for place in range(11)]
    too_long = {"size": [64, 64], "counts": "".join(chr(48 + digit + 0x20) for digit in digits) + "0"}
    assert_refused(lambda: decode_mask(too_long, SOURCE), "RLE")
    growing = {"size": [64, 64], "counts": "oooooo3" * 2**15}  # each run is longer than the previous one by 2 ** 33
    assert peak_memory(lambda: assert_refused(lambda: decode_mask(growing, SOURCE), "the runs cover")) < 2e7


def test_too_many_masks_are_refused_before_decoding(peak_memory):
    side = 9_000  # a PNG of this size can have 100 kB
    target = {"masks": [{"size": [side, side], "counts": one_run(side * side)}] * 100, "ignore": None}
    assert peak_memory(lambda: assert_refused(lambda: target_masks(target, (side, side), SOURCE), "100 masks")) < 1e6


def test_a_new_row_has_every_column_of_the_schema_in_its_order():
    box = encode_mask(box_mask(0, 0, 2, 2))
    plain = new_target(["the box"], [box])
    whole = new_target(
        ["Which box?"], [], kind="absent", is_sentence=True, answer="None.", ignore=box, explanation="It is gone."
    )
    row = new_row(b"encoded", SOURCE, [plain, whole])
    assert list(row) == list(ROW_FEATURES)
    for target in (plain, whole):
        assert list(target) == list(ROW_FEATURES["targets"].feature)
    assert list(plain.values()) == [["the box"], None, False, [box], None, None, None]
    assert list(whole.values()) == [["Which box?"], "absent", True, [], "None.", box, "It is gone."]
    assert row["image"] == {"bytes": b"encoded", "path": None} and row["conversation"] == []
    turn = {"question": "What?", "answer": "That."}
    assert new_row(Path("a.jpg"), SOURCE, [], (turn,))["image"] == {"bytes": None, "path": "a.jpg"}
    assert new_row(None, SOURCE, [], (turn,)) == make_row(conversation=[turn])


def test_long_texts_in_errors_are_shortened():
    long = "x" * 10**6
    for row in (
        make_row([make_target(texts=("a",), answer=long + "{seg}")]),
        make_row([make_target(answer=long + "[SEG]")]),
        make_row([{**make_target(), "explanation": long + "[SEG]"}]),
    ):
        with pytest.raises(ValueError) as refused:
            check_row(row)
        assert len(str(refused.value)) < 500


def test_rows_are_checked_for_texts_and_slots():
    box = box_mask(0, 0, 2, 2)
    check_row(make_row([make_target([box, box], answer="{seg} and {seg}"), make_target([box]), make_target()]))
    check_row(make_row())
    too_many = make_row([make_target([box], answer="{seg} and {seg}")])
    assert_refused(lambda: check_row(too_many), "2 {seg}", "1 mask;")
    assert_refused(lambda: check_row(make_row([make_target([box], answer="There.")])), "0 {seg}", "1 mask;")
    assert_refused(lambda: check_row(make_row([make_target([box]), make_target(texts=[])])), "no question")
    assert_refused(lambda: check_row(make_row([make_target(texts=["the box", " "])])), "empty")
    for word in ("{seg}", "[SEG]"):
        asked = {**make_target([box]), "explanation": f"It is near {word}."}
        assert_refused(lambda asked=asked: check_row(make_row([asked])), "explanation", word)
        said = {**make_row(), "conversation": [{"question": "Where?", "answer": f"At {word}."}]}
        assert_refused(lambda said=said: check_row(said), "answer", word)
    assert_refused(lambda: check_row(make_row([make_target([box], answer="{seg} is [SEG].")])), "answer", "[SEG]")
    silent = {**make_row(), "conversation": [{"question": "Where?", "answer": None}]}
    assert_refused(lambda: check_row(silent), "no question or no answer")
