"""Class names of the numbers in a user's masks: from a file or the option."""

import pytest
from own_folder import areas, load, mask, numbers, photo, refusal, write

from gemma_lisa.datasets_builder.rows import decode_mask

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # raised inside pycocotools
]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "coffee_cup\ndog\n"),
        ("classes.txt", "_background_\ncoffee_cup\ndog\n"),
        ("classes.txt", "__ignore__\n_background_\ncoffee_cup\ndog\n"),
        ("classes.txt", "0: background\n2: dog\n1: coffee cup\n"),
        ("masks/classes.json", '{"1": "coffee cup", "2": "dog"}'),
        ("classes.json", '{"background": 0, "coffee_cup": 1, "dog": 2}'),
        ("classes.json", '["coffee cup", "dog"]'),
        ("classes.yaml", "1: coffee cup\n2: dog\n"),
        ("classes.txt", "\ufeff0 background\r\n1 coffee cup\r\n2 dog\r\n"),
        ("classes.txt", "1. coffee cup\n\n2.dog\n"),
        ("classes.txt", "1) coffee cup\n2 - dog\n"),
        ("classes.txt", "1,coffee cup\n2, dog\n"),
        ("classes.txt", "01;coffee cup\n2 ; dog\n"),
        ("classes.txt", "1\tcoffee cup\n2=dog\n"),
        ("classes.txt", "coffee cup: 1\ndog,2\n"),
        ("classes.yml", "- background\n- coffee cup\n- dog\n"),
        (None, {"1": "coffee cup", "2": "dog"}),
        (None, ["coffee cup", "dog"]),
    ],
)
def test_class_names_come_from_a_file_or_the_option(root, name, text):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3), n255=slice(5, 6)))
    if name:
        write(root, name, text)
    [row] = load(root, **({} if name else {"classes": text}))
    assert areas(row) == {"the coffee cup": 8, "the dog": 16}
    assert [decode_mask(target["ignore"], "").sum() for target in row["targets"]] == [8, 8]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("7up\nA4 sheet, white\nbus 3\n", ["7up", "A4 sheet, white", "bus 3"]),
        ("1: 3 wheeler\n2: label\n3: a, b\n", ["3 wheeler", "label", "a, b"]),
        ("class 1\nclass 2\nclass\n", ["class 1", "class 2", "class"]),
        ("1. dog\n2. St. Bernard\n3. cat\n", ["dog", "St. Bernard", "cat"]),
        ("1) dog\n2) dog (small)\n3) cat\n", ["dog", "dog (small)", "cat"]),
    ],
)
def test_names_that_contain_numbers_are_kept(root, text, names):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3), n3=slice(3, 6)))
    write(root, "classes.txt", text)
    assert list(areas(load(root)[0])) == [f"the {name}" for name in names]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "1: cat\ndog\n",
            "line 2: it is not clear whether 'dog' starts or ends with a class number; write a number and a name",
        ),
        (
            "cat\n\n3 wheeler\n",
            "line 3: it is not clear whether '3 wheeler' starts or ends with a class number; .*`1: cat`",
        ),
        (f"1: cat\n1{chr(9) * 10**5}x\n", "line 2: the line has 100,002 characters"),
        ("cat: 1\ndog\n", "line 2: it is not clear whether 'dog'"),
        ("1: cat\n2:\n", "line 2: it is not clear whether '2:'"),
        ("1.5 litre bottle\n2.5 litre bottle\n", "line 1: it is not clear whether '1.5 litre bottle'"),
        ("0 1 cat\n1 2 dog\n", "line 1: it is not clear whether '0 1 cat'"),
        ("1,cat,255,0,0\n", "line 1: it is not clear whether '1,cat,255,0,0'"),
        ("1\tcat\tred\n", r"line 1: it is not clear whether '1\\tcat\\tred'"),
        ("1\n2\n", "line 1: it is not clear whether '1'"),
        ("3-wheeler\ncat\n", "line 1: it is not clear whether '3-wheeler'"),
        ("# classes\ncat\ndog\n", "line 1: '# classes' looks like a comment, a heading or another format; remove it"),
        ("1 cat\n// dogs\n2 dog\n", "line 2: '// dogs' looks like"),
        ("id,name\n1,cat\n", "line 1: 'id,name' looks like"),
        ('1,"cat"\n', "line 1: it is not clear whether '1,\"cat\"'"),
        ("Class_Name\ncat\n", "line 1: 'Class_Name' looks like"),
        ("1: cat\n2: dog\n01 cow\n", "line 3: the number 1 is also in line 1"),
        ("cat: 1\ndog: 1\n", "line 2: the number 1 is also in line 1"),
    ],
)
def test_an_ambiguous_line_of_classes_txt_is_refused(root, text, said):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3)))
    write(root, "classes.txt", text)
    with pytest.raises(ValueError, match=f"classes.txt {said}") as refused:
        load(root)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "classes.json",
            '{"1": "cat", "01": "dog"}',
            "two classes have the number 1; each class needs a different number",
        ),
        ("classes.json", '{"1": "cat", "1": "dog"}', "cannot be read ('1' occurs twice)"),
        ("classes.json", '{"cat": 1, "dog": 1}', "two classes have the number 1"),
        ("classes.json", '["0 background", "1 cat"]', "the name '0 background' starts with a number"),
        ("classes.json", '{"1": "c\\ud83dat"}', r"'c\ud83dat' contains half of a character"),
        ("classes.json", '{"1e": "cat"}', "'1e': 'cat' is not a number and a name"),
        ("classes.json", f'{{"{"1" * 5000}": "cat"}}', "is not a number and a name"),
        ("classes.json", '{"1": true}', "'1': True is not a number and a name"),
        ("classes.yaml", "1: cat\n2: dog\n1: cow\n", "cannot be read ('1' occurs twice)"),
    ],
)
def test_errors_in_classes_name_the_file(root, name, text, said):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3)))
    write(root, name, text)
    assert name in (refused := refusal(root)) and said in refused


