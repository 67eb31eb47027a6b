"""The questions about a user's own photos."""

import json
import unicodedata

import numpy as np
import pytest
from own_folder import areas, load, mask, numbers, photo, refusal, write
from PIL import Image

from gemma_lisa.datasets_builder.mixture import builder_of, make_rows
from gemma_lisa.datasets_builder.questions import TrainingQuestions

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.fixture
def asked(root):
    """Return a folder of two photos; the first has a cat and a dog."""
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3)))
    photo(root, "2.png")
    mask(root, "drawn/chair.png", numbers(n255=slice(0, 4)))
    write(root, "classes.txt", "cat\ndog\n")
    return root


QUESTIONS = [
    {"image": "1.jpg", "question": "Who purrs?", "class": "Cat", "answer": "It is {seg}.", "explanation": "Cats purr."},
    {"image": "images/1.jpg", "question": "the barking one", "class": "dog"},
    {"image": "2", "question": "What, here, could one sit on?", "mask": "drawn/chair.png"},
    {"image": "2.png", "question": "the dog"},
    {"image": "2.png", "question": "What color is the wall?", "answer": "Red."},
]


def table(questions, delimiter):
    columns = ["image", "question", "mask", "class", "answer", "explanation"]
    lines = [[f'"{question.get(column, "")}"' for column in columns] for question in questions]
    return "\r\n".join(delimiter.join(cells) for cells in [columns, *lines]) + "\r\n"


@pytest.mark.parametrize("kind", ["csv", "csv;", "csv\t", "jsonl"])
def test_every_question_is_a_target_of_its_photo(asked, kind):
    if kind == "jsonl":
        write(asked, "questions.jsonl", "".join(json.dumps(question) + "\n" for question in QUESTIONS))
    else:
        write(asked, "questions.csv", table(QUESTIONS, kind[3:] or ","), "utf-8-sig")
    rows = load(asked)
    assert areas(rows[0]) == {"Who purrs?": 8, "the barking one": 16}
    first, second = rows[0]["targets"]
    assert (first["is_sentence"], first["answer"], first["explanation"]) == (True, "It is {seg}.", "Cats purr.")
    assert (second["is_sentence"], second["answer"], second["explanation"]) == (False, None, None)
    assert areas(rows[1]) == {"What, here, could one sit on?": 32, "the dog": None}
    assert rows[1]["conversation"] == [{"question": "What color is the wall?", "answer": "Red."}]
    assert len(TrainingQuestions(rows, 0, 9)[1]["conversations"]) == 3


def test_without_a_mask_column_a_question_asks_for_the_mask_of_its_photo(root):
    for stem, rows in (("1", slice(0, 1)), ("2", slice(0, 0))):
        photo(root, f"{stem}.jpg")
        mask(root, f"{stem}.png", numbers(n255=rows))
    write(root, "questions.csv", "image,question\n1.jpg,What holds coffee?\n2.jpg,What holds tea?\n")
    rows = load(root)
    assert [areas(row) for row in rows] == [{"What holds coffee?": 8}, {"What holds tea?": None}]


def test_photos_without_a_question_are_skipped_and_counted(asked, caplog):
    write(asked, "questions.csv", "image,question,class\n1.jpg,the cat,cat\n")
    assert len(load(asked)) == 1
    assert "skipped photos without a question (1)" in caplog.text and "2.png" in caplog.text


def test_masks_named_in_questions_need_no_photo_with_their_name(root):
    photo(root, "1.jpg")
    mask(root, "masks/a/cup.png", numbers(n255=slice(0, 1)))
    mask(root, "saucer.png", numbers(n255=slice(0, 2)))
    write(root, "questions.csv", "image,question,mask\n1,the cup,a/cup.png\n1,the saucer,masks\\saucer.png\n")
    assert areas(load(root)[0]) == {"the cup": 8, "the saucer": 16}
    write(root, "questions.csv", "image,question,mask,class\n1,the cup,a/cup.png,cup\n1,the saucer,masks/saucer.png,\n")
    assert areas(load(root)[0]) == {"the cup": 8, "the saucer": 16}


