"""Questions with ids, the fingerprint that every change changes, and the questions file."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from prediction_writers import LEFT, RIGHT, SIZE, dataset_of, png, small_benchmark, small_rows

from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import encode_mask, new_row, new_target
from gemma_lisa.evaluation import benchmark as module
from gemma_lisa.evaluation.benchmark import list_questions, manifest, questions_files, write_questions

IDS = ["small/test/1#0", "small/test/1#1", "small/test/1#2", "small/test/2.jpg#0", "small/test/3#0"]


def test_questions_are_those_that_a_model_is_asked():
    benchmark, rows = small_benchmark(True), dataset_of(small_rows())
    samples = EvaluationQuestions(rows, with_conversations=True)
    assert benchmark.ids == [question.id for question in benchmark] == IDS and len(benchmark) == len(samples) == 5
    for question, sample in zip(benchmark, samples, strict=True):
        assert (question.text, question.expected) == sample["conversations"][0].turns[0]
        assert question.source == sample["source"] and question.dataset == "small" and question.size == SIZE
    assert len(small_benchmark()) == len(EvaluationQuestions(rows, with_conversations=False)) == 4


def test_a_question_has_its_masks_and_those_of_the_other_things():
    first, second, words, plural, absent = small_benchmark(True)
    left, right = encode_mask(LEFT), encode_mask(RIGHT)
    assert (first.targets, first.others, first.kind, first.ignore) == ([left], [right], "bar", None)
    assert (second.targets, second.others, second.kind) == ([right], [left], None)
    assert (words.targets, words.others, words.expected) == (None, [], "2.")
    assert (plural.targets, plural.ignore) == ([left, right], encode_mask(1 - LEFT - RIGHT))
    assert plural.expected == "They are {seg} and {seg}."
    assert (absent.targets, absent.expected) == ([], "No, I see none.")
    assert second.names[:2] == [["the box"], ["the left bar"]] and words.names == []


def test_only_questions_for_words_have_no_masks():
    benchmark = small_benchmark(True)
    assert [benchmark.asks_for_words(index) for index in range(5)] == [False, False, True, False, False]
    assert benchmark.image(3).size == SIZE[::-1]


def changed(**changes):
    return dataset_of(small_rows(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "small/test/other"},
        {"image": {"bytes": png(7), "path": None}},
        {"targets": [new_target(["the left bar"], [encode_mask(LEFT)], kind="bar"), new_target(["it"], [])]},
        {"targets": [new_target(["the bar"], [encode_mask(LEFT)], kind="bar"), small_rows()[0]["targets"][1]]},
        {"targets": [new_target(["the left bar"], [encode_mask(LEFT)]), small_rows()[0]["targets"][1]]},
        {
            "targets": [
                new_target(["the left bar"], [encode_mask(LEFT)], kind="bar", ignore=encode_mask(RIGHT)),
                small_rows()[0]["targets"][1],
            ]
        },
        {"conversation": [{"question": "How many?", "answer": "3."}]},
    ],
)
def test_every_change_of_a_row_changes_the_fingerprint(changes):
    before = list_questions(changed(), "small", True).fingerprint
    assert re.fullmatch(r"[0-9a-f]{64}", before) and before == list_questions(changed(), "other name", True).fingerprint
    assert list_questions(changed(**changes), "small", True).fingerprint != before


def test_fewer_questions_have_another_fingerprint():
    assert small_benchmark(True).fingerprint != small_benchmark().fingerprint


def test_sources_that_repeat_are_named():
    rows = small_rows()
    with pytest.raises(
        ValueError, match=r"^small: 1 source of its rows occur twice \(small/test/3\), so their"
    ) as found:
        list_questions(dataset_of([*rows, rows[2]]), "small")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        (3, 3),
        ("small/test/1#1", 1),
        ("small/test/3", 4),
        ("3", 4),
        ("small/test/2.jpg", 3),
        ("2.jpg", 3),
        ("2", 3),
        ("2.png", 3),
        ("small/test/2", 3),
    ],
)
def test_a_question_is_named_by_its_id_number_or_only_row(name, index):
    assert small_benchmark(True).index_of(name) == index


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (5, "no question has the number 5; the 5 questions are counted from 0"),
        (-1, "no question has the number -1"),
        ("1", r"1 names 3 questions \(small/test/1#0, small/test/1#1, small/test/1#2, …\); give their ids"),
        ("small/test/1#3", "no question has the id small/test/1#3. --write_questions lists the ids"),
        ("", "no question has the id "),
    ],
)
def test_a_name_of_no_or_several_questions_is_an_error(name, problem):
    with pytest.raises(ValueError, match=problem):
        small_benchmark(True).index_of(name)


def test_a_question_for_words_is_named_as_such_if_only_masks_are_scored():
    masks_only = small_benchmark(False)
    (words,) = set(small_benchmark(True).ids) - set(masks_only.ids)
    with pytest.raises(ValueError, match=f"the question {words} asks for words, but no prediction has a text"):
        masks_only.index_of(words)


def test_a_question_is_found_by_image_and_text():
    rows = small_rows()
    rows[2]["image"] = {"bytes": png(2), "path": "dogs/photo.png"}
    benchmark = list_questions(dataset_of(rows), "small")
    assert benchmark.asked_about("somewhere/1.jpg", "the box") == 1
    assert benchmark.asked_about("photo.jpg", "the dog") == benchmark.asked_about("C:\\3.png", "the dog") == 3
    with pytest.raises(ValueError, match="no question fits the image 1 and the text 'the cat'; add the key id"):
        benchmark.asked_about("1.jpg", "the cat")
    rows[1]["source"], rows[1]["targets"] = "small/other/3", [new_target(["the dog"], [])]
    with pytest.raises(ValueError, match="2 questions fit the image 3 and the text 'the dog'"):
        list_questions(dataset_of(rows), "small").asked_about("3.jpg", "the dog")


def test_the_questions_file_has_no_answers_and_the_manifest_names_duplicates(tmp_path):
    rows = small_rows()
    benchmark = list_questions(dataset_of([*rows, {**rows[2], "source": "small/test/4"}]), "small", True)
    write_questions(benchmark, tmp_path / "questions.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert lines[2] == {
        "index": 2,
        "id": "small/test/1#2",
        "question": "How many?",
        "source": "small/test/1",
        "image": "questions.images/small%2Ftest%2F1.png",
        "size": [4, 6],
        "asks": "words",
    }
    assert [line["id"] for line in lines] == [*IDS, "small/test/4#0"] and "masks" not in lines[0]
    written = json.loads(questions_files(tmp_path / "questions.jsonl")["manifest"].read_text())
    assert written == manifest(benchmark)
    assert written["count"] == 6 and written["ids"][-1] == "small/test/4#0"
    assert written["duplicates"] == [["small/test/3#0", "small/test/4#0"]]
    assert written["fingerprint"] == benchmark.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "questions.images",
        "questions.jsonl",
        "questions.manifest.json",
    ]


def test_images_of_rows_with_bytes_are_written_once_and_never_over_other_files(tmp_path):
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "photo.png")
    rows = small_rows(image={"bytes": None, "path": str(tmp_path / "photo.png")})
    benchmark = list_questions(dataset_of(rows), "small", True)
    for _ in range(2):  # the same files again are no error
        assert write_questions(benchmark, tmp_path / "q.jsonl") == 2
    lines = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert lines[0]["image"] == lines[2]["image"] == str(tmp_path / "photo.png")
    written = tmp_path / lines[4]["image"]
    assert written.read_bytes() == png(2) and len(list(written.parent.iterdir())) == 2
    assert benchmark.asked_about(str(written), "the dog") == 4
    written.write_bytes(b"other")
    with pytest.raises(ValueError, match="small%2Ftest%2F3.png: a different file with this name exists"):
        write_questions(benchmark, tmp_path / "q.jsonl")
    assert written.read_bytes() == b"other"


def test_rows_are_checked():
    wrong = encode_mask(np.ones((6, 4), np.uint8))
    with pytest.raises(ValueError, match=r"^small/test/1: the size of its RLE is \[6, 4\] .* its image is \[4, 6\]"):
        list_questions(changed(targets=[new_target(["it"], [wrong])]), "small")[0]
    broken = {"size": list(SIZE), "counts": "P"}
    with pytest.raises(ValueError, match="^small/test/1: invalid RLE: counts are empty, truncated"):
        list_questions(changed(targets=[new_target(["it"], [broken])]), "small")[0]
    with pytest.raises(ValueError, match="a row without an image cannot have targets"):
        list_questions(changed(image=None), "small")[0]
    with pytest.raises(ValueError, match="a target has no question"):
        list_questions(changed(targets=[new_target([], [])]), "small")[0]


def test_a_text_only_question_has_no_size():
    row = new_row(None, "words/1", [], [{"question": "Why?", "answer": "So."}])
    benchmark = list_questions(dataset_of([row]), "words", True)
    assert (benchmark[0].size, benchmark.image(0), benchmark.size(0)) == (None, None, None)
    assert len(benchmark.fingerprint) == 64


@pytest.mark.parametrize("kind", ["eXIf", "text", "no"])
def test_the_size_of_a_png_is_that_of_the_upright_image(kind, monkeypatch):
    exif, info = Image.Exif(), PngInfo()
    exif[0x0112] = 6  # a quarter turn
    info.add_text("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    options = {"eXIf": {"exif": exif}, "text": {"pnginfo": info}, "no": {}}[kind]
    if kind == "no":  # the pixels are not needed
        monkeypatch.setattr(module, "lazy_image", None)
    row = new_row(png(0, **options), "turned/1", [], [{"question": "Why?", "answer": "So."}])
    benchmark = list_questions(dataset_of([row]), "turned", True)
    assert benchmark.size(0) == (SIZE if kind == "no" else SIZE[::-1])
