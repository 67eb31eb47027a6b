"""ReasonSeg-R and ReasonSeg-X in the format of their Hub repositories, in small tables made here."""

import datasets
import numpy as np
import pytest
from hub_tables import BOOLS, FEATURES, KINDS, box, photo_bytes, row, write_table
from PIL import Image

from gemma_lisa.datasets_builder.leakage import held_out_names
from gemma_lisa.datasets_builder.mixture import load_rows, load_training_rows
from gemma_lisa.datasets_builder.published.reason_seg_tables import ReasonSegX, photo_names
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import check_row, decode_mask

pytestmark = pytest.mark.usefixtures("own_cache")

TEST = "reason_seg/ReasonSegX_test"
TOP, LEFT = box(0, 0, 2, 12), box(0, 0, 8, 3)
TRAIN_FORMAT = datasets.Features(
    {
        "id": datasets.Value("string"),
        "problem": datasets.Value("string"),
        "solution": datasets.Value("string"),
        "solution_mask": datasets.List(BOOLS),
        "image": datasets.Image(),
        "img_height": datasets.Value("int64"),
        "img_width": datasets.Value("int64"),
    }
)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


@pytest.fixture
def root(tmp_path):
    """Return a data folder with ReasonSeg-X: two questions about the first test photo, one about the second."""
    rows = [
        row("1.b_o", "What  cools the room?", TOP, photo_bytes(color=10), reasoning_type="function"),
        row("2_c_o", "the door", LEFT, photo_bytes(color=20), reasoning_type=None),
        row("1.b_o.jpg", "what is on the left", LEFT, photo_bytes(color=10), reasoning_type="place"),
    ]
    write_table(tmp_path / "data" / TEST, rows, KINDS, shards=2)
    return tmp_path / "data"


def test_questions_about_one_photo_are_one_row_in_the_order_of_the_table(root):
    rows = load_rows("reason_seg_x", "test", str(root))
    assert rows["source"] == ["reason_seg_x/test/1.b_o", "reason_seg_x/test/2_c_o"]
    first, second = rows[0]["targets"]
    assert (first["texts"], first["kind"], first["is_sentence"]) == (["What cools the room?"], "function", True)
    assert (second["texts"], second["kind"], second["is_sentence"]) == (["what is on the left"], "place", False)
    assert np.array_equal(decode_mask(first["masks"][0], ""), TOP) and first["ignore"] is None
    assert np.array_equal(decode_mask(second["masks"][0], ""), LEFT)
    assert rows[0]["image"] == {"bytes": photo_bytes(color=10), "path": "1.b_o.jpg"}
    assert rows[1]["targets"][0]["kind"] is None
    questions = EvaluationQuestions(rows, with_conversations=False)
    assert len(questions) == 3 and questions[2]["image"].load().getpixel((0, 0)) == (20, 20, 20)
    for part in rows:
        check_row(part)


def test_output_of_save_to_disk_gives_the_same_rows_as_parquet(root, tmp_path):
    rows = [row("1_a_o", "the door", TOP), row("1_a_o", "the wall", LEFT)]
    write_table(tmp_path / "a/reason_seg/ReasonSeg_refine", rows)
    datasets.Dataset.from_list(rows, features=FEATURES).save_to_disk(tmp_path / "b/reason_seg/ReasonSeg_refine")
    of_parquet, of_disk = (load_rows("reason_seg_r", "test", str(tmp_path / name)) for name in ("a", "b"))
    assert of_parquet.to_list() == of_disk.to_list() and of_parquet["source"] == ["reason_seg_r/test/1_a_o"]


def test_each_object_of_the_training_format_is_a_mask(tmp_path):
    shown = {"bytes": photo_bytes(), "path": None}
    record = {"id": "a", "problem": "the doors", "solution": "[]", "image": shown, "img_height": 8, "img_width": 12}
    write_table(
        tmp_path / "reason_seg/ReasonSegX_train",
        [{**record, "solution_mask": [TOP.tolist(), LEFT.tolist()]}],
        TRAIN_FORMAT,
    )
    [target] = load_rows("reason_seg_x", "train", str(tmp_path))[0]["targets"]
    assert [decode_mask(mask, "").sum() for mask in target["masks"]] == [24, 24]


