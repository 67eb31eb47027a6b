"""Measure conversations: gIoU by turn, accuracy of the predicted scores, and effect of point and box corrections.

    python benchmarks/bench_conversation.py
    python benchmarks/bench_conversation.py --model outputs/demo --level hard --scenes 100

Uses held-out scenes of shapes. All questions of a scene are asked in one session, in the order of its row, and also
each in a new conversation.

If target and answer have one mask each, the mask is corrected with a point on a wrong pixel. If no pixel is wrong, the
point is on the object. Independently, the mask is corrected with the object's box.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.checkpoints.training_record import commit
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.evaluation.mask_arrays import intersection_and_union, unite
from gemma_lisa.interfaces.command_line import ArgumentParser, positive, run
from gemma_lisa.session_gemma_lisa import ImageSession


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=EXAMPLE, help="checkpoint folder (default: the checkpoint in examples/)"
    )
    parser.add_argument(
        "--level", default="easy", choices=["easy", "hard", "drawings"], help="level of shapes (default: easy)"
    )
    parser.add_argument("--scenes", type=positive, default=100, help="number of scenes (default: 100)")
    return parser.parse_args(arguments)


def iou(masks: np.ndarray, target: np.ndarray) -> float:
    """Return the IoU of the union of masks (K, H, W) with the union of targets (M, H, W)."""
    size = target.shape[1:]
    intersection, union = intersection_and_union(unite(masks, size), unite(target, size))
    return intersection / union if union else 1.0


def corrected(session: ImageSession, mask: np.ndarray, target: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the IoU of the session's last mask (1, H, W) after a point correction, and after a box correction.

    target: (1, H, W).
    """
    number, kept, thing = len(session.masks) - 1, session.masks[-1], target[0] == 1
    wrong = np.argwhere(mask[0] != thing)
    places = wrong if len(wrong) else np.argwhere(thing)
    y, x = places[np.random.default_rng(seed).integers(len(places))].tolist()
    clicked, _ = session.correct(number, points=[(x, y, int(thing[y, x]))])
    session.masks[number] = kept
    rows, columns = np.flatnonzero(thing.any(axis=1)), np.flatnonzero(thing.any(axis=0))
    boxed, _ = session.correct(number, box=(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return iou(clicked[None].numpy(), target), iou(boxed[None].numpy(), target)


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    torch.set_num_threads(1)
    model, processor = load_checkpoint(args.model)
    options = {"train_rows": 0, "validation_rows": 0, "test_rows": args.scenes}
    if args.level == "easy":  # hard scenes have one size
        options["image_size"] = model.config.sam_config.vision_config.image_size
    rows = load_rows(f"shapes/{args.level}", "test", None, options)
    questions = EvaluationQuestions(rows, with_conversations=False)
    # by_turn: IoU in the conversation and alone. singles: predicted score, IoU, IoU after a point and after a box.
    by_turn, singles, source = defaultdict(list), [], None
    for at in tqdm(range(len(questions)), unit="question"):
        sample = questions[at]
        question, target = sample["conversations"][0].turns[0][0], sample["masks"][0]
        if sample["source"] != source:
            source, turn = sample["source"], 0
            session, alone = (model.start(sample["image"].load(), processor) for _ in range(2))
        turn += 1
        answer = session.ask(question)
        if not len(target):
            continue
        alone.reset()
        masks = answer["masks"].numpy()
        by_turn[turn].append((iou(masks, target), iou(alone.ask(question)["masks"].numpy(), target)))
        if len(target) == len(masks) == 1:
            after = corrected(session, masks, target, seed=at)
            singles.append((float(answer["scores"][0]), by_turn[turn][-1][0], *after))
    print(f"{args.model}, {commit()}, {args.scenes} {args.level} scenes\n")
    print("| turn | questions with targets | gIoU in the conversation | gIoU alone |\n|---|---|---|---|")
    for turn, values in sorted(by_turn.items()):
        in_conversation, separate = np.mean(values, axis=0)
        print(f"| {turn} | {len(values)} | {in_conversation:.3f} | {separate:.3f} |")
    score, worth, clicked, boxed = np.array(singles).T
    print(f"\n{len(singles)} single masks: mean IoU {worth.mean():.3f}, mean score {score.mean():.3f}, ", end="")
    print(f"correlation {np.corrcoef(score, worth)[0, 1]:.2f};")
    print(f"mean IoU after a point {clicked.mean():.3f}, after a box {boxed.mean():.3f}")


if __name__ == "__main__":
    run(main)
