"""reason.py: which trainings and evaluations it starts, what it repeats, and the files that it writes."""

import json
import shutil
from pathlib import Path

import pytest
from reason_answers import ROWS, questions, refused, right

from gemma_lisa.benchmarks import reason
from gemma_lisa.checkpoints.loading import EXAMPLE
from gemma_lisa.checkpoints.weights_hash import checkpoint_hash
from gemma_lisa.evaluation.results_file import write_results
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.scripts.init_tiny import build_tiny


def value_of(options: list[str], name: str) -> str:
    return options[options.index(name) + 1]


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A list of the programs that were started. They write finished models and results with fixed answers."""
    calls = []

    def call(program, options, processes=1):
        assert processes == 1 or program == "train.py"
        calls.append((program, options))
        if program == "train.py":
            folder = Path(value_of(options, "--output_dir"))
            shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
            (folder / reason.FINISHED).write_text(json.dumps({"global_step": int(value_of(options, "--max_steps"))}))
            return
        if program == "scripts/export.py":
            shutil.copytree(value_of(options, "--model"), value_of(options, "--output"))
            return
        model, output = value_of(options, "--model"), Path(value_of(options, "--output"))
        facts = {"dataset": reason.DATASET, "split": "test", "protocol": "generate", "scores": {"count": 1}}
        facts |= {"dataset_options": json.loads(value_of(options, "--dataset_options"))}
        answers = right() if "real" in output.name else refused()
        write_results(output, {**facts, "checkpoint_hash": checkpoint_hash(model)}, answers)

    monkeypatch.setattr(reason, "call", call)
    monkeypatch.setattr(reason.torch.cuda, "is_available", lambda: False)
    shutil.copytree(EXAMPLE, tmp_path / "start")
    return calls


def arguments(folder: Path, *more: str) -> list[str]:
    return ["--start", str(folder / "start"), "--output_dir", str(folder / "out"), "--rows", str(ROWS), *more]


def test_each_base_is_trained_and_evaluated_once(programs, tmp_path, capsys):
    reason.main(arguments(tmp_path, "--steps", "3", "--seeds", "0", "1", "--", "--bf16", "true"))
    trained = [options for program, options in programs if program == "train.py"]
    starts = [(Path(value_of(one, "--model")).name, value_of(one, "--seed")) for one in trained]
    stages = len(reason.RECIPES)
    assert starts[::stages] == [("start", "0"), ("start-shuffled", "0"), ("start", "1"), ("start-shuffled", "1")]
    assert [Path(value_of(one, "--config")) for one in trained] == [*reason.RECIPES] * 4
    for options in trained:
        assert value_of(options, "--max_steps") == "3" and options[-2:] == ["--bf16", "true"]
        assert Path(value_of(options, "--config")).is_file()
    evaluated = [options for program, options in programs if program == "eval.py"]
    assert [Path(value_of(one, "--output")).stem for one in evaluated] == [
        *("scratch", "real-0", "shuffled-0", "real-1", "shuffled-1")
    ]
    assert value_of(evaluated[0], "--model") == str(EXAMPLE)
    exported = [options for program, options in programs if program == "scripts/export.py"]
    assert [value_of(one, "--output") for one in exported] == [value_of(one, "--model") for one in evaluated[1:]]
    assert {value_of(one, "--dtype") for one in exported} == {"float32"}

    table = (tmp_path / "out" / "reason.md").read_text()
    assert "| question | score | number | real | shuffled | scratch | chance |" in table
    assert "1.00 ± 0.00 | 0.00 ± 0.00 | 0.00 (0.00 to 0.00)" in table
    assert table in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "reason.json").read_text())
    assert found["scores"]["concept"]["real"]["values"] == [1.0, 1.0] and found["seeds"] == [0, 1]
    sheets = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert sheets == {f"{name}.concepts.png" for name in ("real-0", "shuffled-0", "scratch")}

    before = len(programs)
    reason.main(arguments(tmp_path, "--steps", "3", "--seeds", "0", "1"))
    assert len(programs) == before


def test_a_longer_training_and_other_rows_are_not_finished(programs, tmp_path):
    options = ["--bases", "real"]
    reason.main(arguments(tmp_path, *options, "--steps", "3"))
    assert reason.is_finished(tmp_path / "out" / "real-0", 3)
    assert not reason.is_finished(tmp_path / "out" / "real-0", 4)
    assert not reason.is_finished(tmp_path / "out" / "real-1", 3)
    args = reason.parse([*arguments(tmp_path, *options), "--rows", str(ROWS - 1)])
    reason.evaluate(tmp_path / "out" / "real-0-merged", "real-0", args)
    stages = ["train.py"] * len(reason.RECIPES)
    assert [program for program, _ in programs] == [*stages, "scripts/export.py", "eval.py", "eval.py"]


def test_a_longer_training_replaces_the_merged_folder(programs, tmp_path):
    for steps in ("3", "4"):
        reason.main(arguments(tmp_path, "--bases", "real", "--steps", steps))
    assert [program for program, _ in programs].count("scripts/export.py") == 2


def test_stages_start_from_each_other(programs, tmp_path):
    for name in ("first.yaml", "second.yaml"):
        (tmp_path / name).write_text("max_steps: 7\n")
    recipes = ["--recipes", str(tmp_path / "first.yaml"), str(tmp_path / "second.yaml")]
    reason.main(arguments(tmp_path, "--bases", "real", *recipes, "--processes", "2"))
    first, second = (options for program, options in programs if program == "train.py")
    assert value_of(first, "--max_steps") == "7" and value_of(first, "--output_dir").endswith("out/real-0-first")
    assert value_of(second, "--model") == value_of(first, "--output_dir")
    assert value_of(second, "--output_dir").endswith("out/real-0")


def test_a_gpu_evaluates_the_adapter_itself(programs, tmp_path, monkeypatch):
    monkeypatch.setattr(reason.torch.cuda, "is_available", lambda: True)
    assert reason.merge(tmp_path / "adapter") == tmp_path / "adapter" and programs == []


def test_the_first_seed_is_drawn_with_one_seed_too(programs, tmp_path):
    reason.main(arguments(tmp_path, "--bases", "real", "--seeds", "4"))
    table = (tmp_path / "out" / "reason.md").read_text()
    assert f"{ROWS} held-out scenes" in table and "95% CI in brackets" in table and "seed 4" in table
    assert (tmp_path / "out" / "real-4.concepts.png").stat().st_size > 10_000
    assert len(questions()) > 4 * ROWS - 1


def test_a_program_that_fails_stops_the_benchmark(tmp_path):
    with pytest.raises(ValueError, match="eval.py ended with exit code 2"):
        reason.call("eval.py", ["--no_such_option"])


def test_a_missing_start_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="--start .*none: this folder does not exist. docs/reason.md"):
        reason.main(["--start", str(tmp_path / "none")])
    assert reason.parse(["--start", str(tmp_path / "none"), "--bases", "scratch"]).bases == ["scratch"]


@pytest.mark.slow
def test_a_small_model_goes_through_all_stages(tmp_path):
    for part in build_tiny(image_size=128, bridge="heat_map"):
        part.save_pretrained(tmp_path / "start")
    options = json.dumps({"train_rows": 4, "validation_rows": 2, "test_rows": 2})
    small = ["--dataset_options", options, "--per_device_train_batch_size", "2", "--global_batch_size", "2"]
    folders = ["--start", str(tmp_path / "start"), "--output_dir", str(tmp_path / "out")]
    reason.main([*folders, "--steps", "2", "--rows", "4", "--", *small])
    found = json.loads((tmp_path / "out" / "reason.json").read_text())
    assert set(found["scores"]["plain"]) == {"score", "real", "shuffled", "scratch"}
    assert all((tmp_path / "out" / f"{name}.concepts.png").is_file() for name in ("real-0", "shuffled-0", "scratch"))
