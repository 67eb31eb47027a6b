"""ReasonSeg in its original layout: small files made here, and the real samples if available."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.published.reason_seg import ReasonSeg, fill_polygon
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import IGNORE_VALUE, check_row, decode_mask

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "samples"
FOLDER = "reason_seg/ReasonSeg"
WHOLE = [[0, 0], [11, 0], [11, 7], [0, 7]]  # of a photo of 12 x 8


pytestmark = pytest.mark.usefixtures("own_cache")


def shape(label, points, shape_type="polygon"):
    named = {"label": label, "labels": [label], "shape_type": shape_type, "image_name": "x.jpg", "points": points}
    return {**named, "group_id": None, "group_ids": [None], "flags": {}}


def write(root, name, texts, is_sentence, shapes, encoding="utf-8", size=(12, 8), exif=None):
    path = root / FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"text": texts, "is_sentence": is_sentence, "shapes": shapes}
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    Image.new("L", size).save(path.with_suffix(".jpg"), **({"exif": exif} if exif else {}))


def explain(root, *entries):
    path = root / FOLDER / "explanatory/train.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = ("image", "query", "outputs")
    path.write_text(json.dumps([{**dict(zip(keys, entry, strict=True)), "json": "x.json"} for entry in entries]))


@pytest.fixture
def root(tmp_path):
    """Return a data folder with two training photos and one photo in each other split."""
    shapes = [
        shape("ignore area", [[4.9, 2.9], [6.9, 2.9], [6.9, 4.9], [4.9, 4.9]]),
        shape("target", WHOLE),
        shape("Flag", [[-90, 0], [1, 1]]),
    ]
    texts = ["What’s the café’s  front?", "Where do guests go in {first}?"]
    write(tmp_path / "data", "train/1_a_o", texts, True, shapes, encoding="cp1252")
    write(
        tmp_path / "data", "train/2.b_o", ["the door"], False, [shape("target", [[0, 0], [2.9, 0], [2.9, 1], [0, 1]])]
    )
    write(tmp_path / "data", "val/3_c_o", ["日本?"], True, [shape("target", WHOLE)])
    write(tmp_path / "data", "test/4_d_o", ["the sky"], False, [shape("target", WHOLE)])
    explain(tmp_path / "data")
    return tmp_path / "data"


def test_all_texts_ask_for_one_mask_and_evaluation_asks_the_first(root, caplog):
    rows = load_rows("reason_seg", "train", str(root))
    assert [row["source"] for row in rows] == ["reason_seg/train/1_a_o", "reason_seg/train/2.b_o"]
    [first], [second] = rows[0]["targets"], rows[1]["targets"]
    assert first["texts"] == ["What’s the café’s front?", "Where do guests go in {first}?"] and first["is_sentence"]
    assert second["texts"] == ["the door"] and not second["is_sentence"]
    assert rows[0]["image"] == {"bytes": None, "path": str(root / FOLDER / "train/1_a_o.jpg")}
    questions = EvaluationQuestions(rows, with_conversations=False)
    assert questions[0]["conversations"][0].turns[0][0] == "What’s the café’s front?"
    assert questions[0]["image"].load().mode == "RGB"
    assert "skipped shapes labelled flag (1)" in caplog.text and "1_a_o.json: shape 2" in caplog.text


def test_smaller_shapes_cover_larger_ones_and_ignore_shapes_are_ignored(root):
    sample = EvaluationQuestions(load_rows("reason_seg", "train", str(root)), with_conversations=False)[0]
    expected = np.ones((1, 8, 12), dtype=np.uint8)
    expected[:, 2:5, 4:7] = IGNORE_VALUE  # points are truncated to whole pixels, and shapes include their outline
    assert np.array_equal(sample["masks"][0], expected)


def test_splits_exist_if_their_folders_have_files(root):
    assert load_rows("reason_seg", "validation", str(root))[0]["source"] == "reason_seg/validation/3_c_o"
    assert load_rows("reason_seg", "validation", str(root))[0]["targets"][0]["texts"] == ["日本?"]
    assert len(load_rows("reason_seg", "test", str(root))) == 1
    for name in ("4_d_o.jpg", "4_d_o.json"):
        (root / FOLDER / "test" / name).unlink()
    with pytest.raises(ValueError, match="no split 'test'"):
        load_rows("reason_seg", "test", str(root))


def test_explanation_adds_its_question_to_the_target_or_becomes_a_target(root, caplog):
    explain(
        root,
        ("2.b_o.jpg", "How do I get out?", "By the door."),
        ("9.jpg", "Who?", "Nobody."),
        ("1_a_o.jpg", "Where do guests go in {first}?", "Through the front."),
        ("1_a_o.jpg", "What is seen?", "A house."),
    )
    first, second = load_rows("reason_seg", "train", str(root))
    assert [target["explanation"] for target in first["targets"]] == ["Through the front.", "A house."]
    assert [len(target["texts"]) for target in first["targets"]] == [2, 1]
    phrase, sentence = second["targets"]
    assert phrase["texts"] == ["the door"] and phrase["explanation"] is None
    assert sentence["texts"] == ["How do I get out?"] and sentence["is_sentence"]
    assert sentence["masks"] == phrase["masks"] and sentence["explanation"] == "By the door."
    assert "skipped explanations of photos not in train (1), first: 9.jpg" in caplog.text
    explain(root, ("1_a_o.jpg", "What is seen?", "A house."))
    [target] = load_rows("reason_seg", "train", str(root))[0]["targets"]
    assert target["texts"][2:] == ["What is seen?"] and target["explanation"] == "A house."


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg", ".webp"])
def test_photos_of_your_own_can_have_other_suffixes(root, suffix, caplog):
    photo = root / FOLDER / f"train/1_a_o{suffix}"
    with Image.open(root / FOLDER / "train/1_a_o.jpg") as image:
        image.save(photo)
    (root / FOLDER / "train/1_a_o.jpg").unlink()
    (root / FOLDER / "train/._1_a_o.jpg").touch()
    explain(root, (photo.name, "What is seen?", "A house."))
    row = load_rows("reason_seg", "train", str(root))[0]
    assert row["image"]["path"] == str(photo) and row["source"] == "reason_seg/train/1_a_o"
    assert row["targets"][0]["explanation"] == "A house." and "photos not in train" not in caplog.text


def test_names_in_another_unicode_form_are_equal(root):
    for old, new in (("2.b_o.json", "é.json"), ("2.b_o.jpg", unicodedata.normalize("NFD", "é.jpg"))):
        (root / FOLDER / "train" / old).rename(root / FOLDER / "train" / new)
    assert load_rows("reason_seg", "train", str(root))["source"][1] == "reason_seg/train/é"


def test_missing_explanations_give_a_warning(root, caplog):
    (root / FOLDER / "explanatory/train.json").unlink()
    assert load_rows("reason_seg", "train", str(root))[0]["targets"][0]["explanation"] is None
    assert "train.json: no such file; the rows have no explanations" in caplog.text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("1_a_o.jpg", "Who?", "It is [SEG]."), r"entry 0 .*\[SEG\]"),
        (("1_a_o.jpg", "Who?", "It is {seg}."), "entry 0 .*{seg}"),
        (("1_a_o.jpg", "Who?", ""), "entry 0 .*image, query and outputs must be texts that are not empty, got"),
        ((7, "Who?", "He."), r"entry 0 .*image, query and outputs must be texts .*got \[7"),
    ],
)
def test_bad_explanation_is_refused_or_skipped_with_max_bad(root, entry, message):
    explain(root, entry, ("1_a_o.jpg", "What is seen?", "A house."))
    with pytest.raises(ValueError, match=f"explanatory/train.json: {message}"):
        load_rows("reason_seg", "train", str(root))
    first, _ = load_rows("reason_seg", "train", str(root), {"max_bad": 1})
    assert first["targets"][0]["explanation"] == "A house."


def cut_off(photo):
    photo.write_bytes(photo.read_bytes()[:-20])


def spoil(**fields):
    """Return a function that changes the JSON of the first training photo. Fields with the value ... are removed."""

    def change(folder):
        path = folder / "train/1_a_o.json"
        content = {**json.loads(path.read_bytes().decode("cp1252")), **fields}
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "train/1_a_o.jpg").unlink(),
            "1_a_o.jpg: no such file, also not with .jpeg, .png, .*, but 1_a_o.json exists; add its photo or remove it",
        ),
        (lambda folder: (folder / "train/1_a_o.PNG").touch(), "1_a_o.PNG and 1_a_o.jpg have the same name; keep one"),
        (lambda folder: (folder / "train/1_a_o.json").unlink(), "1_a_o.json: no such file"),
        (lambda folder: (folder / "train/1_a_o.jpg").write_bytes(b""), "1_a_o.jpg cannot be read"),
        (lambda folder: cut_off(folder / "train/1_a_o.jpg"), "1_a_o.jpg cannot be read"),
        (spoil(text=["who?", "a \ud83d"]), "1_a_o.json: .*half of a character"),
        (lambda folder: (folder / "train/1_a_o.json").write_bytes(b"{"), "1_a_o.json cannot be read as JSON"),
        (lambda folder: (folder / "train/1_a_o.json").write_bytes(b'"\x81"'), "1_a_o.json cannot be read as JSON"),
        (lambda folder: (folder / "train/1_a_o.json").write_bytes(b"[]"), "1_a_o.json: has no text"),
        (spoil(is_sentence=...), "has no is_sentence"),
        (spoil(is_sentence="yes"), "is_sentence must be true or false, got 'yes'"),
        (spoil(text=[]), "text must be a list of questions that are not empty"),
        (spoil(text=["who?", " "]), "text must be a list of questions that are not empty"),
        (spoil(shapes={}), "shapes must be a list"),
        (spoil(shapes=[]), "the mask of its 0 shapes is empty"),
        (spoil(shapes=[shape("ignore", WHOLE)]), "the mask of its 1 shapes is empty"),
        (spoil(shapes=[shape("target", WHOLE, "circle")]), "shape 0 .*shape_type must be 'polygon', got 'circle'"),
        (spoil(shapes=[shape("target", [])]), "shape 0 .*points must be a list of .x, y. in pixels"),
        (spoil(shapes=[shape("target", [[1, 2, 3]])]), "shape 0 .*points must be a list of .x, y. in pixels"),
        (spoil(shapes=[shape("target", [[1, float("nan")]])]), "shape 0 .*points must be a list of .x, y. in pixels"),
        (spoil(shapes=[shape("target", [[0, 0], [0, 11.5], [5, 5]])]), "shape 0 .*y from 0 to 11.5.*12 x 8"),
        (spoil(shapes=[shape(None, WHOLE)]), "shape 0 .*label must be a text, got None"),
        (spoil(shapes=[7]), "shape 0 .*no label"),
    ],
)
def test_bad_file_is_refused_or_skipped_with_max_bad(root, change, message, caplog):
    change(root / FOLDER)
    with pytest.raises(ValueError, match=message) as caught:
        load_rows("reason_seg", "train", str(root))
    assert "1_a_o" in str(caught.value) and "\n" not in str(caught.value)
    rows = load_rows("reason_seg", "train", str(root), {"max_bad": 1})
    assert [row["source"] for row in rows] == ["reason_seg/train/2.b_o"] and "skipped: " in caplog.text


def test_shapes_are_relative_to_the_upright_photo(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    write(root, "val/3_c_o", ["who?"], True, [shape("target", [[0, 0], [3, 0], [3, 11], [0, 11]])], exif=exif)
    [sample] = EvaluationQuestions(load_rows("reason_seg", "validation", str(root)), with_conversations=False)
    assert sample["image"].size == (8, 12) and sample["masks"][0].shape == (1, 12, 8)
    assert sample["masks"][0][0, :, :4].all() and not sample["masks"][0][0, :, 4:].any()


def test_changed_file_is_prepared_again(root):
    load_rows("reason_seg", "train", str(root))
    spoil(text=["who?"])(root / FOLDER)
    assert load_rows("reason_seg", "train", str(root))[0]["targets"][0]["texts"] == ["who?"]


def test_missing_files_are_refused_with_download_instructions(tmp_path):
    with pytest.raises(ValueError, match="reason_seg/ReasonSeg: no such folder.*train, val, test and explanatory"):
        load_rows("reason_seg", "train", str(tmp_path))
    (tmp_path / FOLDER).mkdir(parents=True)
    with pytest.raises(ValueError, match="its folders train, val, test contain no photos"):
        load_rows("reason_seg", "train", str(tmp_path))


# Drawn by polylines of thickness 1 and fillPoly of OpenCV 4.14. The second polygon exceeds the image on the right.
DRAWN = {
    ((2, 2), (8, 1), (10, 7), (3, 10)): """
        ............
        ......###...
        ..#######...
        ..########..
        ..########..
        ..########..
        ..#########.
        ...########.
        ...######...
        ...####.....
        ...##.......
        ............""",
    ((2, 1), (12, 5), (5, 10)): """
        ............
        ..##........
        ..####......
        ...#####....
        ...#######..
        ...#########
        ....#######.
        ....######..
        ....#####...
        .....##.....
        .....#......
        ............""",
}


@pytest.mark.parametrize("points", DRAWN)
def test_polygons_are_equal_to_those_of_opencv(points):
    expected = [[pixel == "#" for pixel in row] for row in DRAWN[points].split()]
    assert np.array_equal(fill_polygon(np.array(points), (12, 12)), expected)


@pytest.mark.parametrize(("points", "pixels"), [([[3, 4]], 1), ([[3, 4], [6, 4]], 4), ([[20, 3], [22, 4], [21, 5]], 0)])
def test_dots_and_lines_are_drawn_and_shapes_outside_the_image_are_not(points, pixels):
    assert fill_polygon(np.array(points), (12, 12)).sum() == pixels


def test_all_rows_are_valid_and_dataset_info_has_license_homepage_and_citation(root):
    for split in ("train", "validation", "test"):
        for row in load_rows("reason_seg", split, str(root)):
            check_row(row)
    info = ReasonSeg(config_name="default", data_dir=".").info
    assert info.license and info.homepage and info.citation


@pytest.mark.skipif(not (SAMPLES / "reason_seg").is_dir(), reason=f"no real samples: {SAMPLES}")
def test_masks_of_the_real_samples_have_the_known_areas(tmp_path, caplog):
    sizes = {"199953_df81ec489c_o": (1024, 768), "3417356_b6f97b6b6e_o": (2048, 1365)}  # sizes of the original photos
    folder = tmp_path / FOLDER / "val"
    folder.mkdir(parents=True)
    for stem, size in sizes.items():
        (folder / f"{stem}.json").write_bytes((SAMPLES / FOLDER / "val" / f"{stem}.json").read_bytes())
        Image.new("L", size).save(folder / f"{stem}.jpg")
    rows = load_rows("reason_seg", "validation", str(tmp_path))
    [ball], [ship] = (row["targets"] for row in rows)
    assert decode_mask(ball["masks"][0], "").sum() == 10_672 and ball["ignore"] is None
    assert decode_mask(ship["masks"][0], "").sum() == 117_027 and decode_mask(ship["ignore"], "").sum() == 67_439
    assert ship["texts"] == ["the source of power for the ship"] and not ship["is_sentence"]
    assert "skipped shapes labelled flag (1)" in caplog.text


@pytest.mark.skipif(not (SAMPLES / "reason_seg").is_dir(), reason=f"no real samples: {SAMPLES}")
def test_real_explanations_are_added_to_their_photos(root):
    write(root, "train/36110689_9cbbccb36a_o", ["what blocks the sun?"], True, [shape("target", WHOLE)])
    content = (SAMPLES / FOLDER / "explanatory/train.json").read_bytes()
    (root / FOLDER / "explanatory/train.json").write_bytes(content)
    [target] = load_rows("reason_seg", "train", str(root))[2]["targets"]
    assert target["texts"][1].startswith("From the given descriptions") and "sunglasses" in target["explanation"]
