"""Epochs and resuming: every epoch has its own wording and order, and a resumed run equals the whole run."""

import copy

import pytest
import torch
from training_runs import MUON, PARTS, Recorded, logged, trainer_of, words_of

from gemma_lisa.datasets_builder.questions import TrainingQuestions


def test_every_epoch_has_every_row_with_new_wording_and_order(uninterrupted):
    trainer, _ = uninterrupted(4, "adamw")
    questions = TrainingQuestions(trainer.train_dataset.rows, 0, 4)
    orders = []
    for epoch in range(3):
        questions.set_epoch(epoch)
        words = [words_of(questions[at]) for at in range(4)]
        asked = trainer.train_dataset.asked[4 * epoch : 4 * epoch + 4]
        assert sorted(asked) == sorted(words), epoch
        orders.append([source for source, _ in asked])
    assert orders[0] != orders[1] or orders[1] != orders[2]


@pytest.mark.parametrize("workers", ["one worker", "one worker that stays"])
def test_a_worker_process_creates_the_same_questions(small, tmp_path, uninterrupted, workers):
    trainer, _ = uninterrupted(4, "adamw")
    again = trainer_of(
        small,
        TrainingQuestions(trainer.train_dataset.rows, 0, 4),
        tmp_path,
        max_steps=6,
        dataloader_num_workers=1,
        dataloader_persistent_workers=workers == "one worker that stays",
    )
    again.train()
    assert logged(again, *PARTS, "grad_norm") == logged(trainer, *PARTS, "grad_norm")


@pytest.mark.parametrize(
    ("num_rows", "optimizer", "workers"),
    [
        (4, "adamw", 0),  # stopped within the second epoch, resumed into the third
        (4, "muon", 0),
        (4, "adamw", 1),
        (6, "adamw", 0),  # stopped between two epochs
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_run(small, tmp_path, uninterrupted, num_rows, optimizer, workers):
    whole, checkpoint = uninterrupted(num_rows, optimizer)
    questions = Recorded(whole.train_dataset.rows, 0, 4)
    other = copy.deepcopy(small[0])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()  # all weights must come from the checkpoint
    resumed = trainer_of(
        (other, small[1]),
        questions,
        tmp_path,
        optimizer=MUON if optimizer == "muon" else None,
        max_steps=6,
        save_strategy="steps",
        save_steps=3,
        dataloader_num_workers=workers,
    )
    resumed.train(resume_from_checkpoint=str(checkpoint))

    if workers == 0:
        assert questions.asked == whole.train_dataset.asked[6:]
    names = (*PARTS, "grad_norm", "learning_rate", "epoch")
    assert logged(resumed, *names) == logged(whole, *names)
    expected = whole.model.state_dict()
    for name, tensor in resumed.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_muons_checkpoint_holds_the_state_of_both_optimizers(uninterrupted):
    _, checkpoint = uninterrupted(4, "muon")
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    for name, key in (("muon", "momentum_buffer"), ("adamw", "exp_avg")):
        state = saved[name]["state"]
        assert state
        assert sum(entry[key].abs().sum() for entry in state.values()) > 0
