"""The commands of the docs that no test executes, each with its reason, and how the others are made short.

A command that is not listed here is executed by `test_docs.py`. Every command is parsed by `test_docs_commands.py`.
"""

import json
import re

from docs_blocks import Call

# Pages whose blocks are executed
EXECUTED = ("README.md", "docs/use.md", "docs/publish.md", "docs/data.md", "docs/runs.md")
# (pattern that matches the start of the command, reason)
NOT_RUN = [
    (r"make ", "installs, serves, trains or tests for minutes; its target must exist"),
    (r"pip install transformers torch numpy pillow$", "network; `make test-versions` does it"),
    (r"pip install -e \. datasets ", "network; test_from_files_light.py has an environment with these packages"),
    (r"curl ", "needs a running endpoint and its token"),
    (r"python scripts/export_adapter\.py", "needs an adapter of Gemma; test_export_adapter.py has a small one"),
    (r"python app\.py", "serves until it is stopped; test_app.py starts it"),
    (r"(python|torchrun|accelerate) .*\b(START|TRAINED|DATA)\b", "needs weights of Gemma 3 and SAM"),
    (r"(python|torchrun) .*--data_dir data\b", "needs public data sets; test_lisa_mix.py has small copies"),
    (r"python -m gemma_lisa\.datasets_builder\.formats\.refs_files", "needs a published file; see test_refs_files.py"),
    (r"python scripts/init_checkpoint\.py", "needs weights of Gemma 3 and SAM; test_init_checkpoint.py has small ones"),
    (r"python scripts/export\.py --model outputs/lora ", "needs an adapter of Gemma; see test_export.py"),
    (r"python scripts/plan_(memory|scaling)\.py", "builds the shapes of a 4B model for a minute; their tests do not"),
    (r"python -m torch\.distributed\.run", "trains for half an hour in two processes; test_recipes.py has each recipe"),
    (r"python scripts/init_tiny\.py --output outputs/start --image_size 96", "the start of those trainings"),
    (r"python eval\.py (--model outputs/demo --dataset shapes/easy|compare) ", "test_eval.py has small ones"),
    (r"python eval\.py --model outputs/photos --base .*--split validation", "the README has it for another split"),
    (r"python benchmarks/", "measures for minutes; test_benchmarks.py has a short run"),
    (r"python tests/plain_english\.py", "a test runs it on the whole project"),
]  # fmt: skip
SMALL = {"train_rows": 4, "validation_rows": 2, "test_rows": 2}
# Numbers that only make a command long
SHORT = {"--max_steps": "2", "--eval_steps": "2", "--rows": "2"}


def reason_not_run(call: Call) -> str | None:
    """Return why a call is not executed, or None if it is."""
    command = " ".join(call.words)
    return next((reason for pattern, reason in NOT_RUN if re.match(pattern, command)), None)


def shorten(words: list[str]) -> list[str]:
    """Return a call with fewer training steps and, of drawn scenes, fewer rows."""
    words = list(words)
    for at, word in enumerate(words[:-1]):
        if word in SHORT:
            words[at + 1] = SHORT[word]
        if word == "--dataset_options" and "rows" in words[at + 1]:
            words[at + 1] = json.dumps({**json.loads(words[at + 1]), **SMALL})
    if words[1] == "train.py":
        if "--max_steps" not in words:
            words += ["--max_steps", "2"]
        if "shapes" in words[words.index("--config") + 1] and "--dataset_options" not in words:
            words += ["--dataset_options", json.dumps(SMALL), "--eval_strategy", "no", "--preview_samples", "0"]
            words += ["--per_device_train_batch_size", "2"]
    return words
