"""predict.py: tables and folders, what it writes beside the picture, what it does when it is stopped."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemma_lisa import predict
from gemma_lisa.checkpoints import loading
from gemma_lisa.checkpoints.loading import EXAMPLE
from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.interfaces.command_line import run
from gemma_lisa.safety.errors import UsageError


@pytest.fixture
def scene(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    picture = Image.open(Path(predict.__file__).parent / "docs" / "scene.png")
    picture.save(folder / "a.png")
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "b.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_a_folder_is_asked_picture_by_picture_with_masks_and_records(scene, tmp_path):
    output = tmp_path / "out"
    predict.main(
        ["--image", str(scene), "--query", "the red circle", "all the blue triangles", "--output", str(output)]
        + ["--masks", str(tmp_path / "masks"), "--json", str(tmp_path / "answers.json"), "--batch_size", "3"]
    )
    assert sorted(path.name for path in output.iterdir()) == ["001-a.png", "002-a.png", "003-b.png", "004-b.png"]
    records = json.loads((tmp_path / "answers.json").read_text())
    assert [(len(found["masks"]), found["query"]) for found in records] == [
        (1, "the red circle"),
        (2, "all the blue triangles"),
    ] * 2
    for number, found in enumerate(records, start=1):
        for at, mask in enumerate(found["masks"], start=1):
            name = f"{number:03d}-{'ab'[number > 2]}.mask{at}.png"
            pixels = np.asarray(Image.open(tmp_path / "masks" / name))
            assert pixels.dtype == np.uint8 and set(np.unique(pixels)) == {0, 255}
            assert ((pixels == 255) == decode_mask(mask["rle"], "json")).all()
            assert mask["polygons"]
    assert len(list((tmp_path / "masks").iterdir())) == 6
    assert records[0]["masks"][0]["phrase"] == "red circle"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_has_an_image_and_a_query_in_each_row(scene, tmp_path, kind):
    pairs = [("photos/a.png", "the red circle"), ("photos/b.png", 'a "quoted", thing')]
    table = tmp_path / f"questions.{kind}"
    if kind == "csv":
        text = 'id,image,query\n7,photos/a.png,the red circle\n8,photos/b.png,"a ""quoted"", thing"\n'
        table.write_text("\ufeff" + text, encoding="utf-8")  # as a spreadsheet writes it
    else:
        table.write_text("\n".join(json.dumps({"image": i, "query": q}) for i, q in pairs) + "\n\n")
    predict.main(["--table", str(table), "--output", str(tmp_path / "out"), "--json", str(tmp_path / "a.json")])
    records = json.loads((tmp_path / "a.json").read_text())
    assert [(found["image"], found["query"]) for found in records] == [(str(tmp_path / i), q) for i, q in pairs]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_table_of_a_spreadsheet_with_another_delimiter_is_read(tmp_path, delimiter):
    lines = [("image", "query"), ("photos/a.png", "the mug, not the cup")]
    table = tmp_path / "questions.csv"
    table.write_text("\r\n".join(delimiter.join(cells) for cells in lines) + "\r\n", encoding="utf-8-sig")
    assert predict.read_table(table) == [(tmp_path / "photos/a.png", "the mug, not the cup")]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("q.csv", b"image,question\na.png,b\n", "q.csv, line 2: an image and a query are needed"),
        ("q.csv", b"image,query\na.png,\n", "q.csv, line 2"),
        ("q.csv", b"", "q.csv: holds no row"),
        ("q.csv", "image,query\na.png,naïve\n".encode("latin-1"), "q.csv: not UTF-8"),
        ("q.jsonl", b'{"image": "a.png", "query": "b"}\n{"image": \n', "q.jsonl, line 2: not JSON"),
        ("q.jsonl", b'["a.png", "b"]\n', "q.jsonl, line 1"),
        ("q.txt", b"a.png b", "a .csv or a .jsonl"),
        (None, b"", "no such file"),
    ],
)
def test_a_table_that_cannot_be_read_names_its_line(tmp_path, name, content, complaint):
    path = tmp_path / (name or "missing.csv")
    if name:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        predict.main(["--table", str(path), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="no file in it is named as a picture"):
        predict.main(["--image", str(tmp_path), "--query", "a", "--output", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--output", "a.png"], "give --image, or a --table"),
        (["--image", "a.png", "--output", "a.png"], "give --query, or --chat"),
        (["--table", "a.csv", "--query", "b", "--output", "a"], "leave --image and --query out"),
        (["--chat", "--image", "a.png", "b.png", "--output", "a.png"], "--chat takes one --image"),
        (["--chat", "--image", "a.png", "--query", "b", "--output", "a.png"], "--chat takes one --image"),
        (["--chat", "--image", "a.png", "--json", "b.json", "--output", "a.png"], "--chat writes one picture"),
        (["--chat", "--image", "a.png", "--output", "a"], "give a picture file"),
        (["--image", "a.png", "--query", "b", "--output", "a.bmp"], "whose name ends in .png, .jpg, .*webp"),
        (["--image", "a.png", "--query", "b", "--output", "a.eps"], "give a picture file"),
        (["--image", "a.png", "--query", "b", "--output", "a.png", "--json", "a.txt"], "a JSON file, .* ends in .json"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_loaded(arguments, complaint):
    with pytest.raises(UsageError, match=complaint):
        predict.main(arguments)


def test_of_a_folder_the_files_named_as_pictures_are_asked_about_and_the_others_counted(tmp_path, capsys):
    for name in ("a.png", "b.JPG", "c.webp", "notes.pdf", "d.eps", "e.mpg", "f.h5", "g.txt"):
        (tmp_path / name).touch()
    (tmp_path / "more.png").mkdir()
    assert [path.name for path in predict.pictures_in(tmp_path)] == ["a.png", "b.JPG", "c.webp"]
    assert capsys.readouterr().err == f"{tmp_path}: left out files that are not named as pictures: 5\n"


def test_stopped_in_the_middle_the_records_tell_of_the_pictures_that_are_there(scene, tmp_path, monkeypatch):
    asked, answers = [], predict.answer

    def stopped(*args, **options):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answers(*args, **options)

    monkeypatch.setattr(predict, "answer", stopped)
    output, records = tmp_path / "out", tmp_path / "answers.json"
    arguments = ["--image", str(scene), "--query", "the red circle", "the square", "--batch_size", "1"]
    with pytest.raises(KeyboardInterrupt):
        predict.main([*arguments, "--output", str(output), "--json", str(records)])
    assert sorted(path.name for path in output.iterdir()) == ["001-a.png", "002-a.png"]
    assert [found["query"] for found in json.loads(records.read_text())] == ["the red circle", "the square"]


def test_terminated_in_the_middle_the_records_are_written_and_counted(scene, tmp_path, monkeypatch, capsys):
    asked, answers = [], predict.answer

    def stopped(*args, **options):
        asked.append(1)
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return answers(*args, **options)

    monkeypatch.setattr(predict, "answer", stopped)
    records = tmp_path / "answers.json"
    arguments = ["--image", str(scene), "--query", "the red circle", "--batch_size", "1", "--json", str(records)]
    monkeypatch.setattr(sys, "argv", ["predict.py", *arguments, "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        run(predict.main)
    assert ended.value.code == 143
    assert [Path(found["image"]).name for found in json.loads(records.read_text())] == ["a.png"]
    *_, said, last = capsys.readouterr().err.splitlines()
    assert said == f"stopped early: {records} holds 1 of 2 answers" and last == "terminated"


def arguments_that_would_overwrite(scene, tmp_path):
    photo, out = str(scene / "a.png"), str(tmp_path / "out")
    masks = tmp_path / "masks"
    masks.mkdir()
    (scene / "a.png").rename(masks / "answer.mask1.png")
    (scene / "a.png").symlink_to(masks / "answer.mask1.png")
    table = tmp_path / "t.csv"
    table.write_text(f"image,query\n{photo},circle\n{photo},square\n")
    (tmp_path / "out").mkdir()
    os.link(masks / "answer.mask1.png", tmp_path / "out" / "001-a.png")
    asked = ["--query", "circle", "--image", photo]
    return {
        "the photo": [*asked, "--output", photo],
        "the photo in a conversation": ["--chat", "--image", photo, "--output", photo],
        "the photo as JSON": [*asked, "--output", f"{out}/x.png", "--json", photo],
        "JSON over the picture": [*asked, "--output", f"{out}/x.png", "--json", f"{out}/x.png"],
        "the table": ["--table", str(table), "--output", f"{out}/more", "--json", str(table)],
        "a link of the first answer's name": ["--table", str(table), "--output", out],
        "the photo as a mask": [*asked, "--output", f"{out}/answer.png", "--masks", str(masks)],
        "answers among the images": ["--image", str(scene), "--query", "circle", "--output", str(scene)],
        "masks among the images": [
            "--image",
            str(scene),
            "--query",
            "a",
            "--output",
            f"{out}/m",
            "--masks",
            str(scene),
        ],
        "a file of the model": [*asked, "--output", f"{out}/x.png", "--json", str(EXAMPLE / "config.json")],
    }


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_no_input_is_overwritten(scene, tmp_path, monkeypatch, more):
    monkeypatch.setattr(predict, "load_asked", lambda *_: pytest.fail("the model was loaded"))
    cases = arguments_that_would_overwrite(scene, tmp_path)
    kept = {path: path.read_bytes() for path in [*tmp_path.rglob("*"), EXAMPLE / "config.json"] if path.is_file()}
    for name, arguments in cases.items():
        with pytest.raises(UsageError, match="input|the same file|name another folder"):
            predict.main([*arguments, *more])
            pytest.fail(name)
    assert {path: path.read_bytes() for path in kept} == kept


def test_another_picture_needs_overwrite_and_an_answer_is_replaced(scene, tmp_path, capsys):
    mine = tmp_path / "mine.png"
    mine.write_bytes((scene / "b.png").read_bytes())
    asked = ["--image", str(scene / "a.png"), "--query", "circle", "--max_new_tokens", "2", "--output", str(mine)]
    with pytest.raises(UsageError, match="add --overwrite"):
        predict.main(asked)
    predict.main([*asked, "--overwrite"])
    predict.main(asked)
    assert capsys.readouterr().err.count(f"overwriting {mine}\n") == 2


def test_a_long_name_of_an_image_is_cut_in_that_of_its_answer(tmp_path):
    images = [tmp_path / f"{letter * 250}.png" for letter in "xé"] + [tmp_path / "short.png"]
    names = [path.name for path in predict.picture_files(tmp_path, images)]
    assert names[2] == "003-short.png" and names[0] == f"001-{'x' * 180}.png"
    assert all(len(os.fsencode(f"{Path(name).stem}.mask100.png")) <= 255 - len(".mask1.12345678") for name in names)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.csv", b"image,query\n" + b"x" * 200_000 + b",a\n", "line 1: not CSV .field larger"),
        ("q.jsonl", b'{"image": ' + b"[" * 100_000, "line 1: not JSON .*nested too deep"),
        ("q.jsonl", b'{"image": ' + b"9" * 5_000 + b"}", "line 1: not JSON"),
        ("q.jsonl", b'{"image": "a", "query": ["' + b"x" * 100_000 + b'"]}', "line 1: an image and a query are needed"),
    ],
)
def test_a_table_that_is_too_large_somewhere_is_refused_in_a_short_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as refused:
        predict.read_table(tmp_path / name)
    assert len(str(refused.value)) < 500


def test_the_picture_names_its_masks_and_three_masks_can_be_chosen_from(scene, tmp_path, monkeypatch):
    seen = []
    drawn = predict.draw_answer

    def watched(image, masks, query, text, labels):
        seen.append((labels, masks.copy()))
        return drawn(image, masks, query, text, labels)

    monkeypatch.setattr(predict, "draw_answer", watched)
    asked = ["--image", str(scene / "a.png"), "--query", "all the blue triangles", "--output", str(tmp_path / "a.png")]
    predict.main(asked)
    predict.main([*asked, "--multimask"])
    (plain, masks), (_, of_three) = seen
    assert len(plain) == 2 and all("triangle" in label for label in plain)
    assert masks.shape == of_three.shape and (masks != of_three).any()


def test_weights_are_held_in_the_type_asked_for(scene, tmp_path, monkeypatch):
    types = []
    opened = loading.load_checkpoint

    def watched(*args, **options):
        model, processor = opened(*args, **options)
        types.append(model.dtype)
        return model, processor

    monkeypatch.setattr(loading, "load_checkpoint", watched)
    asked = ["--image", str(scene / "a.png"), "--query", "the red circle", "--output", str(tmp_path / "a.png")]
    predict.main([*asked, "--dtype", "bfloat16"])
    assert [str(kind) for kind in types] == ["torch.bfloat16"]
    assert (tmp_path / "a.png").is_file()
