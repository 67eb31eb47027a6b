"""A run is killed 20 times at different moments, resumes each time, and ends with the same weights.

This file is also the program that starts the runs. It imports train.py once, and forks a process for every run.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from gemma_lisa import train
from gemma_lisa.scripts.init_tiny import build_tiny

KILLS = 20
STEPS, SAVE_STEPS, KEPT = 120, 2, 2


def start_run(arguments: list[str], log: Path) -> int:
    """Start a process that runs train.py's main. Returns its id."""
    return fork(lambda: train.main(arguments), log)


def fork(function: Callable[[], None], log: Path) -> int:
    """Start a process that calls a function. Returns its id.

    The parent must not train: it would create tqdm's lock, which all children share and a killed child can hold.
    """
    child = os.fork()
    if child:
        return child
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = 1
    try:
        function()
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run_whole(arguments: list[str], log: Path) -> float:
    """Run without killing. Returns the seconds."""
    begin = time.perf_counter()
    _, status = os.waitpid(start_run(arguments, log), 0)
    assert status == 0, log.read_text()[-3000:]
    return time.perf_counter() - begin


def check_whole(folder: Path) -> int:
    """Check that every checkpoint can be opened completely. Returns the step of the newest."""
    steps = [0]
    for path in folder.glob("checkpoint-*"):
        load_file(path / "model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.load(path / name, weights_only=False)
        step = json.loads((path / "trainer_state.json").read_text())["global_step"]
        assert path.name == f"checkpoint-{step}"
        assert json.loads((path / "training.json").read_text())["stages"][-1]["steps"] == step
        assert (path / "config.json").is_file() and (path / "tokenizer.json").is_file()
        steps.append(step)
    assert len(steps) <= 1 + KEPT + 1  # one more between a save and the deletion of the oldest
    return max(steps)


def wait_for_the_moment(number: int, draw: random.Random, seconds: tuple[float, float], out: Path, step: int) -> None:
    """Wait for a random moment: in turn before the first save, in the steps after it, and within a save.

    Args:
        seconds: duration of a short run, and of a step.
        step: step of the newest checkpoint.
    """
    since, begin = time.time(), time.perf_counter()
    moment = draw.uniform(0, seconds[0])

    def is_reached() -> bool:
        passed = time.perf_counter() - begin
        if number % 3 == 0:
            return passed > moment or newest_of(out) > step
        return passed > 120 or (newest_of(out) > step if number % 3 == 1 else is_saving(out, since))

    while not is_reached():
        time.sleep(0.001)
    time.sleep(draw.uniform(0, (0, 4 * seconds[1], 0.03)[number % 3]))


def newest_of(out: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in out.glob("checkpoint-*")), default=0)


def is_saving(out: Path, since: float) -> bool:
    """Return whether a temporary folder is newer than `since`: those of killed processes are older."""
    return (out / ".saving").exists() and (out / ".saving").stat().st_mtime > since


def kill_and_resume(folder: Path, arguments: list[str], seconds: tuple[float, float]) -> dict:
    """Start the same run repeatedly, and kill it at random moments of a fixed seed."""
    draw, report, step = random.Random(0), {"steps": [], "during": []}, 0
    out, log = folder / "killed", folder / "killed.log"
    for number in range(KILLS):
        log.write_text("")
        since, child = time.time(), start_run(arguments, log)
        wait_for_the_moment(number, draw, seconds, out, step)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        said = log.read_text()
        assert os.WIFSIGNALED(status), f"ended by itself at kill {number}: {said[-3000:]}"
        assert "error" not in said and "Traceback" not in said, said
        newest = check_whole(out) if out.exists() else 0
        assert newest >= step, f"step {step} was there, {newest} is"
        if newest > step or "resuming from" in said:
            assert (f"resuming from step {step}: " in said) == (step > 0), said
        during = "saving" if is_saving(out, since) else "training" if newest > step else "start"
        report["during"].append(during)
        report["steps"].append(step := newest)
    return report


def write_start(folder: Path) -> None:
    model, processor = build_tiny(image_size=32)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    os.waitpid(fork(lambda: write_start(folder / "start"), folder / "start.log"), 0)
    recipe = {
        "model": str(folder / "start"),
        "dataset_options": {"image_size": 32, "train_rows": 6, "validation_rows": 1, "test_rows": 1},
        "use_cpu": True,
        "max_steps": STEPS,
        "per_device_train_batch_size": 1,
        "max_questions": 1,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": SAVE_STEPS,
        "save_total_limit": KEPT,
        "preview_samples": 0,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["--config", str(folder / "recipe.yaml"), "--output_dir"]
    run_whole([*arguments, str(folder / "drawn"), "--max_steps", "1"], folder / "drawn.log")  # prepares the rows
    few = run_whole([*arguments, str(folder / "few"), "--max_steps", "10"], folder / "few.log")
    history = json.loads((folder / "few" / "trainer_state.json").read_text())["log_history"]
    a_step = history[-1]["train_runtime"] / 10
    report = kill_and_resume(folder, [*arguments, str(folder / "killed")], (few, a_step))
    run_whole([*arguments, str(folder / "whole")], folder / "whole.log")
    run_whole([*arguments, str(folder / "killed")], folder / "killed.log")
    weights = (folder / "killed" / "model.safetensors").stat()
    run_whole([*arguments, str(folder / "killed")], folder / "again.log")
    assert (folder / "killed" / "model.safetensors").stat() == weights
    (folder / "report.json").write_text(json.dumps({"seconds": few, **report}))


@pytest.mark.slow
def test_a_run_killed_twenty_times_gives_the_same_weights(tmp_path):
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    environment.pop("HF_DATASETS_CACHE", None)
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["steps"]) == KILLS and {"saving", "training", "start"} == set(report["during"])
    assert (
        f"finished: this run has trained all its {STEPS} steps in {tmp_path / 'killed'}"
        in (tmp_path / "again.log").read_text()
    )

    killed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert killed.keys() == whole.keys()
    assert all(torch.equal(killed[name], whole[name]) for name in whole)
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }


def logged(folder: Path) -> list[list[float]]:
    """Return the logged values of every step, without times."""
    names = ("step", "loss", "language_loss", "mask_bce_loss", "mask_dice_loss", "grad_norm", "learning_rate")
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    steps = [[entry[name] for name in names] for entry in history if "loss" in entry]
    assert [step[0] for step in steps] == list(range(1, STEPS + 1))
    return steps


if __name__ == "__main__":
    main(Path(sys.argv[1]))