def test_empty_mask_is_a_question_about_something_absent_and_is_remarked(tmp_path, caplog):
    write_table(tmp_path / TEST, [row("a", "the cat", box(0, 0, 0, 0)), row("b", "the dog", TOP, photo_bytes(color=9))])
    rows = load_rows("reason_seg_x", "test", str(tmp_path))
    assert rows[0]["targets"][0]["masks"] == [] and len(rows[1]["targets"][0]["masks"]) == 1
    assert "questions with an empty mask, read as questions about something that is not in the photo (1)" in caplog.text


def test_masks_are_turned_with_a_photo_whose_stored_size_they_have(tmp_path, caplog):
    content = photo_bytes((12, 8), **turned(6))  # upright: 8 wide and 12 high
    stored = row("a", "the top", LEFT, content)  # left column as stored is the top row of the upright photo
    upright = row("a", "the top", box(0, 0, 3, 8, (12, 8)), content)
    write_table(tmp_path / TEST, [stored, upright])
    first, second = load_rows("reason_seg_x", "test", str(tmp_path))[0]["targets"]
    assert first["masks"] == second["masks"] and first["masks"][0]["size"] == [12, 8]
    assert "orientation" not in caplog.text


def test_turned_photo_whose_masks_could_be_drawn_either_way_is_remarked(tmp_path, caplog):
    write_table(tmp_path / TEST, [row("a", "the top", TOP, photo_bytes((12, 8), **turned(3)))])
    [target] = load_rows("reason_seg_x", "test", str(tmp_path))[0]["targets"]
    assert np.array_equal(decode_mask(target["masks"][0], ""), TOP)
    assert "masks of photos with an EXIF orientation that keeps the size, taken as drawn on the upright" in caplog.text


GOOD = row("good", "the door", TOP, photo_bytes(color=99))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("a", " ", TOP), "row 1 .*photo 'a': its question must be a text that is not empty, got ' '"),
        ({**row("a", "x", TOP), "text": None}, "row 1 .*photo 'a': its question must be a text .*got None"),
        (row("", "x", TOP), "row 1 .*the name of its photo must be a text that is not empty, got ''"),
        (row("good", "x", TOP, photo_bytes(color=1)), "row 1 .*photo 'good': another photo has the same name"),
        (row("a", "x", TOP, photo_bytes((13, 8))), "photo 'a': its mask is 12 x 8 pixels .* its photo is 13 x 8"),
        (row("a", "x", TOP, b"no photo"), "photo 'a': the image cannot be read"),
        (row("a", "x", TOP, photo_bytes((300, 300))[:-40]), "photo 'a': the image cannot be read"),
        ({**row("a", "x", TOP), "mask": None}, "photo 'a': has no mask"),
        ({**row("a", "x", TOP), "mask": [[True], [True, False]]}, "photo 'a': the rows of a mask must have the same"),
        ({**row("a", "x", TOP), "image": None}, "photo 'a': has no content of its photo"),
    ],
)
def test_bad_row_is_refused_or_skipped_with_max_bad(tmp_path, bad, message, caplog):
    write_table(tmp_path / TEST, [GOOD, bad])
    with pytest.raises(ValueError, match=message) as caught:
        load_rows("reason_seg_x", "test", str(tmp_path))
    assert "\n" not in str(caught.value) and TEST in str(caught.value)
    rows = load_rows("reason_seg_x", "test", str(tmp_path), {"max_bad": 1})
    assert rows["source"] == ["reason_seg_x/test/good"] and "skipped: " in caplog.text


