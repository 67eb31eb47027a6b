"""Two processes train and evaluate like one. This file is also the program of the runs."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from gemma_lisa import train
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, TrainingQuestions
from gemma_lisa.datasets_builder.rows import ROW_FEATURES
from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_easy import draw_scene
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.describe_run import describe
from gemma_lisa.training.trainer import GemmaLisaTrainer
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

SIZE = 32  # height and width in pixels
GLOBAL_BATCH_SIZE = 4
LOGGED = ("loss", "language_loss", "mask_bce_loss", "mask_dice_loss", "grad_norm")
TRAINED = ("model.language_model.", "seg_projector.", "sam.mask_decoder.")


def scene_row(number, num_targets=4):
    generator = np.random.default_rng(number)
    row = row_of_scene(draw_scene(generator, SIZE), generator, True, f"drawn/{number}")
    row["targets"] = sorted(row["targets"], key=lambda target: len(target["masks"]) != 1)[:num_targets]
    return row


def uneven_rows():
    """Return the rows of three steps; of each four, two processes take the first and the second pair."""
    one_mask = scene_row(5, num_targets=1)
    assert len(one_mask["targets"][0]["masks"]) == 1
    masks, words = [scene_row(number) for number in range(4)], [scene_row(number, 0) for number in range(4)]
    no_image = [{**row, "image": None} for row in words]
    return [
        *(masks[0], masks[1], no_image[0], no_image[1]),  # one process has masks, the other no image
        *(words[0], no_image[2], one_mask, words[1]),  # fewer masks than processes
        *(words[2], words[3], masks[2], masks[3]),  # one process has an image, the other masks
    ]


def train_and_evaluate(folder: Path) -> None:
    """Train on uneven rows, evaluate on an odd number of questions, train, stop and resume. Writes all results."""
    model, processor = build_tiny(image_size=SIZE)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def trainer_of(name, rows, evaluation=None, **options):
        model.load_state_dict(start)
        args = GemmaLisaTrainingArguments(
            output_dir=str(folder / name),
            per_device_train_batch_size=GLOBAL_BATCH_SIZE // int(os.environ.get("WORLD_SIZE", 1)),
            per_device_eval_batch_size=2,
            learning_rate=1e-3,
            adam_epsilon=1e-4,  # gradients that are zero up to rounding must not decide the direction
            logging_steps=1,
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            **{"save_strategy": "no", **options},
        )
        return GemmaLisaTrainer(
            model=model,
            args=args,
            data_collator=GemmaLisaCollator(processor, as_bytes=True),
            train_dataset=TrainingQuestions(Dataset.from_list(rows, features=ROW_FEATURES), 0, 4),
            eval_dataset=evaluation,
            processing_class=processor,
        )

    def save(name):
        if trainer.is_world_process_zero():
            save_file(dict(model.named_parameters()), folder / f"{name}.safetensors")

    found = {}
    trainer = trainer_of("uneven", uneven_rows(), max_steps=3, train_sampling_strategy="sequential")
    found["description"] = describe(model, {}, trainer.args)
    trainer.train()
    found["uneven"] = trainer.state.log_history
    save("uneven")

    # Two and a half epochs with new wording and order; the stop is within the second
    shuffled = [scene_row(number, number % 5) for number in range(2 * GLOBAL_BATCH_SIZE)]
    saving = {"max_steps": 5, "save_strategy": "steps", "save_steps": 3}
    trainer = trainer_of("whole", shuffled, **saving)
    trainer.train()
    found["whole"] = trainer.state.log_history
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save("whole")
    resumed = trainer_of("resumed", shuffled, **saving)
    resumed.train(resume_from_checkpoint=str(folder / "whole" / "checkpoint-3"))
    found["resumed"] = resumed.state.log_history
    found["resumed_equal"] = all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())

    # With untrained weights, so that rounding cannot grow; last, because an evaluated model is not wrapped again
    questions = evaluation_questions()
    found["scores"] = trainer_of("scores", shuffled, questions).evaluate()
    found["num_questions"] = len(questions)
    if trainer.is_world_process_zero():
        (folder / "found.json").write_text(json.dumps(found))


def evaluation_questions() -> EvaluationQuestions:
    """Return an odd number of questions."""
    rows = Dataset.from_list([scene_row(20), scene_row(21, num_targets=1)], features=ROW_FEATURES)
    return EvaluationQuestions(rows, with_conversations=False)


def in_two_processes(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    done = subprocess.run(
        [sys.executable, *torchrun, __file__, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def parts(history):
    return np.array([[entry[name] for name in LOGGED] for entry in history if "language_loss" in entry])


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU for each, two processes train as two")
def test_processes_that_would_train_alone_are_refused(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = ["train.py", "--model", "some/model", "--output_dir", str(tmp_path)]
    done = subprocess.run(
        [*torchrun, *arguments],
        cwd=Path(train.__file__).parent,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        timeout=300,
    )
    assert done.returncode != 0
    assert "error: 2 processes were started, but each would train alone" in done.stderr
    assert "--use_cpu true" in done.stderr and not list(tmp_path.iterdir())


# One test, so that both runs are made only once
@pytest.mark.slow
def test_two_processes_train_resume_and_evaluate_like_one(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    train_and_evaluate(tmp_path / "one")
    in_two_processes(tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "found.json").read_text()) for name in ("one", "two"))

    # The description has the number of processes
    assert "1 process, " in one["description"]
    assert "2 processes, " in two["description"]
    assert "4 samples per optimizer step = 2 per device × 1 micro-batch × 2 processes" in two["description"]

    # Logged losses and final weights
    for name, num_steps in (("uneven", 3), ("whole", 5), ("resumed", 5)):
        of_one, of_two = parts(one[name]), parts(two[name])
        assert len(of_one) == len(of_two) == num_steps
        assert np.allclose(of_two, of_one, rtol=1e-5, atol=1e-6), (name, of_two / of_one - 1)
    for run in ("uneven", "whole"):
        weights = load_file(tmp_path / "two" / f"{run}.safetensors")
        for name, tensor in load_file(tmp_path / "one" / f"{run}.safetensors").items():
            assert torch.allclose(weights[name], tensor, rtol=1e-5, atol=1e-5), (run, name)

    # A run resumed within the second epoch equals the whole run
    for found in (one, two):
        assert np.array_equal(parts(found["resumed"]), parts(found["whole"]))
        assert found["resumed_equal"]

    # Scores over an odd number of questions
    assert one["num_questions"] == two["num_questions"] == one["scores"]["eval_count"] == 5
    assert 0 < one["scores"]["eval_cIoU"] < 1
    skipped = ("time", "second", "loss")  # the mean loss of a batch depends on the batch
    measured = [name for name in one["scores"] if not any(word in name for word in skipped)]
    assert {"eval_gIoU", "eval_cIoU", "eval_T-acc", "eval_count"} <= set(measured)
    for name in measured:
        assert two["scores"][name] == pytest.approx(one["scores"][name], abs=1e-6), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_and_evaluate(Path(sys.argv[1]))
    torch.distributed.destroy_process_group()