@pytest.mark.parametrize("name", ["Classes.txt", "CLASSES.TXT", "masks/Classes.TXT"])
def test_a_classes_file_can_have_an_upper_case_name(root, name):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    write(root, name, "cat\n")
    assert areas(load(root)[0]) == {"the cat": 8}
    write(root, name, "dog\n")
    assert areas(load(root)[0]) == {"the dog": 8}
    write(root, name.lower(), "cat\n")
    assert "both exist; keep one" in refusal(root)


@pytest.mark.parametrize("name", ["class.txt", "classes.csv", "masks/classes.txt.txt", "classes (1).txt"])
def test_a_classes_file_with_a_similar_name_is_refused(root, name):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    assert areas(load(root, text="the mug")[0]) == {"the mug": 8}
    write(root, name, "cat\n")
    said = refusal(root, text="the mug")
    assert f"{name}: this file name is not supported; save the file as classes.json or classes.txt or" in said


@pytest.mark.parametrize(("name", "text"), [("classes.json", "{"), ("classes.yaml", "a: ["), ("classes.txt", "")])
def test_an_empty_classes_file_is_refused(root, name, text):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    write(root, name, text)
    assert name in (said := refusal(root)) and "write one line `1: cat` for each" in said


@pytest.mark.parametrize("text", ["mug,255,0,0\n", "mug 255 0 0\nplate 0 255 0\n", "mug:255,0,0::\nplate:0,255,0::\n"])
def test_a_list_with_colors_is_refused(root, text):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 2)))
    write(root, "classes.txt", text)
    assert "classes.txt line 1: it is not clear whether 'mug" in refusal(root)


def test_a_list_of_records_is_refused(root):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 2)))
    write(root, "classes.json", '[{"id": 1, "name": "cat"}]')
    assert """a list must contain only names, got {'id': 1, 'name': 'cat'}; write ["cat", "dog"]""" in refusal(root)
