"""predict.py: tables and folders, masks and JSON, wrong usage, overwriting, and interruption."""

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
from gemma_lisa.interfaces import image_inputs
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


def test_every_image_of_a_folder_is_answered_with_masks_and_records(scene, tmp_path):
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
    assert records[0]["masks"][0]["phrase"] == "bottom left"


def test_repeated_options_add_images_and_questions(scene, tmp_path):
    records = tmp_path / "answers.json"
    arguments = ["--image", str(scene / "a.png"), "--query", "the red circle", "--output", str(tmp_path / "out")]
    arguments += ["--image", str(scene / "b.png"), "--query", "the square", "--json", str(records)]
    predict.main(arguments)
    asked = [(Path(found["image"]).name, found["query"]) for found in json.loads(records.read_text())]
    assert asked == [(name, text) for name in ("a.png", "b.png") for text in ("the red circle", "the square")]


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
    assert image_inputs.read_table(table) == [(tmp_path / "photos/a.png", "the mug, not the cup")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "a.png"], "no image; add --image or --table"),
        (["--image", "a.png", "--output", "a.png"], "no question; add --query .*, or --conversation"),
        (["--table", "a.csv", "--query", "b", "--output", "a"], "remove --image and --query"),
        (
            ["--conversation", "--image", "a.png", "b.png", "--output", "a.png"],
            "--conversation needs one --image file and no --query",
        ),
        (
            ["--conversation", "--image", "a.png", "--query", "b", "--output", "a.png"],
            "--conversation needs one --image file and no --query",
        ),
        (
            ["--conversation", "--image", "a.png", "--json", "b.json", "--output", "a.png"],
            "--conversation writes one picture only; remove --masks and --json",
        ),
        (["--conversation", "--image", "a.png", "--output", "a"], "must be a file name that ends in .png"),
        (
            ["--image", "a.png", "--query", "b", "--output", "a.bmp"],
            "must be a file name that ends in .png, .jpg, .*webp.* got 'a.bmp'",
        ),
        (["--image", "a.png", "--query", "b", "--output", "a.eps"], "must be a file name that ends in .png"),
        (
            ["--image", "https://a.b/c.png", "--query", "b", "--output", "a.png"],
            "got a URL .'https://a.b/c.png'.; download",
        ),
        (
            ["--image", "data:image/png;base64,iVBO", "--query", "b", "--output", "a.png"],
            "got a data URL .*; save the image",
        ),
        (
            ["--image", "iVBO" * 9_999, "--query", "b", "--output", "a.png"],
            "39,996 characters .'iVBO.{55}…'., .* too long",
        ),
        (
            ["--image", "a.png", "--query", "b", "--output", "a.png", "--json", "a.txt"],
            "--json must be a file name that ends in .json, got 'a.txt'",
        ),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_loaded(arguments, message):
    with pytest.raises(UsageError, match=message):
        predict.main(arguments)


def test_after_ctrl_c_the_json_file_holds_the_finished_answers(scene, tmp_path, monkeypatch):
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


def test_after_sigterm_the_json_file_holds_the_finished_answers_and_their_number_is_printed(
    scene, tmp_path, monkeypatch, capsys
):
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
    *_, message, last = capsys.readouterr().err.splitlines()
    assert message == f"stopped early: {records} holds 1 of 2 answers" and last == "terminated"


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
        "the photo in a conversation": ["--conversation", "--image", photo, "--output", photo],
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
        with pytest.raises(UsageError, match="input|the same file|choose another folder"):
            predict.main([*arguments, *more])
            pytest.fail(name)
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_foreign_picture_needs_overwrite_and_an_earlier_answer_is_replaced(scene, tmp_path, capsys):
    mine = tmp_path / "mine.png"
    mine.write_bytes((scene / "b.png").read_bytes())
    asked = ["--image", str(scene / "a.png"), "--query", "circle", "--max_new_tokens", "2", "--output", str(mine)]
    with pytest.raises(UsageError, match="add --overwrite"):
        predict.main(asked)
    predict.main([*asked, "--overwrite"])
    predict.main(asked)
    assert capsys.readouterr().err.count(f"overwriting {mine}\n") == 2


def test_a_long_image_name_is_shortened_in_the_name_of_its_answer(tmp_path):
    images = [tmp_path / f"{letter * 250}.png" for letter in "xé"] + [tmp_path / "short.png"]
    names = [path.name for path in predict.picture_files(tmp_path, images)]
    assert names[2] == "003-short.png" and names[0] == f"001-{'x' * 180}.png"
    assert all(len(os.fsencode(f"{Path(name).stem}.mask100.png")) <= 255 - len(".mask1.12345678") for name in names)


def test_the_picture_shows_the_text_and_the_masks_of_the_terminal(scene, tmp_path, monkeypatch, capsys):
    seen = []
    drawn = predict.draw_answer
    monkeypatch.setattr(predict, "draw_answer", lambda *args: seen.append(args) or drawn(*args))
    output = tmp_path / "a.png"
    predict.main(["--image", str(scene / "a.png"), "--query", "all the blue triangles"] + ["--output", str(output)])
    ((_, masks, query, text, labels),) = seen
    assert text == "They are [1] upper leftmost, [2] bottom rightmost." and len(masks) == 2
    numbered = f"2 masks: [1] {labels[0]}, [2] {labels[1]}"
    assert capsys.readouterr().out == f"{scene / 'a.png'} | {query} | {text} | {numbered} | wrote {output}\n"


def test_an_image_of_a_folder_that_cannot_be_opened_is_reported_and_the_others_are_answered(
    scene, tmp_path, monkeypatch, capsys
):
    (scene / "aa.png").write_bytes((scene / "a.png").read_bytes()[:100])
    (scene / "._a.png").write_bytes(b"macOS")
    output, records = tmp_path / "out", tmp_path / "answers.json"
    arguments = ["--image", str(scene), "--query", "the red circle", "--output", str(output), "--json", str(records)]
    monkeypatch.setattr(sys, "argv", ["predict.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(predict.main)
    assert ended.value.code == 1
    assert sorted(path.name for path in output.iterdir()) == ["001-a.png", "003-b.png"]
    assert [Path(found["image"]).name for found in json.loads(records.read_text())] == ["a.png", "b.png"]
    *lines, last = capsys.readouterr().err.splitlines()
    assert f"{scene}: skipped 1 hidden file: the name starts with a dot" in lines
    assert any(line.startswith(f"skipped: {scene / 'aa.png'} cannot be read") for line in lines)
    assert last == f"error: 1 of 3 images could not be opened: {scene / 'aa.png'}. See above."


def test_a_folder_of_unreadable_images_only_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "load_asked", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "photos").mkdir()
    for name in "ab":
        (tmp_path / "photos" / f"{name}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="None of the images could be opened"):
        predict.main(["--image", str(tmp_path / "photos"), "--query", "a", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_picture_has_a_legend_and_multimask_changes_the_masks(scene, tmp_path, monkeypatch):
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
    assert [label.split(" (")[0] for label in plain] == ["upper leftmost", "bottom rightmost"]
    assert masks.shape == of_three.shape and (masks != of_three).any()


def test_weights_are_loaded_in_the_given_dtype(scene, tmp_path, monkeypatch):
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