def test_a_name_decomposed_by_macos_is_found(root):
    name = "Bär が"
    photo(root, f"{unicodedata.normalize('NFD', name)}.jpg")
    mask(root, f"{unicodedata.normalize('NFC', name)}.png", numbers(n1=slice(0, 1)))
    write(root, "questions.csv", f"image,question\n{unicodedata.normalize('NFC', name)}.jpg,the bear\n")
    assert areas(load(root)[0]) == {"the bear": 8}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("3.jpg,the cat,,cat,", "questions.csv line 2: there is no photo '3.jpg'; write its file name as in images/"),
        (
            "1.jpg,the cow,,cow,",
            "questions.csv line 2: 1.jpg: 'cow' is not marked in it, only cat, dog; leave mask and",
        ),
        ("2.png,the cat,,cat,", "images/2.png: the photo has no mask; add masks/2.png"),
        ("1.jpg,the cat,no.png,,", "line 2: there is no mask 'no.png'; write its path relative to"),
        ("1.jpg,the cat,../../no.png,,", "line 2: file_name '../../no.png' is outside of"),
        ("2.png,the cat,drawn/chair.png,cat,", "line 2: chair.png: 'cat' is not marked in it, .*leave class empty to"),
        (
            "1.jpg,the cat,,cat,There it is.",
            r"line 2: the answer 'There it is.' has 0 \{seg\}, but the question has 1 mask;",
        ),
        ("1.jpg,the cow,,,It is {seg}.", r"line 2: the answer .* has 1 \{seg\}, but the question has 0 masks"),
        ("1.jpg,the cat,,cat,It is [SEG].", r"line 2: the answer .*write \{seg\} once for each mask"),
        (
            "1.jpg,the cat,,cat,\n1.jpg,the cat,,dog,",
            "line 3: 'the cat' is already asked about 1.jpg in .* line 2; merge",
        ),
        ("1.jpg,,,cat,", "line 2: the column question is empty"),
        ("1.jpg,the cat,,cat", "line 2: 4 cells, but the first line has 5; put cells that contain ','"),
        ('1.jpg,"the cat,,cat,', "line 2: not valid CSV"),
        ("", "questions.csv: the file contains no questions"),
    ],
)
def test_errors_in_a_question_name_its_line(asked, line, said):
    write(asked, "questions.csv", f"image,question,mask,class,answer\n{line}\n")
    with pytest.raises(ValueError, match=said) as refused:
        load(asked)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("questions.csv", "image,question,masc\n1.jpg,a,b\n", "line 1: unknown column 'masc'; columns can be image,"),
        ("questions.csv", "image,mask\n1.jpg,a\n", "line 1: the column question is missing"),
        ("questions.csv", "image,question,class,label\n1.jpg,a,b,c\n", "line 1: a column exists twice"),
        (
            "questions.csv",
            "image,question,split\n1.jpg,a,exam\n",
            "line 2: split must be train, validation, test or empty, got 'exam'",
        ),
        ("questions.csv", "image,question\n1.jpg,the two\n", "line 2: 1.jpg has masks of cat, dog; add a column class"),
        ("questions.jsonl", '{"image": "1.jpg", "question": 3}\n', "line 1: the line must be an object of strings"),
        ("questions.jsonl", "[]\n", "line 1: the line must be an object of strings"),
        ("questions.jsonl", "\n{\n", "line 2: not valid JSON"),
        (
            "questions.jsonl",
            '{"image": "1", "image": "2"}\n',
            "line 1: not valid JSON ('image' occurs twice); write one",
        ),
        ("questions.jsonl", '{"image": "1.jpg"}\n', "line 1: the column question is missing"),
    ],
)
def test_errors_in_a_table_name_the_line(asked, name, content, said):
    write(asked, name, content)
    assert f"{name} {said}" in refusal(asked)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_line_of_excel_that_names_the_delimiter_is_supported(asked, delimiter):
    write(asked, "questions.csv", f"sep={delimiter}\r\n" + table(QUESTIONS[1:2], delimiter), "utf-8-sig")
    assert areas(load(asked)[0]) == {"the barking one": 16}
    write(asked, "questions.csv", f"sep={delimiter}\n" + table([{"image": "1.jpg"}], delimiter))
    assert "questions.csv line 3: the column question is empty" in refusal(asked)


def test_a_delimiter_that_is_not_supported_is_one_line_with_those_that_are(asked):
    write(asked, "questions.csv", "image|question\n1.jpg|the cat\n")
    said = refusal(asked)
    assert "line 1: unknown column 'image|question'" in said and "separated by commas, semicolons or tabs" in said


