"""eval.py and predict.py as programs: exit codes, and an adapter on a quantized base model."""

import json
import subprocess
import sys

import pytest
from picture_files import ROOT, SCENE
from tqdm import tqdm

from gemma_lisa import eval as evaluation
from gemma_lisa import predict
from gemma_lisa.checkpoints.adapter_base import identify
from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.interfaces.command_line import run

SCENES = '{"image_size": 64, "train_rows": 1, "validation_rows": 1, "test_rows": 6}'


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, code",
    [
        (["predict.py", "--model", "no/such", "--image", "x.png", "--query", "a", "--output", "a.png"], 1),
        (["predict.py", "--unknown", "1"], 2),
        (["eval.py", "--model", "m", "--dataset", "shapes", "--output", "results.txt"], 2),
    ],
)
def test_a_program_that_fails_prints_one_line_and_sets_its_exit_code(arguments, code, tmp_path):
    program, *rest = arguments
    ended = subprocess.run(
        [sys.executable, str(ROOT / program), *rest], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
    assert "error: " in ended.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_an_error_during_a_progress_bar_is_printed_on_its_own_line(monkeypatch, capsys):
    def work(_):
        for row in tqdm(range(3)):
            if row == 1:
                raise ValueError("row 1 is broken")

    monkeypatch.setattr(sys, "argv", ["eval.py"])
    with pytest.raises(SystemExit):
        run(work)
    assert capsys.readouterr().err.splitlines()[-1] == "error: row 1 is broken"


@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
def test_an_adapter_on_a_quantized_base_model_is_evaluated_and_answers(checkpoint, tmp_path, kind):
    model, processor = load_checkpoint(checkpoint)
    for part in (add_lora(model, rank=2, base=identify(checkpoint)), processor):
        part.save_pretrained(tmp_path / "adapter")
    results = tmp_path / "results.json"
    scenes = ["--dataset", "shapes/easy", "--dataset_options", SCENES, "--rows", "1", "--pictures", "0"]
    asked = ["--model", str(tmp_path / "adapter"), *scenes, f"--{kind}", "--max_new_tokens", "6"]
    evaluation.main([*asked, "--output", str(results)])
    assert json.loads(results.read_text())["weights"] == {"load_in_4bit": "nf4", "load_in_8bit": "int8"}[kind]
    moved = ["--model", str(checkpoint), "--adapter", str(tmp_path / "adapter"), f"--{kind}"]
    asked = ["--image", str(SCENE), "--query", "it", "--max_new_tokens", "2", "--output", str(tmp_path / "a.png")]
    predict.main([*moved, *asked])
    assert (tmp_path / "a.png").stat().st_size > 0
