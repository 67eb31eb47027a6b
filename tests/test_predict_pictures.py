"""predict.py: image formats, one or several pictures as output, and images that cannot be read."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from gemma_lisa import predict
from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.images_gemma_lisa import load_rgb
from gemma_lisa.interfaces.command_line import FAILURE, run
from gemma_lisa.safety.errors import UsageError


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)).save(path)
    return path


def test_one_answer_is_written_as_one_picture(checkpoint, picture, tmp_path, capsys):
    output = tmp_path / "answer.png"
    arguments = ["--model", str(checkpoint), "--image", str(picture), "--query", "the red circle"]
    predict.main([*arguments, "--output", str(output), "--max_new_tokens", "4"])
    assert Image.open(output).width >= 512
    assert "cut off; raise --max_new_tokens" in capsys.readouterr().out


def test_every_query_is_asked_about_every_image(checkpoint, picture, tmp_path, monkeypatch):
    other = tmp_path / "grey.jpg"
    Image.fromarray(np.full((30, 30), 90, np.uint8)).save(other)
    drawn = {}

    def answered(model, processor, questions, **options):
        masks = np.zeros((2, questions[0]["image"].height, questions[0]["image"].width), dtype=bool)
        masks[0, 3:5, 10:14] = True
        for at, asked in enumerate(questions):
            drawn[at] = (asked["image"].size, asked["text"])
        return [
            {
                "text": "There.",
                "raw_text": "There [SEG] and [SEG].",
                "phrases": ["There", "and"],
                "masks": torch.from_numpy(masks[:, : asked["image"].height, : asked["image"].width].copy()),
                "scores": torch.tensor([0.5, 0.25]),
                "complete": True,
            }
            for asked in questions
        ]

    monkeypatch.setattr(predict, "answer", answered)
    folder, records = tmp_path / "answers", tmp_path / "answers.json"
    arguments = ["--model", str(checkpoint), "--image", str(picture), str(other), "--query", "a", "b"]
    predict.main([*arguments, "--output", str(folder), "--json", str(records)])
    assert [drawn[at] for at in range(4)] == [((80, 48), "a"), ((80, 48), "b"), ((30, 30), "a"), ((30, 30), "b")]
    assert len(list(folder.iterdir())) == 4
    first = json.loads(records.read_text())[0]
    assert first["query"] == "a" and first["raw_text"] == "There [SEG] and [SEG]."
    thing, empty = first["masks"]
    assert thing["box"] == [10, 3, 4, 2] and thing["area"] == 8 and thing["score"] == 0.5 and thing["phrase"] == "There"
    assert decode_mask(thing["rle"], "json")[3:5, 10:14].all() and decode_mask(thing["rle"], "json").sum() == 8
    assert empty["box"] is None and empty["area"] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--query", " ", "--output", "a.png"], "empty"),
        (["--query", "a", "b", "--output", "a.png"], "folder"),
        (["--query", "a", "--output", "a"], "must be a file name that ends in .png"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_loaded(arguments, message):
    with pytest.raises(UsageError, match=message):
        predict.main(["--model", "nowhere", "--image", "x.png", *arguments])


def spoil(path, kind):
    if kind == "truncated":
        whole = path.with_suffix(".jpg")
        Image.effect_noise((200, 200), 50).save(whole)
        whole.write_bytes(whole.read_bytes()[:2000])
        return whole
    if kind == "text":
        path.write_text("no picture")
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path = path.with_name("missing.png")
    return path


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "missing"])
def test_an_image_that_cannot_be_read_is_reported_and_nothing_is_written(checkpoint, picture, tmp_path, kind):
    bad = spoil(picture, kind)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=bad.name) as refusal:
        predict.main(
            ["--model", str(checkpoint), "--image", str(bad), "--query", "a", "--output", str(tmp_path / "a.png")]
        )
    assert "\n" not in str(refusal.value)
    assert sorted(tmp_path.iterdir()) == before


def test_one_bad_image_among_several_is_refused_before_the_model_is_loaded(picture, tmp_path, monkeypatch, capsys):
    bad = tmp_path / "bad.png"
    bad.write_bytes(picture.read_bytes()[:200])
    before = sorted(tmp_path.iterdir())
    arguments = ["--model", "nowhere", "--image", str(picture), str(bad), "--query", "a", "b"]
    monkeypatch.setattr(sys, "argv", ["predict.py", *arguments, "--output", str(tmp_path / "answers")])
    with pytest.raises(SystemExit) as ended:
        run(predict.main)
    assert ended.value.code == FAILURE
    message = capsys.readouterr().err
    assert message.startswith(f"error: {bad} cannot be read") and message.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


NO_PIXEL = "1e9"  # a threshold above all logits, so that no mask is drawn


def test_every_image_format_is_drawn_upright_in_its_colours(checkpoint, make_picture, tmp_path, caplog):
    upright = make_picture(300, 520)
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored picture is shown turned by 90 degrees clockwise
    files = {
        "rotated.png": (upright.transpose(Image.Transpose.ROTATE_90), {"exif": exif}),
        "grey.png": (upright.convert("L"), {}),
        "palette.png": (upright.quantize(200), {}),
        "clear.png": (upright.convert("RGBA"), {}),
        "animated.gif": (upright.quantize(200), {"save_all": True, "append_images": [make_picture(300, 520, seed=1)]}),
    }
    files["clear.png"][0].putalpha(90)
    for name, (stored, options) in files.items():
        stored.save(tmp_path / name, **options)
    paths = [str(tmp_path / name) for name in files]
    arguments = ["--model", str(checkpoint), "--image", *paths, "--query", "a", "--max_new_tokens", "2"]
    for size in ("1", "3"):
        predict.main([*arguments, "--output", str(tmp_path / size), "--batch_size", size, "--threshold", NO_PIXEL])
    for number, path in enumerate(paths, start=1):
        written = [Image.open(next((tmp_path / size).glob(f"{number:03d}-*.png"))) for size in ("1", "3")]
        assert written[0].tobytes() == written[1].tobytes()
        assert written[0].width == 520 and written[0].height > 300
        shown = np.asarray(written[0].crop((0, 0, 520, 300)))
        np.testing.assert_array_equal(shown, np.asarray(load_rgb(path)))
        if path.endswith("rotated.png"):
            np.testing.assert_array_equal(shown, np.asarray(upright))
    assert [record.getMessage().split(" is ")[0] for record in caplog.records if "animated" in record.getMessage()] == [
        str(tmp_path / "animated.gif")
    ]