@pytest.mark.parametrize("word", ["{seg}", "[SEG]"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_explanation_with_a_reserved_word_is_refused(asked, word, kind):
    question = {"image": "1.jpg", "question": "Who purrs?", "class": "cat", "explanation": f"The {word} purrs."}
    content = table([question], ",") if kind == "csv" else json.dumps(question)
    write(asked, f"questions.{kind}", content)
    line = 2 if kind == "csv" else 1
    assert (
        f"questions.{kind} line {line}: explanation contains {word}, which is only allowed in the column answer"
        in refusal(asked)
    )


@pytest.mark.parametrize("name", ["Questions.csv", "QUESTIONS.CSV", "questions.JSONL"])
def test_a_table_can_have_an_upper_case_name(asked, name):
    content = json.dumps(QUESTIONS[0]) if name.lower().endswith("jsonl") else table(QUESTIONS[:1], ",")
    write(asked, name, content)
    assert areas(load(asked)[0]) == {"Who purrs?": 8}


@pytest.mark.parametrize(
    "name",
    ["questions.tsv", "question.csv", "questions.json", "questions.csv.txt", "Questions (1).csv", "questions.xlsx"],
)
def test_a_table_with_a_similar_name_is_refused(asked, name):
    mask(asked, "2.png", numbers(n1=slice(0, 1)))
    assert len(load(asked)) == 2
    write(asked, name, table(QUESTIONS[:1], ","))
    assert f"{name}: this file name is not supported; save the file as questions.csv or questions.jsonl" in refusal(
        asked
    )


BAD_LINES = """image,question,mask,class,answer,explanation,split
1.jpg,,,cat,,,
1.jpg,the cat,,cat,,
2.png,the chair,../../x.png,,,,
2.png,the stool,drawn/no.png,,,,
7.jpg,the cat,,cat,,,
1.jpg,"the "cat,,cat,,,
1.jpg,the cow,,cow,,,
1.jpg,the dog,,dog,The {seg} and {seg}.,,
1.jpg,the hound,,dog,,See {seg}.,
1.jpg,the puppy,,dog,,,exam
"""


def test_bad_lines_are_skipped_and_listed(asked):
    write(asked, "questions.csv", BAD_LINES + "1.jpg,Who barks?,,dog,,,\n2.png,What is it?,drawn/chair.png,,,,\n")
    with pytest.raises(ValueError):
        load(asked, max_bad=9)
    assert "questions.csv line 2: the column question is empty" in refusal(asked)
    rows = load(asked, max_bad=10)
    assert [areas(row) for row in rows] == [{"Who barks?": 16}, {"What is it?": 32}]
    builder = builder_of("folder", str(asked), {"max_bad": 99})
    make_rows(builder)
    listed = "\n".join(map(str, builder.bad))
    assert len(builder.bad) == 10 and all(f"questions.csv line {line}: " in listed for line in range(2, 12))


def test_a_table_with_only_bad_lines_does_not_ask_for_the_classes(asked):
    write(asked, "questions.csv", BAD_LINES)
    assert "no row" in refusal(asked, max_bad=99)


@pytest.mark.parametrize("length", [0, 1_500])
def test_a_damaged_photo_with_several_questions_is_one_error(asked, length):
    lines = ["1.jpg,the cat,cat", "2.png,the chair,", "2.png,the stool,", "2.png,the couch,"]
    write(asked, "questions.csv", "\n".join(["image,question,class", *lines]))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)  # 3 kB with any compression
    Image.fromarray(pixels).save(asked / "images/2.png")
    (asked / "images/2.png").write_bytes((asked / "images/2.png").read_bytes()[:length])
    assert "2.png cannot be read" in refusal(asked)
    assert [areas(row) for row in load(asked, max_bad=1)] == [{"the cat": 8}]


def test_bad_lines_of_jsonl_are_skipped(asked):
    half = '{"image": "1.jpg", "question": "the c\\ud83dat", "class": "cat"}'
    lines = ["{", "[]", '{"image": "1.jpg"}', half, half.replace("c\\ud83dat", "cow"), json.dumps(QUESTIONS[1])]
    write(asked, "questions.jsonl", "\n".join(lines))
    assert "questions.jsonl line 1: not valid JSON" in refusal(asked)
    assert areas(load(asked, max_bad=4)[0]) == {"the cow": 8, "the barking one": 16}
    write(asked, "questions.jsonl", half)
    assert r"questions.jsonl line 1: the column question: 'the c\ud83dat' contains half of a character" in refusal(
        asked
    )


def test_an_open_quote_is_refused_whatever_max_bad_is(asked):
    write(asked, "questions.csv", 'image,question,class\n1.jpg,"the cat,cat\n1.jpg,the dog,dog\n')
    assert "questions.csv line 2: not valid CSV" in refusal(asked, max_bad=99)
    write(asked, "questions.csv", 'image,question,class\n1.jpg,"the\ncat",cat\n1.jpg,,dog\n')
    assert "questions.csv line 4: the column question is empty" in refusal(asked)


def test_a_table_that_is_not_utf_8_or_exists_twice_is_refused(asked):
    write(asked, "questions.csv", "image,question\n1.jpg,die Tür\n", "cp1252")
    assert 'questions.csv is not UTF-8; save it as "CSV UTF-8"' in refusal(asked)
    write(asked, "questions.jsonl", "")
    assert "questions.csv and questions.jsonl both exist; keep one" in refusal(asked)