def without(column):
    kept = {name: kind for name, kind in FEATURES.items() if name != column}
    return [{name: GOOD[name] for name in kept}], datasets.Features(kept)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (without("text"), "has no column text or problem, only image, mask"),
        (without("mask"), "has no column mask or solution_mask"),
        (without("image_id"), "has no column image_id or id"),
        (without("image"), "must have a column image with the content of photos"),
        (
            ([{**GOOD, "mask": "x"}], datasets.Features({**FEATURES, "mask": datasets.Value("string")})),
            "the column mask must contain lists of lists of booleans, got 'string'",
        ),
    ],
)
def test_table_with_other_columns_is_refused(tmp_path, table, message):
    write_table(tmp_path / TEST, *table)
    with pytest.raises(ValueError, match=f"ReasonSegX_test: {message}"):
        load_rows("reason_seg_x", "test", str(tmp_path))


def test_one_of_several_masks_without_pixels_is_refused(tmp_path):
    shown = {"bytes": photo_bytes(), "path": None}
    masks = [TOP.tolist(), box(0, 0, 0, 0).tolist()]
    record = {"id": "a", "problem": "x", "solution": "", "image": shown, "img_height": 8, "img_width": 12}
    write_table(tmp_path / "reason_seg/ReasonSegX_train", [{**record, "solution_mask": masks}], TRAIN_FORMAT)
    with pytest.raises(ValueError, match="one of its 2 masks has no pixels"):
        load_rows("reason_seg_x", "train", str(tmp_path))


def test_one_of_several_masks_that_is_missing_is_refused(tmp_path):
    record = {"id": "a", "problem": "x", "solution": "", "image": {"bytes": photo_bytes(), "path": None}}
    record |= {"img_height": 8, "img_width": 12, "solution_mask": [TOP.tolist(), None]}
    write_table(tmp_path / "reason_seg/ReasonSegX_train", [record], TRAIN_FORMAT)
    with pytest.raises(ValueError, match="photo 'a': one of its 2 masks is missing"):
        load_rows("reason_seg_x", "train", str(tmp_path))


def test_missing_folders_are_refused_with_download_instructions(tmp_path):
    with pytest.raises(ValueError, match="reason_seg: no such folder.*hf download sj9909/ReasonSegX_test"):
        load_rows("reason_seg_x", "test", str(tmp_path))
    (tmp_path / "reason_seg").mkdir()
    with pytest.raises(ValueError, match="none of the folders ReasonSeg_refine.*hf download sj9909/ReasonSeg_refine"):
        load_rows("reason_seg_r", "test", str(tmp_path))


def test_changed_table_is_prepared_again(root):
    load_rows("reason_seg_x", "test", str(root))
    (root / TEST / "data/test-00001-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match="contains 1 of 2 Parquet files"):
        load_rows("reason_seg_x", "test", str(root))


def test_photos_of_evaluation_splits_are_held_out_of_the_other_reasoning_sets(root, caplog):
    train = [row("2_c_o", "the window", TOP, photo_bytes(color=20)), row("9_o", "a", TOP, photo_bytes(color=9))]
    write_table(root / "reason_seg/ReasonSeg_refine", [row("9_o", "the cat", TOP)])
    write_table(root / "reason_seg/ReasonSegX_train", train)
    assert photo_names(root / TEST) == {"1.b_o", "2_c_o"}
    held_out = held_out_names(root)
    assert held_out["reason_seg/1.b_o"] == held_out["reason_seg_r/2_c_o"] == "reason_seg_x/test"
    assert held_out["reason_seg_x/9_o"] == "reason_seg_r/test" and "reason_seg_x/1.b_o" not in held_out
    kept = load_training_rows("reason_seg_x", "train", str(root), None, held_out)
    assert kept["source"] == ["reason_seg_x/train/2_c_o"]
    assert "skipped 1 of 2 rows" in caplog.text


def test_photo_of_coco_in_a_table_is_held_out_by_its_id(tmp_path):
    name = "COCO_train2014_000000000025"
    write_table(
        tmp_path / "reason_seg/ReasonSegX_train", [row(name, "a", TOP), row("b", "c", TOP, photo_bytes(color=3))]
    )
    kept = load_training_rows("reason_seg_x", "train", str(tmp_path), None, {25: "refcoco/unc/validation"})
    assert kept["source"] == ["reason_seg_x/train/b"]


def test_dataset_info_has_license_homepage_and_citation():
    info = ReasonSegX(config_name="default", data_dir=".").info
    assert info.license and info.homepage and info.citation
