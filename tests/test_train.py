"""train.py as a program: recipes, errors of one line with the right exit code, and a whole run that is resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertConfig

from gemma_lisa import train
from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.checkpoints.training_record import read_stages
from gemma_lisa.interfaces.command_line import run
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training import late_checks
from gemma_lisa.training.callbacks import EpochCallback

ROOT = Path(train.__file__).parent
SIZE = 32
OPTIONS = {"image_size": SIZE, "train_rows": 6, "validation_rows": 2, "test_rows": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a small random Gemma-LISA."""
    folder = tmp_path_factory.mktemp("tiny")
    model, processor = build_tiny(image_size=SIZE)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and returns its path."""

    def write(**content):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "use_cpu": True, **content}))
        return str(path)

    return write


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs train.py with wrong arguments; returns its exit code and the error line on stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            run(train.main)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, lines
        return leaving.value.code, lines[0]

    return call


# --- errors ----------------------------------------------------------------------------------------------------------
def test_an_unknown_key_in_the_recipe_is_a_usage_error(refused, recipe):
    code, line = refused("--config", recipe(model="some/model", learning_rte=0.1))
    assert (code, "learning_rte" in line) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--learning_rte", "0.1"], "learning_rte"),
        (["--fp16", "true"], "fp16"),
        (["--max_steps", "many"], "max_steps"),
        (["--dataset_options", "{image_size: 3"], "double quotes"),
        (["--dataset_options", "[3]"], "dataset_options"),
        (["--learn_masks", "false", "--eval_strategy", "epoch"], "learn_masks"),
        (["--config", "no/such.yaml"], "no/such.yaml"),
        (["--config"], "--config"),
        (["--languages", "ja"], "languages: 'ja' is not valid JSON"),
        (["--max_questions", "0"], "max_questions"),
        (["--max_bad", "-1"], "max_bad must be at least 0, got -1"),
        (["--mixture", "{}", "--epoch_length", "3"], "mixture must have at least one group"),
        (["--mixture", '{"a": {}}', "--epoch_length", "3"], "eval_dataset"),
        (["--mixture", '{"a": {}}', "--dataset", "shapes"], "mixture replaces dataset"),
        (["--epoch_length", "3"], "need a mixture"),
        (["--streaming", "true"], "need a mixture"),
        (["--mixture", '{"a": {}}'], "needs epoch_length"),
        (["--mixture", '{"a": {}}', "--streaming", "true"], "Give max_steps"),
        (
            ["--mixture", '{"a": {}}', "--streaming", "true", "--max_steps", "3", "--epoch_length", "3"],
            "remove epoch_length",
        ),
        (
            ["--mixture", '{"a": {}}', "--streaming", "true", "--max_steps", "3", "--save_strategy", "epoch"],
            "save_strategy to steps",
        ),
        (["--mixture", "no/such.yaml", "--epoch_length", "3"], "no/such.yaml does not exist or has no key `mixture`"),
        (
            ["--mixture", "configs/shapes.yaml", "--epoch_length", "3"],
            "configs/shapes.yaml does not exist or has no key `mix",
        ),
        (["--global_batch_size", "20"], "Use 16 or 24"),
        (["--global_batch_size", "16", "--gradient_accumulation_steps", "2"], "Remove one of them"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and len(value) < 3 else "",
)
def test_a_wrong_command_line_is_a_usage_error(refused, tmp_path, arguments, word):
    code, line = refused("--model", "some/model", "--output_dir", tmp_path, "--use_cpu", "true", *arguments)
    assert (code, word in line) == (2, True), line


def test_a_missing_model_name_is_a_usage_error(refused, recipe):
    code, line = refused("--config", recipe(dataset="shapes"))
    assert (code, "--model" in line) == (2, True)


def test_an_invalid_yaml_recipe_is_a_usage_error(refused, tmp_path):
    path = tmp_path / "broken.yaml"
    for content in ("a: [", "- a", ""):
        path.write_text(content)
        code, line = refused("--config", path)
        assert (code, "broken.yaml" in line) == (2, True)


def test_nested_yaml_aliases_in_a_recipe_or_mixture_are_a_usage_error_of_one_short_line(refused, tmp_path, recipe):
    lists = ["&a0 [x, x]", *(f"&a{at} [*a{at - 1}, *a{at - 1}]" for at in range(1, 40))]
    path = tmp_path / "grows.yaml"
    path.write_text(f"model: m\nmixture: [{', '.join(lists)}]\n")
    for arguments in (["--config", path], ["--config", recipe(model="m"), "--mixture", path]):
        code, line = refused(*arguments)
        assert code == 2 and "grows.yaml" in line and "aliases" in line and len(line) < 1_000
    for option in ("--dataset_options", "--mixture"):
        for text in ('{"a": ' + "[" * 5_000, "[" + "7, " * 10**4 + "7]", "9" * 5_000):
            code, line = refused("--config", recipe(model="m"), option, text)
            assert code == 2 and option[2:] in line and len(line) < 1_000


def test_a_missing_model_folder_is_a_failure_that_names_it(refused, tmp_path, recipe):
    code, line = refused("--config", recipe(), "--model", tmp_path / "nowhere")
    assert (code, str(tmp_path / "nowhere") in line) == (1, True)


def test_the_model_to_start_from_is_not_overwritten(refused, checkpoint):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    code, line = refused("--model", checkpoint, "--output_dir", checkpoint, "--use_cpu", "true")
    assert (code, "holds the model that the training starts from" in line) == (2, True)
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before


def test_another_kind_of_model_is_a_failure_that_names_it(refused, tmp_path, recipe):
    BertConfig().save_pretrained(tmp_path / "bert")
    code, line = refused("--config", recipe(), "--model", tmp_path / "bert")
    assert (code, "'bert'" in line, "init_checkpoint.py" in line) == (1, True, True)


def test_a_checkpoint_with_missing_weights_is_a_failure_that_names_one(refused, tmp_path, recipe, checkpoint):
    for path in checkpoint.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    config["text_config"]["layer_types"] = config["text_config"]["layer_types"] + ["full_attention"]
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, line = refused("--config", recipe(dataset="no_such_set"), "--model", tmp_path)
    assert (code, "weights are missing" in line, "layers.4." in line) == (1, True, True), line


def test_a_pattern_that_matches_nothing_is_a_failure_that_names_it(refused, recipe, checkpoint):
    path = recipe(trainable=["seg_projector.*", "sam.no_such.*"], dataset="no_such_set")
    code, line = refused("--config", path, "--model", checkpoint)
    assert (code, "sam.no_such.*" in line, "seg_projector" in line) == (1, True, False)


@pytest.mark.parametrize(
    ("option", "word"),
    [({"dataset": "no_such_set"}, "no_such_set"), ({"eval_split": "no_such"}, "'no_such'")],
    ids=["data set", "split"],
)
def test_missing_data_are_a_failure_that_names_them(refused, recipe, checkpoint, monkeypatch, tmp_path, option, word):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    path = recipe(**{"dataset_options": OPTIONS, **option})
    code, line = refused("--config", path, "--model", checkpoint)
    assert (code, word in line) == (1, True)


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "no/such.yaml", "--debug"])
    with pytest.raises(UsageError):
        run(train.main)


def test_an_error_of_a_second_process_names_its_rank(refused, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert refused("--config", "no/such.yaml")[1].endswith("(rank 1)")


# --- model -----------------------------------------------------------------------------------------------------------


RATES = ("--lora_learning_rate", "1e-3", "--bridge_learning_rate", "1e-3", "--decoder_learning_rate", "1e-3")


@pytest.mark.parametrize(
    ("options", "arguments", "words"),
    [
        ({}, ["--lora_rank", "2", *RATES, "--learning_rate", "0.5"], "learning_rate 0.5 has no effect: every trained"),
        ({"learning_rate": 0.5}, ["--lora_rank", "2", *RATES], None),
        ({}, ["--learning_rate", "0.5", *RATES[2:]], None),  # the rate of the language model
        (
            {"dataset_options": {**OPTIONS, "validation_rows": 1}, "eval_strategy": "epoch"},
            ["--metric_for_best_model", "N-acc"],
            "metric_for_best_model N-acc: the evaluation questions do not measure it. Use one of",
        ),
    ],
    ids=["all rates replaced", "the recipe's rate replaced", "a rate that counts", "a score without questions"],
)
def test_options_that_need_model_and_data_are_refused_before_the_training(
    refused, recipe, checkpoint, monkeypatch, options, arguments, words
):
    def begin(*_):
        raise ValueError("it would begin")

    monkeypatch.setattr(train, "begin", begin)
    monkeypatch.setattr(late_checks, "measured_scores", lambda _: {"loss", "gIoU"})
    path = recipe(**{"model": str(checkpoint), "dataset_options": OPTIONS, **options})
    code, line = refused("--config", path, *arguments)
    if words is None:
        assert (code, line) == (1, "error: it would begin")
    else:
        assert (code, words in line) == (2, True), line


def test_the_precision_of_the_launcher_is_used_printed_and_recorded(
    recipe, checkpoint, monkeypatch, tmp_path, caplog, own_cache
):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    path = recipe(model=str(checkpoint), dataset_options=OPTIONS, max_steps=1, save_strategy="no", disable_tqdm=True)
    dtypes = []
    old = train.GemmaLisaTrainer.train

    def watched(trainer, *args, **kwargs):
        dtypes.append({weight.dtype for weight in trainer.model.parameters() if not weight.requires_grad})
        dtypes.append(trainer.accelerator.mixed_precision)
        return old(trainer, *args, **kwargs)

    monkeypatch.setattr(train.GemmaLisaTrainer, "train", watched)
    train.main(["--config", path, "--trainable", "seg_projector.*", "sam.mask_decoder.*"])
    assert dtypes == [{torch.bfloat16}, "bf16"]
    assert "weights in fp32 (frozen: bf16), computed in bf16" in caplog.text
    assert read_stages(tmp_path / "out")[-1]["settings"]["bf16"] is True


@pytest.mark.parametrize("at", ["self_check", "optimizer", "epoch"])
def test_a_refused_run_deletes_nothing(refused, monkeypatch, tmp_path, recipe, checkpoint, at):
    old = tmp_path / "out" / "checkpoint-2" / "trainer_state.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")

    def fails(*args, **kwargs):
        raise ValueError("that cannot be")

    where = {
        "self_check": (train, "self_check"),
        "optimizer": (train.GemmaLisaTrainer, "create_optimizer"),
        "epoch": (EpochCallback, "on_epoch_begin"),
    }
    monkeypatch.setattr(*where[at], fails)
    path = recipe(
        model=str(checkpoint), dataset_options=OPTIONS, eval_strategy="no", preview_samples=0, disable_tqdm=True
    )
    code, line = refused("--config", path, "--fresh", "true", "--self_check", "true")
    assert (code, line) == (1, "error: that cannot be")
    assert old.is_file()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", path, "--fresh", "true", "--max_steps", "1"])
    run(train.main)
    assert not old.is_file() and (tmp_path / "out" / "model.safetensors").is_file()


# Messages of libraries that a user cannot act on (`quiet_libraries`)
NOISE = ("gemm_4bit_forward", "Setting accelerator to CPU", "nstall torchvision", "script_method", "{'loss'")


# --- a whole run -----------------------------------------------------------------------------------------------------
# Options of the whole run
WHOLE_RUN = {
    "dataset_options": OPTIONS,
    "muon_learning_rate": 0.01,
    "per_device_train_batch_size": 2,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "preview_samples": 2,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
}


def run_program(path, home, steps, *arguments):
    """Run train.py as a program for `steps` steps. Returns what it printed."""
    return run_command(home, "train.py", "--config", path, "--max_steps", steps, *arguments)


def run_command(home, *arguments):
    """Run a program of the project. Returns what it printed, which must have no message of `NOISE`."""
    environment = {**os.environ, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_DATASETS_CACHE", None)
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    output = done.stdout + done.stderr
    for noise in NOISE:
        assert noise not in output, noise
    return output


@pytest.mark.slow
def test_a_run_prints_its_progress_writes_all_its_files_and_resumes(tmp_path, checkpoint, recipe):
    out, home = tmp_path / "out", tmp_path / "home"
    path = recipe(model=str(checkpoint), **WHOLE_RUN)
    said = run_program(path, home, 2)
    for words in (
        "shapes train: 6 rows",
        "shapes validation: 8 questions",
        "parameters are trained:",
        "    seg_projector ",
        "    sam.vision_encoder ",
        "cores, weights in fp32, computed in fp32",
        "2 samples per optimizer step",
    ):
        assert words in said, words
    assert "Traceback" not in said
    for words in (
        " step ",
        " mask BCE ",
        "mean IoU over questions with a target; 1 is best",
        "python eval.py --model ",
    ):
        assert words in said, words
    model, processor = load_checkpoint(out)
    start, _ = load_checkpoint(checkpoint)
    before = dict(start.named_parameters())
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name.split(".")[0] for name in moved} == {"model", "seg_projector", "sam"}
    assert not any(name.startswith(("model.vision_tower.", "sam.vision_encoder.")) for name in moved)
    load_checkpoint(out / "checkpoint-2")

    said = run_program(path, home, 4, "--resume_from_checkpoint", str(out / "checkpoint-2"))
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "mask_dice_loss" in entry] == [1, 2, 3, 4]
    scores = [entry for entry in history if "eval_gIoU" in entry]
    assert [(entry["step"], entry["eval_count"]) for entry in scores] == [(2, 8), (4, 8)]
    assert sorted(path.name for path in (out / "previews").iterdir()) == ["step-000002.png", "step-000004.png"]
    assert (out / "curve.png").stat().st_size > 0
    assert f"Model saved: {out}" in said and "Newest checkpoint, to resume from: " in said
    load_checkpoint(out)
    picture = out / "previews" / "step-000004.png"
    query = ("--image", picture, "--query", "the circle", "--output", tmp_path / "answer.png", "--max_new_tokens", 3)
    run_command(home, "predict.py", "--model", out, *query)

    (stage,) = json.loads((out / "training.json").read_text())["stages"]
    assert stage["command"].startswith("train.py --config") and "--max_steps 4" in stage["command"]
    assert (stage["steps"], stage["global_batch_size"], stage["processes"], stage["seed"]) == (4, 2, 1, 42)
    assert stage["history"] == history
    assert len(stage["resumed"]) == 1 and "--max_steps 2" in stage["resumed"][0]["command"]
    assert json.loads((out / "checkpoint-2" / "training.json").read_text())["stages"][0]["steps"] == 2
    assert set(stage["versions"]) == {"torch", "transformers", "datasets"}
