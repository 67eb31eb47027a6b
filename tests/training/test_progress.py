"""The progress of a training: a table line per logging step, scores with their meaning, and a summary."""

import shlex

import pytest
from training_runs import dataset_of, scene_row, trainer_of
from transformers import ProgressCallback, TrainerState
from transformers.trainer_callback import PrinterCallback

from gemma_lisa.datasets_builder.questions import EvaluationQuestions, TrainingQuestions
from gemma_lisa.training.arguments import DataArguments
from gemma_lisa.training.progress import TableCallback, next_commands, score_lines, summary_lines
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

LOGS = {"loss": 0.5, "language_loss": 0.25, "learning_rate": 1e-4, "grad_norm": 0.125, "epoch": 0.5}


def state_of(step=2, **options):
    return TrainerState(global_step=step, max_steps=8, is_world_process_zero=True, **options)


def lines_of(capsys):
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_a_run_prints_a_table_and_scores_and_keeps_all_values_in_its_history(small, tmp_path, capsys, disable_tqdm):
    rows = dataset_of([scene_row(number) for number in range(2)])
    trainer = trainer_of(
        small,
        TrainingQuestions(rows, 0, 4),
        tmp_path,
        evaluation=EvaluationQuestions(rows.select(range(1)), with_conversations=False),
        max_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        disable_tqdm=disable_tqdm,
    )
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert kinds.count(TableCallback) == 1 and not {PrinterCallback, ProgressCallback} & set(kinds)
    trainer.train()
    captured = capsys.readouterr()
    lines = [line for line in captured.out.splitlines() if line.strip()]
    header, first, second = lines[:3]
    assert header.split()[:5] == ["step", "epoch", "loss", "language", "mask"] and header.endswith("time left")
    assert len(header) == len(first) == len(second)
    assert (first.split()[0], second.split()[0]) == ("1/2", "2/2") and second.endswith("0:00:00")
    assert lines[3].startswith("Evaluation at step 2 on ")
    assert sum("mean IoU over questions with a target; 1 is best" in line for line in lines) == 1
    assert "{" not in captured.out
    assert ("2/2" in captured.err) == (not disable_tqdm)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [f"{entry['loss']:.4g}" for entry in logged] == [first.split()[2], second.split()[2]]
    assert {"grad_norm", "learning_rate", "mask_dice_loss"} <= logged[0].keys()
    assert {"train_runtime", "total_flos"} <= trainer.state.log_history[-1].keys()


def test_the_header_is_printed_again_only_for_a_new_loss_part(capsys):
    callback = TableCallback(samples_per_step=4)
    for logs in (LOGS, LOGS, {**LOGS, "mask_bce_loss": 0.5}, LOGS):
        callback.on_log(None, state_of(), None, logs=logs)
    lines = lines_of(capsys)
    assert [line.split()[0] for line in lines] == ["step", "2/8", "2/8", "step", "2/8", "2/8"]
    assert "mask BCE" not in lines[0] and "mask BCE" in lines[3] and lines[5].split()[4] == "-"


def test_speed_and_time_left_come_from_the_steps_without_evaluations(capsys, monkeypatch):
    clock = iter([0.0, 0.0, 2.0, 2.0, 100.0, 104.0, 104.0]).__next__
    monkeypatch.setattr("gemma_lisa.training.progress.time.monotonic", clock)
    callback = TableCallback(samples_per_step=4, has_bar=False)  # 0
    callback.on_train_begin(None, state_of(0), None)  # 0
    callback.on_step_end(None, state_of(1), None)  # 2 seconds
    callback.on_evaluate(None, state_of(1), None, metrics={})  # until 100
    callback.on_step_end(None, state_of(2), None)  # 4 seconds
    callback.on_log(None, state_of(2), None, logs=LOGS)
    *_, speed, left = lines_of(capsys)[-1].split()
    assert (speed, left) == ("1.33", "0:00:18")  # 8 samples in 6 seconds; 6 steps of 3 seconds


def test_other_processes_print_nothing(capsys):
    callback = TableCallback(samples_per_step=4)
    state = TrainerState(global_step=2, max_steps=8, is_world_process_zero=False)
    callback.on_log(None, state, None, logs=LOGS)
    callback.on_evaluate(None, state, None, metrics={"eval_gIoU": 0.5})
    assert lines_of(capsys) == []


def test_scores_have_a_line_each_with_their_meaning():
    lines = score_lines({"eval_gIoU": 0.5, "eval_N-acc": 1.0, "eval_count": 1, "eval_runtime": 3.0}, 1700)
    assert lines[0].startswith("Evaluation at step 1,700 on 1 question, ")
    assert [line.split()[:2] for line in lines[1:]] == [["gIoU", "0.5"], ["N-acc", "1"]]
    assert score_lines({"eval_runtime": 3.0}, 2) == []


def test_the_summary_has_the_last_and_the_best_scores_and_the_next_commands(tmp_path):
    history = [
        {"step": 2, "eval_loss": 0.25, "eval_gIoU": 0.75, "eval_T-acc": 1.0},
        {"step": 4, "eval_loss": 0.5, "eval_gIoU": 0.5, "eval_T-acc": 1.0},
        {"step": 4, "train_runtime": 3725.0},
    ]
    (tmp_path / "checkpoint-4").mkdir()
    args = GemmaLisaTrainingArguments(str(tmp_path), use_cpu=True)
    lines = summary_lines(state_of(4, log_history=history), args, DataArguments(dataset="shapes"))
    assert lines[:3] == [
        "Training finished: 4 steps in 1:02:05 (h:mm:ss).",
        f"Model saved: {tmp_path}",
        f"Newest checkpoint, to resume from: {tmp_path / 'checkpoint-4'}",
    ]
    text = "\n".join(lines)
    assert "0.5 (best 0.25 at step 2): weighted sum" in text and "0.5 (best 0.75 at step 2): mean IoU" in text
    assert "T-acc        1: share" in text and "above 0.8: they fit closely" in text
    assert f"python eval.py --model {tmp_path} --dataset shapes --split validation --output {tmp_path}/" in lines[-1]


def test_a_run_without_evaluation_says_how_to_measure_scores(tmp_path):
    args = GemmaLisaTrainingArguments(str(tmp_path), use_cpu=True)
    state = state_of(1, log_history=[])
    lines = summary_lines(state, args, DataArguments(dataset="shapes"))
    assert lines[0] == "Training finished: 1 step." and any("the run had no evaluation" in line for line in lines)
    lines = summary_lines(state, args, DataArguments(dataset="shapes", learn_masks=False))
    assert not any(line.startswith("Scores") or "eval.py" in line for line in lines)


def test_the_next_commands_can_be_pasted_into_a_shell(tmp_path):
    args = GemmaLisaTrainingArguments(str(tmp_path / "my run"), use_cpu=True)
    data = DataArguments(dataset="folder", data_dir="my photos", dataset_options={"text": "it's"})
    words = shlex.split(next_commands(args, data)[-1])
    assert words[:2] == ["python", "eval.py"] and {f"{tmp_path}/my run", "my photos", '{"text": "it\'s"}'} <= set(words)
    assert "--max_bad 3 --output" in next_commands(args, DataArguments(dataset="folder", max_bad=3))[-1]
    mixed = DataArguments(mixture={"a": {}}, eval_dataset="shapes/hard")
    assert "--dataset shapes/hard --split validation --output" in next_commands(args, mixed)[-1]
