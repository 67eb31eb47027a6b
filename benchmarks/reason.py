"""Measure what a pretrained language model is worth: train it on shapes/reason, and ask for what was never trained.

    python benchmarks/reason.py --start outputs/gemma-3-270m
    python benchmarks/reason.py --start outputs/gemma-3-1b --output_dir outputs/reason-1b --seeds 0 1 2 \\
        -- --use_cpu false --bf16 true

Bases:

- real: START, from scripts/init_checkpoint.py
- shuffled: START, with the matrices of its language model shuffled (see shuffled_weights.py)
- scratch: the checkpoint in examples/, trained from scratch on other levels of shapes; it is not trained further

For each seed, real and shuffled are trained with configs/gemma3-270m-reason.yaml. Options after `--` are passed to
train.py. All bases answer the same questions about held-out scenes, by generation. The same command resumes: finished
trainings and evaluations are not repeated.

OUTPUT_DIR then has reason.md (tables), reason.json, and of each base a contact sheet of test concepts.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from gemma_lisa.benchmarks.reason_sheet import draw_concepts
from gemma_lisa.benchmarks.reason_tables import Runs, lines_of, summary
from gemma_lisa.benchmarks.report import ROOT, publish
from gemma_lisa.benchmarks.shuffled_weights import write_shuffled
from gemma_lisa.benchmarks.way_processes import header
from gemma_lisa.checkpoints.loading import EXAMPLE
from gemma_lisa.checkpoints.weights_hash import checkpoint_hash
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.evaluation.benchmark import list_questions
from gemma_lisa.evaluation.results_file import read_results
from gemma_lisa.interfaces.command_line import ArgumentParser, not_negative, positive, run
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.whole_files import write_whole

RECIPE = ROOT / "configs" / "gemma3-270m-reason.yaml"
DATASET, SPLIT = "shapes/reason", "test"
REAL, SHUFFLED, SCRATCH = BASES = ("real", "shuffled", "scratch")
FINISHED = "trainer_state.json"  # train.py writes it into the folder itself only at the end


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    start = Path("outputs/gemma-3-270m")
    add("--start", type=Path, default=start, help=f"folder of the checkpoint to train (default: {start})")
    add("--output_dir", type=Path, default=Path("outputs/reason"), help="folder to write (default: outputs/reason)")
    add("--bases", nargs="+", choices=BASES, default=BASES, help="bases to compare (default: all)")
    add("--seeds", nargs="+", type=not_negative, default=[0], metavar="N", help="seeds of the trainings (default: 0)")
    steps = yaml.safe_load(RECIPE.read_text())["max_steps"]
    add("--steps", type=positive, default=steps, metavar="N", help=f"training steps (default: {steps})")
    add("--rows", type=positive, default=300, metavar="N", help="number of held-out scenes (default: 300)")
    add("--batch_size", type=positive, default=16, metavar="N", help="questions per batch of eval.py (default: 16)")
    add("train_options", nargs="*", metavar="-- OPTIONS", help="options of train.py that replace those of the recipe")
    args = parser.parse_args(arguments)
    args.bases = [base for base in BASES if base in args.bases]
    args.seeds = sorted(set(args.seeds))
    if not args.start.is_dir() and args.bases != [SCRATCH]:
        raise UsageError(
            f"--start {args.start}: this folder does not exist. docs/reason.md has the command to make it."
        )
    return args


# ---------------------------------------------------------------------------------------------------------------------
# Training and evaluation, each in a process of its own
# ---------------------------------------------------------------------------------------------------------------------
def call(program: str, options: list[str]) -> None:
    """Run a program of the project.

    Raises:
        ValueError: it failed. It has printed why.
    """
    print(f"{program} {shlex.join(options)}", flush=True)
    code = subprocess.run([sys.executable, str(ROOT / program), *options]).returncode
    if code:
        raise ValueError(
            f"{program} ended with exit code {code}, see its message above. The same command resumes here."
        )


def options_of(rows: int) -> dict[str, int]:
    """Return the options of the data set for the first rows of its test split."""
    return {"train_rows": 0, "validation_rows": 0, "test_rows": rows}


def train(base: str, seed: int, args: argparse.Namespace) -> Path:
    """Train a base, unless this is done, and return the folder of the trained model."""
    output = args.output_dir / f"{base}-{seed}"
    state = output / FINISHED
    if state.is_file() and json.loads(state.read_text())["global_step"] >= args.steps:
        return output
    start = args.start
    if base == SHUFFLED:
        start = args.start.with_name(f"{args.start.name}-shuffled")
        if not start.exists():
            write_shuffled(args.start, start)
    folders = ["--model", str(start), "--output_dir", str(output)]
    lengths = ["--max_steps", str(args.steps), "--seed", str(seed)]
    call("train.py", ["--config", str(RECIPE), *folders, *lengths, *args.train_options])
    return output


def evaluate(model: Path, name: str, args: argparse.Namespace) -> Path:
    """Evaluate a model, unless this is done, and return the results file."""
    output = args.output_dir / f"{name}.json"
    options = options_of(args.rows)
    if output.is_file():
        content, _ = read_results(output)
        if content["dataset_options"] == options and content["checkpoint_hash"] == checkpoint_hash(model):
            return output
    data = ["--dataset", DATASET, "--dataset_options", json.dumps(options), "--split", SPLIT]
    call("eval.py", ["--model", str(model), *data, "--batch_size", str(args.batch_size), "--output", str(output)])
    return output


def run_all(args: argparse.Namespace) -> dict[str, list[Path]]:
    """Train and evaluate, one seed after the other, and return the results files of each base."""
    files: dict[str, list[Path]] = {base: [] for base in args.bases}
    if SCRATCH in files:
        files[SCRATCH] = [evaluate(EXAMPLE, SCRATCH, args)]
    for seed in args.seeds:
        for base in [base for base in args.bases if base != SCRATCH]:
            files[base].append(evaluate(train(base, seed, args), f"{base}-{seed}", args))
    return files


# ---------------------------------------------------------------------------------------------------------------------
# Results
# ---------------------------------------------------------------------------------------------------------------------
def write_sheets(files: dict[str, list[Path]], runs: Runs, rows: int) -> None:
    """Draw the contact sheet of the first seed of each base."""
    questions = list_questions(load_rows(DATASET, SPLIT, None, options_of(rows)), DATASET, True)
    for base, [first, *_] in files.items():
        write_whole(first.with_suffix(".concepts.png"), draw_concepts(runs[base][0], questions.image))


def headline(facts: dict[str, Any], args: argparse.Namespace) -> str:
    """Return the paragraph above the tables. facts: from `header`."""
    seeds = ", ".join(map(str, args.seeds))
    spread = "95% CI in brackets" if len(args.seeds) == 1 else "mean ± standard deviation over the seeds"
    return (
        f"`{facts['command']}` at {facts['commit']}, {facts['date']}, torch {facts['torch']}, {facts['machine']}. "
        f"{args.rows} held-out scenes, by generation; {args.steps} training steps, seed {seeds}; {spread}."
    )


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    files = run_all(args)
    runs = {base: [read_results(path)[1] for path in paths] for base, paths in files.items()}
    facts = header(__file__, arguments, "cuda" if torch.cuda.is_available() else "cpu")
    found = summary(runs, [base for base in args.bases if base != SCRATCH])
    options = {name: getattr(args, name) for name in ("rows", "seeds", "steps", "train_options")}
    write_whole(args.output_dir / "reason.json", {**facts, **options, **found})
    write_sheets(files, runs, args.rows)
    lines = [headline(facts, args), "", *lines_of(found)]
    write_whole(args.output_dir / "reason.md", "\n".join(lines) + "\n")
    publish(lines, None)


if __name__ == "__main__":
    run(main)
