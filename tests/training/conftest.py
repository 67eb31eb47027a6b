"""Fixtures for the trainer's tests: a tiny model for 32 × 32 images, and uninterrupted runs."""

import pytest
from training_runs import MUON, SIZE, Recorded, dataset_of, scene_row, trainer_of

from gemma_lisa.scripts.init_tiny import build_tiny


@pytest.fixture(scope="module")
def small():
    """(model, processor) with random weights."""
    return build_tiny(image_size=SIZE)


@pytest.fixture(scope="module")
def uninterrupted(small, tmp_path_factory):
    """Runs of 6 steps by (number of rows, optimizer), each trained once."""
    runs = {}

    def run(num_rows, optimizer):
        if (num_rows, optimizer) not in runs:
            questions = Recorded(dataset_of([scene_row(number) for number in range(num_rows)]), 0, 4)
            folder = tmp_path_factory.mktemp("uninterrupted")
            trainer = trainer_of(
                small,
                questions,
                folder,
                optimizer=MUON if optimizer == "muon" else None,
                max_steps=6,
                save_strategy="steps",
                save_steps=3,
            )
            trainer.train()
            runs[num_rows, optimizer] = trainer, folder / "checkpoint-3"
        return runs[num_rows, optimizer]

    return run
