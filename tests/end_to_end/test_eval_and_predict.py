"""eval.py and predict.py: what they write, and what they say of bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

from gemma_lisa import eval as evaluation
from gemma_lisa import predict
from gemma_lisa.checkpoints.adapter_base import identify
from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.evaluation.metrics import QueryResult, summarize
from gemma_lisa.images_gemma_lisa import load_rgb
from gemma_lisa.interfaces.command_line import FAILURE, run
from gemma_lisa.safety.errors import UsageError

ROOT = Path(__file__).parents[2]
SCENES = '{"image_size": 64, "train_rows": 1, "validation_rows": 1, "test_rows": 6}'


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    model, processor = tiny
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)).save(path)
    return path


def evaluate(checkpoint, output, *more):
    arguments = ["--model", str(checkpoint), "--dataset", "shapes/easy", "--dataset_options", SCENES]
    evaluation.main([*arguments, "--max_new_tokens", "6", "--output", str(output), *more])
    return json.loads(output.read_text())


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_in_the_middle_the_samples_tell_of_what_was_answered(checkpoint, tmp_path, monkeypatch, capsys, number):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    asked, answers = [], evaluation.by_generation

    def stopped(*args):
        asked.append(1)
        if len(asked) == 3:
            os.kill(os.getpid(), number)
        return answers(*args)

    monkeypatch.setattr(evaluation, "by_generation", stopped)
    output = tmp_path / "results.json"
    arguments = ["--model", str(checkpoint), "--dataset", "shapes/easy", "--dataset_options", SCENES]
    arguments += ["--max_new_tokens", "2", "--batch_size", "4", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["eval.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(evaluation.main)
    assert ended.value.code == 128 + number
    samples = tmp_path / "results.samples.jsonl"
    assert len([json.loads(line) for line in samples.read_text().splitlines()]) == 8
    said = f"stopped early: {samples} holds 8 of 30 answers; {output} was not written"
    assert said in capsys.readouterr().err.splitlines() and not output.exists()


def test_results_do_not_overwrite_a_file_of_the_model_or_of_the_data(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "load_rows", lambda *_: pytest.fail("the rows were made"))
    data = tmp_path / "data"
    data.mkdir()
    (data / "instances.json").write_text('{"images": []}')
    (tmp_path / "mine.worst.png").write_bytes(b"mine")
    for output, said in (
        (checkpoint / "config.json", "in the input folder"),
        (data / "instances.json", "in the input folder"),
        (tmp_path / "mine.json", "add --overwrite"),
    ):
        arguments = [
            "--model",
            str(checkpoint),
            "--dataset",
            "folder",
            "--data_dir",
            str(data),
            "--output",
            str(output),
        ]
        with pytest.raises(UsageError, match=said):
            evaluation.main(arguments)
    assert (tmp_path / "mine.worst.png").read_bytes() == b"mine"


@pytest.mark.parametrize("protocol, questions", [("generate", 6 * 5), ("teacher_forced", 6 * 4)])
def test_results_are_the_summary_of_the_sample_lines(checkpoint, tmp_path, monkeypatch, protocol, questions):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    results = evaluate(checkpoint, tmp_path / "out" / "results.json", "--protocol", protocol)
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.samples.jsonl").read_text().splitlines()]
    assert len(lines) == questions
    names = ("intersection", "union", "num_targets", "num_predictions", "complete")
    expected = summarize(
        QueryResult(line["source"], line["question"], *(line[name] for name in names))
        for line in lines
        if "union" in line
    )
    if protocol == "teacher_forced":
        expected["gIoU_all"] = None
    assert {name: results["scores"][name] for name in expected} == expected
    assert results["protocol"] == protocol and results["scores"]["count"] == 6 * 4
    if protocol == "generate":
        right = [line["is_right"] for line in lines if "is_right" in line]
        assert results["scores"]["answers_count"] == len(right) == 6
        assert results["scores"]["answers_right"] == sum(right) / 6
    for kind, scores in results["by_kind"].items():
        of_kind = [line for line in lines if line.get("kind") == kind]
        ious = [line["iou"] for line in of_kind if line["num_targets"]]
        assert scores["count"] == len(of_kind) > 0
        assert scores["gIoU"] == (pytest.approx(np.mean(ious), abs=1e-4) if ious else None)
        assert protocol == "generate" or scores["gIoU_all"] is None
    assert sum(scores["count"] for scores in results["by_kind"].values()) == 6 * 4
    for name in ("preview", "worst"):
        assert Image.open(tmp_path / "out" / f"results.{name}.png").width > 500


def test_a_limit_on_rows_and_no_pictures(checkpoint, tmp_path):
    results = evaluate(checkpoint, tmp_path / "r.json", "--rows", "2", "--pictures", "0")
    assert results["scores"]["count"] == 8 and results["rows"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "r.samples.jsonl"]


def test_batch_size_changes_no_answer(checkpoint, tmp_path):
    for size in ("1", "5"):
        evaluate(checkpoint, tmp_path / f"{size}.json", "--rows", "2", "--pictures", "0", "--batch_size", size)
    assert (tmp_path / "1.samples.jsonl").read_text() == (tmp_path / "5.samples.jsonl").read_text()


def test_one_answer_is_one_picture(checkpoint, picture, tmp_path, capsys):
    output = tmp_path / "answer.png"
    arguments = ["--model", str(checkpoint), "--image", str(picture), "--query", "the red circle"]
    predict.main([*arguments, "--output", str(output), "--max_new_tokens", "4"])
    assert Image.open(output).width >= 512
    assert "cut off; raise --max_new_tokens" in capsys.readouterr().out


def test_several_images_and_queries_are_answered_each_with_each(checkpoint, picture, tmp_path, monkeypatch):
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
    "arguments, said",
    [
        (["--query", " ", "--output", "a.png"], "empty"),
        (["--query", "a", "b", "--output", "a.png"], "folder"),
        (["--query", "a", "--output", "a"], "picture file"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_loaded(arguments, said):
    with pytest.raises(UsageError, match=said):
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
def test_an_image_that_cannot_be_read_is_named_and_nothing_is_written(checkpoint, picture, tmp_path, kind):
    bad = spoil(picture, kind)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=bad.name) as refusal:
        predict.main(
            ["--model", str(checkpoint), "--image", str(bad), "--query", "a", "--output", str(tmp_path / "a.png")]
        )
    assert "\n" not in str(refusal.value)
    assert sorted(tmp_path.iterdir()) == before


def test_one_bad_image_among_several_is_refused_before_the_model_is_opened(picture, tmp_path, monkeypatch, capsys):
    bad = tmp_path / "bad.png"
    bad.write_bytes(picture.read_bytes()[:200])
    before = sorted(tmp_path.iterdir())
    arguments = ["--model", "nowhere", "--image", str(picture), str(bad), "--query", "a", "b"]
    monkeypatch.setattr(sys, "argv", ["predict.py", *arguments, "--output", str(tmp_path / "answers")])
    with pytest.raises(SystemExit) as ended:
        run(predict.main)
    assert ended.value.code == FAILURE
    said = capsys.readouterr().err
    assert said.startswith(f"error: {bad} cannot be read") and said.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


NO_PIXEL = "1e9"  # a threshold that no logit reaches, so that nothing is painted on the picture


def test_any_kind_of_picture_is_shown_upright_in_its_colours(checkpoint, make_picture, tmp_path, caplog):
    upright = make_picture(300, 520)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side; shown turned 90 degrees clockwise
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, code",
    [
        (["predict.py", "--model", "no/such", "--image", "x.png", "--query", "a", "--output", "a.png"], 1),
        (["predict.py", "--unknown", "1"], 2),
        (["eval.py", "--model", "m", "--dataset", "shapes", "--output", "results.txt"], 2),
    ],
)
def test_a_program_that_fails_says_one_line_and_has_its_exit_code(arguments, code, tmp_path):
    program, *rest = arguments
    ended = subprocess.run(
        [sys.executable, str(ROOT / program), *rest], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
    assert "error: " in ended.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_middle_of_a_bar_has_a_line_of_its_own(monkeypatch, capsys):
    def work(_):
        for row in tqdm(range(3)):
            if row == 1:
                raise ValueError("row 1 is broken")

    monkeypatch.setattr(sys, "argv", ["eval.py"])
    with pytest.raises(SystemExit):
        run(work)
    assert capsys.readouterr().err.splitlines()[-1] == "error: row 1 is broken"


@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
def test_an_adapter_is_evaluated_and_asked_on_a_quantised_base(checkpoint, picture, tmp_path, kind):
    model, processor = load_checkpoint(checkpoint)
    for part in (add_lora(model, rank=2, base=identify(checkpoint)), processor):
        part.save_pretrained(tmp_path / "adapter")
    results = evaluate(tmp_path / "adapter", tmp_path / "results.json", f"--{kind}", "--rows", "1", "--pictures", "0")
    assert results["weights"] == {"load_in_4bit": "nf4", "load_in_8bit": "int8"}[kind]
    moved = ["--model", str(checkpoint), "--adapter", str(tmp_path / "adapter"), f"--{kind}"]
    asked = ["--image", str(picture), "--query", "it", "--max_new_tokens", "2", "--output", str(tmp_path / "a.png")]
    predict.main([*moved, *asked])
    assert (tmp_path / "a.png").stat().st_size > 0
