"""Compare weights in fp32, bf16, int8 and nf4: loss, gIoU, time and memory.

    python benchmarks/bench_quantization.py --model examples/shapes-tiny --rows 100

With int8 and nf4, the linear layers of the language model are quantized, and the rest is in bf16. Times on a CPU do not
predict those on a GPU.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from gemma_lisa.checkpoints.devices import choose_device
from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.checkpoints.lora import count_weights
from gemma_lisa.checkpoints.training_record import commit
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, TrainingQuestions
from gemma_lisa.evaluation.benchmark import list_questions
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.metrics import intervals, summarize
from gemma_lisa.evaluation.protocols import by_generation, to_device
from gemma_lisa.interfaces.command_line import positive

KINDS = {
    "fp32": {"dtype": torch.float32},
    "bf16": {"dtype": torch.bfloat16},
    "int8": {"dtype": torch.bfloat16, "load_in_8bit": True},
    "nf4": {"dtype": torch.bfloat16, "load_in_4bit": True},
}
BATCH_SIZE = 8


def mean_loss(model, processor, rows) -> float:
    """Return the training loss, as a mean over batches."""
    collator = GemmaLisaCollator(processor, mask_loss_size=model.config.mask_loss_size)
    questions = TrainingQuestions(rows, seed=0, max_questions=4)
    losses = []
    with torch.inference_mode():
        for start in range(0, len(questions), BATCH_SIZE):
            samples = [questions[at] for at in range(start, min(start + BATCH_SIZE, len(questions)))]
            losses.append(model(**to_device(collator(samples), model.device)).loss.item())
    return sum(losses) / len(losses)


def measure(options: dict, model_path: Path, rows, device: torch.device) -> list[str]:
    """Return table cells: loss, gIoU with its 95% CI, N-acc, CPU ms per question, MB of the text layers, MB of all."""
    model, processor = load_checkpoint(model_path, device=device, **options)
    questions = EvaluationQuestions(rows, with_conversations=False)
    loss = mean_loss(model, processor, rows)
    answers, begun = [], time.process_time()
    for start in range(0, len(questions), BATCH_SIZE):
        samples = [questions[at] for at in range(start, min(start + BATCH_SIZE, len(questions)))]
        answers += by_generation(model, processor, samples, max_new_tokens=64)
    milliseconds = 1000 * (time.process_time() - begun) / len(questions)
    asked = list_questions(rows, "shapes/easy", with_conversations=False)
    judged = [judge(one, replace(answer, id=one.id)) for one, answer in zip(asked, answers, strict=True)]
    scores, (low, high) = summarize(judged), intervals(judged)["gIoU"]
    held = {name: parameter.numel() * parameter.element_size() for name, parameter in model.named_parameters()}
    numbers = sum(count_weights(parameter) for parameter in model.parameters())
    layers = sum(size for name, size in held.items() if name.startswith("model.language_model.layers."))
    return [
        f"{loss:.4f}",
        f"{scores['gIoU']:.4f} ({low:.3f} to {high:.3f})",
        f"{scores['N-acc']:.3f}",
        f"{milliseconds:.0f}",
        f"{layers / 1e6:.3f}",
        f"{sum(held.values()) / 1e6:.3f} of {numbers:,} numbers",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=EXAMPLE, help="checkpoint folder (default: the checkpoint in examples/)"
    )
    parser.add_argument(
        "--rows", type=positive, default=100, help="number of held-out easy scenes of 128 pixels (default: 100)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = choose_device(None)
    options = {"image_size": 128, "train_rows": 0, "validation_rows": 0, "test_rows": args.rows}
    rows = load_rows("shapes/easy", "test", None, options)
    print(f"{commit()}, torch {torch.__version__}, {args.rows} scenes\n")
    print("| weights | loss | gIoU | N-acc | CPU ms per question | MB of text layers | MB of all weights |")
    print("|---|---|---|---|---|---|---|")
    for name, kind in KINDS.items():
        print(f"| {name} | {' | '.join(measure(kind, args.model, rows, device))} |", flush=True)


if __name__ == "__main__":
    main()
