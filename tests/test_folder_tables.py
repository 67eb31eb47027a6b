"""The questions beside a user's own photos."""

import json
import unicodedata

import pytest
from own_folder import areas, load, mask, numbers, photo, refusal, write

from gemma_lisa.datasets_builder.questions import TrainingQuestions

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.fixture
def asked(root):
    """Two photos; the first shows a cat and a dog."""
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
def test_every_question_is_a_target_of_its_picture(asked, kind):
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
    assert len(TrainingQuestions(rows, 0, 9)[1]["chats"]) == 3


def test_without_a_column_of_masks_a_question_asks_for_what_its_picture_marks(root):
    for stem, rows in (("1", slice(0, 1)), ("2", slice(0, 0))):
        photo(root, f"{stem}.jpg")
        mask(root, f"{stem}.png", numbers(n255=rows))
    write(root, "questions.csv", "image,question\n1.jpg,What holds coffee?\n2.jpg,What holds tea?\n")
    rows = load(root)
    assert [areas(row) for row in rows] == [{"What holds coffee?": 8}, {"What holds tea?": None}]


def test_pictures_of_which_nothing_is_asked_are_left_out_and_counted(asked, caplog):
    write(asked, "questions.csv", "image,question,class\n1.jpg,the cat,cat\n")
    assert len(load(asked)) == 1
    assert "left out 1 pictures of which nothing is asked" in caplog.text and "2.png" in caplog.text


def test_masks_that_questions_name_need_no_picture_of_their_name(root):
    photo(root, "1.jpg")
    mask(root, "masks/a/cup.png", numbers(n255=slice(0, 1)))
    mask(root, "saucer.png", numbers(n255=slice(0, 2)))
    write(root, "questions.csv", "image,question,mask\n1,the cup,a/cup.png\n1,the saucer,masks\\saucer.png\n")
    assert areas(load(root)[0]) == {"the cup": 8, "the saucer": 16}
    write(root, "questions.csv", "image,question,mask,class\n1,the cup,a/cup.png,cup\n1,the saucer,masks/saucer.png,\n")
    assert areas(load(root)[0]) == {"the cup": 8, "the saucer": 16}


def test_a_name_that_a_mac_decomposed_is_found(root):
    name = "Bär が"
    photo(root, f"{unicodedata.normalize('NFD', name)}.jpg")
    mask(root, f"{unicodedata.normalize('NFC', name)}.png", numbers(n1=slice(0, 1)))
    write(root, "questions.csv", f"image,question\n{unicodedata.normalize('NFC', name)}.jpg,the bear\n")
    assert areas(load(root)[0]) == {"the bear": 8}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("3.jpg,the cat,,cat,", "questions.csv line 2: no picture is called '3.jpg'; write its name as in images/"),
        ("1.jpg,the cow,,cow,", "questions.csv line 2: 1.jpg: no 'cow' is marked in it, but cat, dog; leave mask and"),
        ("2.png,the cat,,cat,", "images/2.png: has no mask; draw masks/2.png"),
        ("1.jpg,the cat,no.png,,", "line 2: there is no mask 'no.png'; write its path as seen from"),
        ("1.jpg,the cat,../../no.png,,", "line 2: file_name '../../no.png' leads out of"),
        ("2.png,the cat,drawn/chair.png,cat,", "line 2: chair.png: no 'cat' is marked in it, .*leave class empty if"),
        ("1.jpg,the cat,,cat,There it is.", r"line 2: its answer 'There it is.' has 0 \{seg\} for 1 masks"),
        ("1.jpg,the cow,,,It is {seg}.", r"line 2: its answer .* has 1 \{seg\} for 0 masks"),
        ("1.jpg,the cat,,cat,It is [SEG].", r"line 2: its answer .*write \{seg\} where"),
        ("1.jpg,the cat,,cat,\n1.jpg,the cat,,dog,", "line 3: asks 'the cat' of 1.jpg as .* line 2 does; unite"),
        ("1.jpg,,,cat,", "line 2: its question is empty"),
        ("1.jpg,the cat,,cat", "line 2: has 4 cells, but the first line has 5"),
        ('1.jpg,"the cat,,cat,', "line 2: is no CSV"),
        ("", "questions.csv: holds no question"),
    ],
)
def test_what_is_wrong_with_a_question_is_said_with_its_line(asked, line, said):
    write(asked, "questions.csv", f"image,question,mask,class,answer\n{line}\n")
    with pytest.raises(ValueError, match=said) as refused:
        load(asked)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("questions.csv", "image,question,masc\n1.jpg,a,b\n", "line 1: no column is called 'masc'; there are: image,"),
        ("questions.csv", "image,mask\n1.jpg,a\n", "line 1: the column question is missing"),
        ("questions.csv", "image,question,class,label\n1.jpg,a,b,c\n", "line 1: a column is there twice"),
        ("questions.csv", "image,question,split\n1.jpg,a,exam\n", "line 2: its split is 'exam'; take train"),
        ("questions.csv", "image,question\n1.jpg,the two\n", "line 2: 1.jpg shows cat, dog; say in a column class"),
        ("questions.jsonl", '{"image": "1.jpg", "question": 3}\n', "line 1: is no object of texts"),
        ("questions.jsonl", "[]\n", "line 1: is no object of texts"),
        ("questions.jsonl", "\n{\n", "line 2: is no JSON"),
        ("questions.jsonl", '{"image": "1.jpg"}\n', "line 1: the column question is missing"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_line(asked, name, content, said):
    write(asked, name, content)
    assert f"{name} {said}" in refusal(asked)


def test_a_table_that_is_not_utf_8_or_there_twice_is_refused(asked):
    write(asked, "questions.csv", "image,question\n1.jpg,die Tür\n", "cp1252")
    assert 'questions.csv is not UTF-8; save it as "CSV UTF-8"' in refusal(asked)
    write(asked, "questions.jsonl", "")
    assert "questions.csv and questions.jsonl are both there; keep one" in refusal(asked)
