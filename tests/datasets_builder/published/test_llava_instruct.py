"""LLaVA-Instruct in its original layout: small files made here, and the real sample if available."""

import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.published import llava_instruct
from gemma_lisa.datasets_builder.published.llava_instruct import LlavaInstruct
from gemma_lisa.datasets_builder.questions import EvaluationQuestions

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "samples"


pytestmark = pytest.mark.usefixtures("own_cache")


def turns(*values):
    """Return alternating turns by human and gpt."""
    return [{"from": ("human", "gpt")[at % 2], "value": value} for at, value in enumerate(values)]


def write(root, name, records):
    (root / "llava_dataset").mkdir(parents=True, exist_ok=True)
    (root / "llava_dataset" / name).write_text(
        json.dumps(records, ensure_ascii=False).replace("\\\\ud83d", "\\ud83d"), encoding="utf-8"
    )


def photo(root, path):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(root / path)


def record(number, image, conversations):
    return {"id": number, "image": image, "conversations": conversations}


BUS = record("000000000009", "000000000009.jpg", turns("<image>\nWhich color?", "White.", "Where?", "Here, in Zürich."))
SAME = record("000000000009", "000000000009.jpg", turns("What is behind it?\n<image>", "A street."))
LATE = record("000000000025", "000000000025.jpg", turns("And now look at <image> again.", "I do."))
LATE["conversations"].insert(0, {"from": "gpt", "value": "Hello."})


@pytest.fixture
def root(tmp_path):
    """Return a data folder with three conversations about two photos."""
    root = tmp_path / "data"
    for number in (9, 25):
        photo(root, f"coco/train2017/{number:012d}.jpg")
    write(root, "llava_instruct_150k.json", [BUS, SAME, LATE])
    return root


def test_row_is_a_conversation_without_image_slots(root, caplog):
    rows = load_rows("llava_instruct", "train", str(root))
    assert rows["source"] == [
        f"llava_instruct/train/{name}" for name in ("000000000009-0", "000000000009-1", "000000000025-2")
    ]
    assert rows[0]["conversation"] == [
        {"question": "Which color?", "answer": "White."},
        {"question": "Where?", "answer": "Here, in Zürich."},
    ]
    assert rows[1]["conversation"] == [{"question": "What is behind it?", "answer": "A street."}]
    assert rows[0]["image"] == {"bytes": None, "path": str(root / "coco/train2017/000000000009.jpg")}
    assert [row["targets"] for row in rows] == [[], [], []]
    sample = EvaluationQuestions(rows, with_conversations=True)[0]
    assert sample["image"].size == (8, 6) and sample["masks"] == [None]


def test_answer_before_the_first_question_is_skipped_and_counted(root, caplog):
    rows = load_rows("llava_instruct", "train", str(root))
    assert rows[2]["conversation"] == [{"question": "And now look at again.", "answer": "I do."}]
    [warning] = [line for line in caplog.messages if "answers before the first question" in line]
    assert (
        "skipped answers before the first question (1)" in warning
        and "record 2 (counted from 0), id 000000000025" in warning
    )


def test_photos_of_mix665k_are_relative_to_the_data_folder_and_some_rows_have_none(root, caplog):
    photo(root, "vg/VG_100K/2.jpg")
    photo(root, "ocr_vqa/images/2.jpg")
    no_photo = {"id": "sharegpt_0", "model": "", "conversations": turns("What does `docker run <image>` do?", "Run.")}
    only_gpt = {"id": "sharegpt_1", "conversations": [{"from": "gpt", "value": "Hello."}]}
    paths = ["coco/train2017/000000000009.jpg", "vg/VG_100K/2.jpg", "ocr_vqa/images/2.jpg"]
    records = [record(at, path, turns("Who?\n<image>", "I.")) for at, path in enumerate(paths)]
    write(root, "llava_v1_5_mix665k.json", [*records, no_photo, only_gpt])
    rows = load_rows("llava_instruct/mix665k", "train", str(root))
    assert [row["image"] and row["image"]["path"] for row in rows] == [*(str(root / path) for path in paths), None]
    assert rows[3]["source"] == "llava_instruct/train/sharegpt_0-3"
    assert rows[3]["conversation"][0]["question"] == "What does `docker run <image>` do?"
    assert EvaluationQuestions(rows, with_conversations=True)[3]["image"] is None
    assert "skipped records without a question (1)" in caplog.text


