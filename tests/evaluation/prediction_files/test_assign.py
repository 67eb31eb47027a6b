"""Every question has exactly one prediction of the right size; everything else is a one-line error with file and id."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from prediction_writers import (
    LEFT,
    small_benchmark,
    truth,
    write_agent,
    write_coco,
    write_jsonl,
    write_lmms,
    write_pngs,
)

from gemma_lisa.datasets_builder.rows import decode_mask, encode_mask
from gemma_lisa.evaluation.prediction_files.assign import assign_predictions
from gemma_lisa.evaluation.prediction_files.read import open_predictions

FIRST = "small/test/1#0"


def assigned(path, missing=None, with_conversations=False):
    return assign_predictions(open_predictions(path), small_benchmark(with_conversations), missing)


@pytest.mark.parametrize("write", [write_jsonl, write_lmms, write_agent, write_pngs, write_coco])
def test_all_formats_give_the_same_predictions(tmp_path, write, capsys):
    path = write(tmp_path / "predictions", small_benchmark(), truth)
    found = assigned(path, "zero" if write is write_coco else None)
    assert {id_: one.masks for id_, one in found.items()} == {one.id: one.targets for one in small_benchmark()}
    printed = capsys.readouterr().err
    assert (printed == "") is (write is not write_coco)


def write(tmp_path, changes, dropped=()):
    """Write the right answers with other values for the first question."""
    lines = [{"id": question.id, "masks": question.targets} for question in small_benchmark()]
    lines[0] |= changes
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line["id"] not in dropped))
    return path


def test_polygons_and_all_kinds_of_rle_are_read(tmp_path):
    counts = encode_mask(LEFT)["counts"]
    for mask in (
        {"size": [4, 6], "counts": counts},
        {"size": [4, 6], "counts": [0, 8, 16]},
        {"size": [4, 6], "counts": [0, 8, 0, 0, 16]},
        [[0, 0, 2, 0, 2, 4, 0, 4]],
        [[0, 0, 1, 0, 1, 4, 0, 4], [1, 0, 2, 0, 2, 4, 1, 4]],
    ):
        (found,) = assigned(write(tmp_path, {"masks": [mask]}))[FIRST].masks
        assert np.array_equal(decode_mask(found, ""), LEFT)


SIZE = {"size": [4, 6]}


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (
            {"size": [6, 4], "counts": [24]},
            r"the size of its RLE is \[6, 4\] \(height, width\), but its image is \[4, 6\]",
        ),
        ({**SIZE, "counts": [8, 8]}, "invalid RLE: the runs cover 16 pixels, not the 24 of the image"),
        ({**SIZE, "counts": [8, -8, 24]}, "invalid RLE: counts are empty or contain a value that is not a run length"),
        ({**SIZE, "counts": []}, "invalid RLE: counts are empty"),
        ({**SIZE, "counts": "0"}, "invalid RLE: the runs cover 0 pixels"),
        ({**SIZE, "counts": "P"}, "invalid RLE: counts are empty, truncated or contain an invalid character"),
        ({**SIZE, "counts": "é"}, "invalid RLE: counts must be COCO's compressed string"),
        ({**SIZE, "counts": "08Mn0"}, "invalid RLE: "),
        ({**SIZE, "counts": "b'08'"}, "invalid RLE: "),
        ({"counts": "08`0"}, "a segmentation must be polygons .* or RLE"),
        ([[0, 0, 1, 0, 1]], "a polygon must have x and y of at least 3 points, got 5 numbers"),
        ([[0, 0, 1, 0, 1, 1, 0]], "a polygon must have x and y of at least 3 points, got 7 numbers"),
        ([0, 0, 1, 0, 1, 1], "a segmentation must be polygons"),
        ([], "has no segmentation"),
        ([[0, 0, 90, 0, 90, 4]], "a polygon extends from x 0 to 90"),
        (None, "has no segmentation"),
        ("08`0", "a segmentation must be polygons"),
    ],
)
def test_wrong_masks_are_named_with_file_and_id_on_one_line(tmp_path, mask, problem):
    path = write(tmp_path, {"masks": [encode_mask(LEFT), mask]})
    with pytest.raises(ValueError, match=f"^{path}: {FIRST}: mask 1:? ?.*{problem}") as found:
        assigned(path)
    assert "\n" not in str(found.value)


def test_a_mask_image_of_another_size_is_named(tmp_path):
    write_pngs(tmp_path, small_benchmark(), truth)
    Image.fromarray(np.ones((6, 4), np.uint8)).save(tmp_path / f"{FIRST}.png")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/{FIRST}.png: the size .* is \[6, 4\]"):
        assigned(tmp_path)


def test_an_empty_mask_image_of_another_size_is_named(tmp_path):
    write_pngs(tmp_path, small_benchmark(), truth)
    Image.fromarray(np.zeros((6, 4), np.uint8)).save(tmp_path / "small/test/3#0.png")
    with pytest.raises(ValueError, match=r"^\S*/small/test/3#0.png: the size .* is \[6, 4\] .* its image has \[4, 6\]"):
        assigned(tmp_path)


def test_an_array_of_pixels_is_not_read_as_polygons(tmp_path):
    path = write(tmp_path, {"masks": [LEFT.tolist()]})
    with pytest.raises(ValueError, match=f"^{path}: {FIRST}: mask 0 is an array of pixels; encode it"):
        assigned(path)


def test_extra_ids_are_named(tmp_path):
    path = write(tmp_path, {"id": "small/test/9#0"})
    with pytest.raises(ValueError, match=f"^{path}: small/test/9#0: no question has the id small/test/9#0"):
        assigned(path)


@pytest.mark.parametrize("again", ["small/test/3#0", 3, "small/test/3"])
def test_doubled_ids_are_named(tmp_path, again):
    path = write(tmp_path, {"id": again})
    with pytest.raises(ValueError, match=f"^{path}: small/test/3#0 has two predictions .* remove one of them"):
        assigned(path)


def test_missing_ids_are_counted_and_named(tmp_path):
    path = write(tmp_path, {}, dropped=(FIRST, "small/test/3#0"))
    which = re.escape(f"no prediction for 2 of 4 questions ({FIRST}, small/test/3#0)")
    with pytest.raises(ValueError, match=f"^{path}: {which}; add them, or count them as empty with --missing zero"):
        assigned(path)


def test_missing_zero_counts_them_as_empty_and_prints_it(tmp_path, capsys):
    path = write(tmp_path, {}, dropped=(FIRST,))
    found = assigned(path, "zero")
    assert found[FIRST].masks == [] and len(found) == 4
    assert (
        capsys.readouterr().err == f"--missing zero: no prediction for 1 of 4 questions ({FIRST}); counted as empty\n"
    )


def test_words_are_needed_for_questions_without_masks(tmp_path):
    path = write(tmp_path, {})
    with pytest.raises(ValueError, match=r"no prediction for 1 of 5 questions \(small/test/1#2\)"):
        assigned(path, with_conversations=True)
    with path.open("a") as file:
        file.write('{"id": "small/test/1#2", "text": "2"}\n')
    assert open_predictions(path).has_words
    assert assigned(path, with_conversations=True)["small/test/1#2"].text == "2"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"id": "small/test/1#2", "masks": []}, "small/test/1#2: the question asks for words; give text, and no masks"),
        (
            {"id": "small/test/1#2", "text": "2", "masks": [encode_mask(LEFT)]},
            "small/test/1#2: the question asks for words",
        ),
        ({"id": FIRST, "text": "No."}, f"{FIRST}: the key masks is missing"),
    ],
)
def test_an_answer_of_the_wrong_kind_is_named(tmp_path, line, problem):
    path = tmp_path / "p.json"
    path.write_text(json.dumps([line]))
    with pytest.raises(ValueError, match=f"^{path}: {problem}"):
        assigned(path, "zero", with_conversations=True)


def test_masks_that_do_not_fit_into_memory_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("GEMMA_LISA_MAX_IMAGE_PIXELS", "24")
    path = write(tmp_path, {"masks": [encode_mask(LEFT)] * 21})
    with pytest.raises(ValueError, match=f"^{path}: {FIRST}: 21 masks of 4 x 6 pixels"):
        assigned(path)
