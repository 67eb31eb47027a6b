"""How well follow-up questions are answered: gIoU by the turn of a conversation, and what the model's scores are worth.

    python benchmarks/bench_dialogue.py
    python benchmarks/bench_dialogue.py --model outputs/demo --level hard --scenes 100

Held-out drawn scenes; all questions of a scene are asked in one session, in the order of its row.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from gemma_lisa.checkpoint import EXAMPLE, load_checkpoint
from gemma_lisa.command_line import ArgumentParser, positive, run
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.metrics import intersection_and_union, unite
from gemma_lisa.records import commit


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EXAMPLE, help="folder of a checkpoint")
    parser.add_argument("--level", default="easy", choices=["easy", "hard"])
    parser.add_argument("--scenes", type=positive, default=100)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    torch.set_num_threads(1)
    model, processor = load_checkpoint(args.model)
    options = {"image_size": model.config.sam_config.vision_config.image_size}
    if args.level == "hard":
        options = {}
    sizes = {"train_rows": 0, "validation_rows": 0, "test_rows": args.scenes}
    questions = EvaluationQuestions(
        load_rows(f"shapes/{args.level}", "test", None, {**options, **sizes}), with_conversations=False
    )
    ious, scores, worth, session, source = defaultdict(list), [], [], None, None
    turn = 0
    for sample in tqdm((questions[at] for at in range(len(questions))), total=len(questions), unit="question"):
        if sample["source"] != source:
            source, turn, session = sample["source"], 0, model.start(sample["image"], processor)
        answer = session.ask(sample["chats"][0].rounds[0][0])
        turn += 1
        target, size = sample["masks"][0], (sample["image"].height, sample["image"].width)
        if not len(target):
            continue
        intersection, union = intersection_and_union(unite(answer["masks"].numpy(), size), unite(target, size))
        ious[turn].append(intersection / union if union else 1.0)
        if len(target) == len(answer["masks"]) == 1:
            scores.append(float(answer["scores"][0]))
            worth.append(ious[turn][-1])
    print(f"{args.model}, {commit()}, {args.scenes} {args.level} scenes\n")
    print("| turn | questions for what is there | gIoU |\n|---|---|---|")
    for turn, values in sorted(ious.items()):
        print(f"| {turn} | {len(values)} | {np.mean(values):.3f} |")
    print(
        f"\nScores of {len(scores)} single masks: correlation with their IoU {np.corrcoef(scores, worth)[0, 1]:.2f}, "
        f"mean {np.mean(scores):.3f} where the IoU's is {np.mean(worth):.3f}"
    )


if __name__ == "__main__":
    run(main)
