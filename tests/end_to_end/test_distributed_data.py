"""The samples that whole runs train on: with workers, in two processes, and after a resume.

This file is also the program of the runs.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import MixtureQuestions, Part
from gemma_lisa.datasets_builder.rows import ROW_FEATURES
from gemma_lisa.datasets_builder.shards import write_shards
from gemma_lisa.datasets_builder.streams import StreamedQuestions, open_stream
from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_easy import draw_scene
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.trainer import GemmaLisaTrainer
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

SIZE = 32  # height and width in pixels
GLOBAL_BATCH_SIZE = 4
EPOCH_STEPS = 5
STEPS = 2 * EPOCH_STEPS
STOP = 7  # within the second epoch
SIZES = {"scenes": 16, "words": 8}
SHARES = {"scenes": 3.0, "words": 2.0}
WORKERS = {1: (0, 2, 4), 2: (0, 2)}  # by number of processes
TRAINED = ("model.language_model.", "seg_projector.", "sam.mask_decoder.")
NAME = re.compile(r"What of (\w+)/(\d+)\?")
READERS = 4  # largest number of readers of a stream


def row(name, number):
    """Return a row whose question has its own name, so that a sample shows its row."""
    generator = np.random.default_rng(number)
    drawn = row_of_scene(draw_scene(generator, SIZE), generator, False, f"{name}/{number}")
    drawn["conversation"] = [{"question": f"What of {name}/{number}?", "answer": "Yes."}]
    return {**drawn, "image": None, "targets": []} if name == "words" else drawn


def rows_of(name):
    return Dataset.from_list([row(name, number) for number in range(SIZES[name])], features=ROW_FEATURES)


class RecordingTrainer(GemmaLisaTrainer):
    """Records the texts of every sample of every step."""

    def get_batch_samples(self, *args):
        batches, counts = super().get_batch_samples(*args)
        tokenizer = self.processing_class.tokenizer
        self.learned = [*getattr(self, "learned", []), []]
        for batch in batches:
            for tokens, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                self.learned[-1].append(tokenizer.decode(tokens[mask.bool()]))
        return batches, counts


def make_runs(folder: Path) -> None:
    """Train whole and resumed runs of a mixture and a stream. Writes the samples of each process as JSON."""
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    model, processor = build_tiny(image_size=SIZE)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def run(name, data, workers, resume=None, **options):
        model.load_state_dict(start)
        args = GemmaLisaTrainingArguments(
            output_dir=str(folder / name),
            per_device_train_batch_size=GLOBAL_BATCH_SIZE // ranks,
            dataloader_num_workers=workers,
            max_steps=STEPS,
            save_strategy="steps",
            save_steps=STOP,
            learning_rate=1e-3,
            adam_epsilon=1e-4,  # gradients that are zero up to rounding must not decide the direction
            logging_steps=1,
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            **options,
        )
        trainer = RecordingTrainer(
            model=model,
            args=args,
            data_collator=GemmaLisaCollator(processor),
            train_dataset=data,
            processing_class=processor,
        )
        trainer.train(resume_from_checkpoint=resume and str(folder / resume / f"checkpoint-{STOP}"))
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return {"losses": losses, "learned": trainer.learned}

    def mixture():
        parts = [Part(name, rows_of(name), share) for name, share in SHARES.items()]
        return MixtureQuestions(parts, 3, 2, GLOBAL_BATCH_SIZE * EPOCH_STEPS)

    def stream(workers):
        parts = [Part(name, open_stream(str(folder.parent / name), "train", None), SHARES[name]) for name in SHARES]
        return StreamedQuestions(parts, 3, 2, None, rank, ranks, workers)

    found = {}
    for workers in WORKERS[ranks]:
        found[f"mixture {workers}"] = run(f"mixture-{workers}", mixture(), workers)
        found[f"mixture {workers} resumed"] = run("again", mixture(), workers, f"mixture-{workers}")
        found[f"stream {workers}"] = run(f"stream-{workers}", stream(workers), workers)
        found[f"stream {workers} resumed"] = run("again", stream(workers), workers, f"stream-{workers}")
    found["stream 0 anew"] = run("again", stream(0), 0, "stream-0", ignore_data_skip=True)
    (folder / f"found-{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{number of processes: [recorded samples of each]}, from real processes."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for name in SHARES:
        write_shards({"train": rows_of(name)}, folder / name, name, shards=READERS)
    for ranks in WORKERS:
        (folder / str(ranks)).mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--master_port", str(port)]
        done = subprocess.run(
            [sys.executable, *(torchrun if ranks > 1 else []), __file__, str(folder / str(ranks))],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            timeout=500,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        files = [folder / str(ranks) / f"found-{rank}.json" for rank in range(ranks)]
        found[ranks] = [json.loads(file.read_text()) for file in files]
    return found


def steps_of(ranks, name):
    """Return the sorted samples of every step of all processes."""
    return [sorted(chain(*step)) for step in zip(*(found[name]["learned"] for found in ranks), strict=True)]


def rows_in(steps):
    """Return the number of samples per row: {("scenes", 3): 1, ...}."""
    names = [NAME.search(sample).groups() for step in steps for sample in step]
    return Counter((name, int(number)) for name, number in names)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", WORKERS)
@pytest.mark.parametrize("data", ["mixture", "stream"])
def test_a_run_resumed_within_an_epoch_equals_the_whole_run(runs, ranks, data):
    for found in runs[ranks]:
        for workers in WORKERS[ranks]:
            whole, resumed = found[f"{data} {workers}"], found[f"{data} {workers} resumed"]
            assert len(whole["learned"]) == len(whole["losses"]) == len(resumed["losses"]) == STEPS
            assert resumed["learned"] == whole["learned"][STOP:]
            assert resumed["losses"] == whole["losses"]


@pytest.mark.slow
def test_a_mixture_does_not_depend_on_the_number_of_workers_and_processes(runs):
    expected = steps_of(runs[1], "mixture 0")
    assert len({sample for step in expected for sample in step}) > STEPS * GLOBAL_BATCH_SIZE / 2
    for ranks, found in runs.items():
        for workers in WORKERS[ranks]:
            assert steps_of(found, f"mixture {workers}") == expected, (ranks, workers)
            losses = found[0][f"mixture {workers}"]["losses"]
            assert np.allclose(losses, runs[1][0]["mixture 0"]["losses"], rtol=1e-5, atol=1e-6), (ranks, workers)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", WORKERS)
def test_an_epoch_of_a_mixture_has_the_given_shares(runs, ranks):
    steps = steps_of(runs[ranks], "mixture 0")
    first, both = rows_in(steps[:EPOCH_STEPS]), rows_in(steps)
    # 12 and 8 samples per epoch: not all scenes in one, and none twice before all were used
    assert sorted(count for (name, _), count in first.items() if name == "scenes") == [1] * 12
    assert sorted(count for (name, _), count in both.items() if name == "scenes") == [1] * 8 + [2] * 8
    assert [both["words", number] for number in range(SIZES["words"])] == [2] * 8
    assert [first["words", number] for number in range(SIZES["words"])] == [1] * 8


@pytest.mark.slow
@pytest.mark.parametrize("workers", WORKERS[2])
def test_processes_of_a_stream_get_equally_many_batches_and_no_row_twice(runs, workers):
    one, two = (found[f"stream {workers}"]["learned"] for found in runs[2])
    assert [len(step) for step in one] == [len(step) for step in two] == [GLOBAL_BATCH_SIZE // 2] * STEPS
    assert not set(rows_in(one)) & set(rows_in(two))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", WORKERS)
def test_a_stream_restarts_with_ignore_data_skip(runs, ranks):
    for found in runs[ranks]:
        assert found["stream 0 anew"]["learned"] == found["stream 0"]["learned"][: STEPS - STOP]


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_runs(Path(sys.argv[1]))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