def test_folder_of_photos_is_listed_once(root, monkeypatch):
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(
        "gemma_lisa.datasets_builder.published.llava_instruct.os.listdir",
        lambda path: listed.append(str(path)) or listdir(path),
    )
    load_rows("llava_instruct", "train", str(root))
    assert listed.count(str(root / "coco/train2017")) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            record("7", "000000000007.jpg", turns("Who?", "I.")),
            "record 1 .*id 7: .*train2017/000000000007.jpg: no such",
        ),
        (record("7", "../../../secret.jpg", turns("Who?", "I.")), "id 7: .*is outside of"),
        (record("7", ["a.jpg"], turns("Who?", "I.")), "id 7: image must be the path of an image file, got"),
        (record("7", "", turns("Who?", "I.")), "id 7: image must be the path of an image file, got ''"),
        (
            record("7", "000000000009.jpg", turns("Who?", "I.", "Who else?")),
            "id 7: its turns must alternate between human and gpt, got human, gpt, human",
        ),
        (record("7", "000000000009.jpg", turns("Who?", "I.")[::-1] + turns("A?")[:1]), "id 7: .*got human, human"),
        (record("7", "000000000009.jpg", [{"from": "system", "value": "x"}]), "id 7: .*got system"),
        (record("7", "000000000009.jpg", turns("<image>\n", "I.")), "id 7: a question or an answer is empty"),
        (record("7", "000000000009.jpg", turns("Who?", "It is [SEG].")), r"id 7: an answer contains \[SEG\]"),
        (record("7", "000000000009.jpg", turns("Who?", "It is {seg}.")), r"id 7: an answer contains \{seg\}"),
        (record("7", "000000000009.jpg", "Who?"), "id 7: conversations must be a list of .*got 'Who"),
        (record("7", "000000000009.jpg", [{"from": "human"}]), "id 7: conversations must be a list of"),
        (
            {"id": "7", "conversations": turns("<image>\nWho?", "I.")},
            "id 7: its questions contain <image>, but it has no image",
        ),
        (record("7", None, turns("Who?", "I.", "And there?\n<image>", "He.")), "id 7: .*it has no image"),
        (record("7", "cut.jpg", turns("Who?", "I.")), "id 7: the image .*cut.jpg cannot be read"),
        (record("7", "empty.jpg", turns("Who?", "I.")), "id 7: the image .*empty.jpg cannot be read"),
        (
            record("7", "000000000009.jpg", turns("Who?", "\\ud83d")),
            r"record 1 .*'\\ud83d' contains half of a character",
        ),
        ({"conversations": []}, "record 1 .*has no id"),
        (None, "record 1 .*has no id"),
    ],
)
def test_bad_record_is_refused_or_skipped_with_max_bad(root, bad, message, caplog):
    whole = (root / "coco/train2017/000000000009.jpg").read_bytes()
    for name, size in (("cut", len(whole) - 20), ("empty", 0)):
        (root / f"coco/train2017/{name}.jpg").write_bytes(whole[:size])
    write(root, "llava_instruct_150k.json", [BUS, bad, LATE])
    with pytest.raises(ValueError, match=f"llava_instruct_150k.json: .*{message}") as refusal:
        load_rows("llava_instruct", "train", str(root))
    assert "\n" not in str(refusal.value)
    assert len(load_rows("llava_instruct", "train", str(root), {"max_bad": 1})) == 2
    assert f"skipped: {str(refusal.value).partition(' To skip')[0]}" in caplog.text


@pytest.mark.parametrize("content", ['{"id": "7"}', "[", ""], ids=["not a list", "truncated", "empty"])
def test_invalid_file_is_refused_with_its_name(root, content):
    (root / "llava_dataset/llava_instruct_150k.json").write_text(content)
    with pytest.raises(ValueError, match="llava_instruct_150k.json.*download .*again"):
        load_rows("llava_instruct", "train", str(root))


def test_missing_files_are_refused_with_download_instructions(root, tmp_path):
    with pytest.raises(ValueError, match="llava_dataset: no such folder.*llava_instruct_150k.json"):
        load_rows("llava_instruct", "train", str(tmp_path))
    with pytest.raises(ValueError, match="llava_v1_5_mix665k.json: no such file.*gqa/images"):
        load_rows("llava_instruct/mix665k", "train", str(root))


def test_changed_files_and_photos_are_prepared_again(root):
    write(root, "llava_instruct_150k.json", [BUS, record("1", "1.jpg", turns("Who?", "I."))])
    assert len(load_rows("llava_instruct", "train", str(root), {"max_bad": 1})) == 1
    photo(root, "coco/train2017/1.jpg")
    assert len(load_rows("llava_instruct", "train", str(root), {"max_bad": 1})) == 2
    write(root, "llava_instruct_150k.json", [BUS])
    assert len(load_rows("llava_instruct", "train", str(root), {"max_bad": 1})) == 1


@pytest.mark.skipif(not (SAMPLES / "llava_dataset").is_dir(), reason=f"no real samples: {SAMPLES}")
def test_real_sample_has_three_turns_about_a_bus(root):
    content = (SAMPLES / "llava_dataset/llava_instruct_150k.EXCERPT.json").read_bytes()
    (root / "llava_dataset/llava_instruct_150k.json").write_bytes(content)
    photo(root, "coco/train2017/000000033471.jpg")
    [row] = load_rows("llava_instruct", "train", str(root))
    assert row["source"] == "llava_instruct/train/000000033471-0"
    assert row["conversation"][0] == {
        "question": "What are the colors of the bus in the image?",
        "answer": "The bus in the image is white and red.",
    }
    assert len(row["conversation"]) == 3


def test_published_sizes_depend_on_the_configuration():
    archives = [LlavaInstruct(config_name=name, data_dir=".").ARCHIVE for name in ("150k", "mix665k")]
    assert [archive.sizes for archive in archives] == [{"train": 157_712}, {"train": 665_298}]
    assert archives[0].unit == "records"


def test_dataset_info_has_license_homepage_and_citation():
    info = LlavaInstruct(config_name="150k", data_dir=".").info
    assert "CC-BY-4.0" in info.license and info.homepage and info.citation


@pytest.mark.parametrize("slot", ["<image>", "<image><image>", "<image> <image>\n", "x"])
@pytest.mark.parametrize("around", ["", " ", "\n", " \n ", "a", "a\nb "])
def test_image_slots_are_removed_with_the_spaces_around_them(around, slot):
    for text in (around + slot, slot + around, around + slot + around):
        assert llava_instruct._without_slot(text) == re.sub(r"\s*<image>\s*", " ", text)
        on_a_line = re.match(r"\s*<image>\s*\n|.*\n\s*<image>\s*$", text, re.DOTALL)
        assert llava_instruct._has_slot_line(text) == (on_a_line is not None), repr(text)


def test_text_of_many_spaces_takes_linear_time():
    for text in (" " * 10**6, "\n" * 10**6, " \n" * 10**6 + "<image>"):
        llava_instruct._without_slot(text)
        llava_instruct._has_slot_line(text)
