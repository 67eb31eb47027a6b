"""Measure what a pretrained language model is worth: train it on shapes/reason, and ask for what was never trained.

    python benchmarks/reason.py --start outputs/gemma-3-270m
    python benchmarks/reason.py --start outputs/gemma-3-1b --output_dir outputs/reason-1b --seeds 0 1 2 \\
        -- --use_cpu false --bf16 true

Bases:

- real: START, from scripts/init_checkpoint.py
- shuffled: START, with the matrices of its language model shuffled (see shuffled_weights.py)
- scratch: the checkpoint in examples/, trained from scratch on other levels of shapes; it is not trained further

For each seed, real and shuffled are trained with the recipes, one after the other. Options after `--` are passed to
train.py. All bases answer the same questions about held-out scenes, by generation. The same command resumes: finished
trainings and evaluations are not repeated.

OUTPUT_DIR then has reason.md (tables), reason.json, and of each base a contact sheet of test concepts.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset

from gemma_lisa.benchmarks.reason_sheet import draw_concepts
from gemma_lisa.benchmarks.reason_tables import lines_of, said_first, summary
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

# The stages of the training
RECIPES = tuple(ROOT / "configs" / f"gemma3-270m-reason{name}.yaml" for name in ("-text", "-bridge", ""))
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
    stems = ", ".join(recipe.stem for recipe in RECIPES)
    add("--recipes", nargs="+", type=Path, default=RECIPES, metavar="YAML", help=f"one per stage (default: {stems})")
    add("--processes", type=positive, default=1, metavar="N", help="processes of each training (default: 1)")
    add("--steps", type=positive, metavar="N", help="training steps of each stage (default: those of its recipe)")
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
def call(program: str, options: list[str], processes: int = 1) -> None:
    """Run a program of the project, in several processes with torchrun.

    Raises:
        ValueError: it failed. It has printed why.
    """
    print(f"{program} {shlex.join(options)}", flush=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    launch = torchrun if processes > 1 else []
    code = subprocess.run([sys.executable, *launch, str(ROOT / program), *options]).returncode
    if code:
        raise ValueError(
            f"{program} ended with exit code {code}, see its message above. The same command resumes here."
        )


def options_of(rows: int) -> dict[str, int]:
    """Return the options of the data set for the first rows of its test split."""
    return {"train_rows": 0, "validation_rows": 0, "test_rows": rows}


def train(base: str, seed: int, args: argparse.Namespace) -> Path:
    """Train the stages of a base that are not finished, and return the folder of the trained model."""
    model = args.start
    if base == SHUFFLED:
        model = args.start.with_name(f"{args.start.name}-{SHUFFLED}")
        if not model.exists():
            write_shuffled(args.start, model)
    for recipe in args.recipes:
        is_last = recipe == args.recipes[-1]
        output = args.output_dir / (f"{base}-{seed}" if is_last else f"{base}-{seed}-{recipe.stem}")
        steps = args.steps or yaml.safe_load(recipe.read_text())["max_steps"]
        if not is_finished(output, steps):
            folders = ["--model", str(model), "--output_dir", str(output)]
            lengths = ["--max_steps", str(steps), "--seed", str(seed)]
            shutil.rmtree(merged_folder(output), ignore_errors=True)  # of a shorter training
            call("train.py", ["--config", str(recipe), *folders, *lengths, *args.train_options], args.processes)
        model = output
    return model


def is_finished(output: Path, steps: int) -> bool:
    """Return whether a training has ended after this number of steps or more."""
    state = output / FINISHED
    return state.is_file() and json.loads(state.read_text())["global_step"] >= steps


def merged_folder(adapter: Path) -> Path:
    return adapter.with_name(f"{adapter.name}-merged")


def merge(adapter: Path) -> Path:
    """Merge a trained adapter in fp32, unless this is done, and return the folder to evaluate.

    Many CPUs have no bf16 instructions and compute in fp32 several times faster. A GPU evaluates the adapter itself.
    """
    if torch.cuda.is_available():
        return adapter
    output = merged_folder(adapter)
    if not output.exists():
        call("scripts/export.py", ["--model", str(adapter), "--dtype", "float32", "--output", str(output)])
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
            files[base].append(evaluate(merge(train(base, seed, args)), f"{base}-{seed}", args))
    return files


# ---------------------------------------------------------------------------------------------------------------------
# Results
# ---------------------------------------------------------------------------------------------------------------------
def plain_words(rows: Dataset) -> dict[str, str]:
    """Return what the right answer to each question says first, by the question's id."""
    return {
        f"{row['source']}#{number}": said_first(target["answer"])
        for row in rows.remove_columns("image")
        for number, target in enumerate(row["targets"])
    }


def headline(facts: dict[str, Any], args: argparse.Namespace) -> str:
    """Return the paragraph above the tables. facts: from `header`."""
    seeds = ", ".join(map(str, args.seeds))
    spread = "95% CI in brackets" + (", mean ± standard deviation over the seeds" if len(args.seeds) > 1 else "")
    return (
        f"`{facts['command']}` at {facts['commit']}, {facts['date']}, torch {facts['torch']}, {facts['machine']}. "
        f"{args.rows} held-out scenes, by generation; seed {seeds}; {spread}."
    )


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    files = run_all(args)
    runs = {base: [read_results(path)[1] for path in paths] for base, paths in files.items()}
    facts = header(__file__, arguments, "cuda" if torch.cuda.is_available() else "cpu")
    rows = load_rows(DATASET, SPLIT, None, options_of(args.rows))
    found = summary(runs, [base for base in args.bases if base != SCRATCH], plain_words(rows))
    options = {name: getattr(args, name) for name in ("rows", "seeds", "steps", "train_options")}
    options["recipes"] = [recipe.name for recipe in args.recipes]
    write_whole(args.output_dir / "reason.json", {**facts, **options, **found})
    questions = list_questions(rows, DATASET, True)
    for base, [first, *_] in files.items():
        write_whole(first.with_suffix(".concepts.png"), draw_concepts(runs[base][0], questions.image))
    lines = [headline(facts, args), "", *lines_of(found)]
    write_whole(args.output_dir / "reason.md", "\n".join(lines) + "\n")
    publish(lines, None)


if __name__ == "__main__":
    run(main)
