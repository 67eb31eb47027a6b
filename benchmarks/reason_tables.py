"""The tables of reason.py: scores by kind of question, answers that name what was asked for, and classes of errors.

They are made from the results files of eval.py. A base is a language model, such as "real"; it has one list of judged
questions per seed.
"""

from collections import defaultdict
from functools import lru_cache
from statistics import mean, stdev
from typing import Any

import numpy as np

from gemma_lisa.benchmarks.way_processes import table
from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.datasets_builder.synthetic.shapes import ShapesConfig
from gemma_lisa.datasets_builder.synthetic.shapes_reason import draw_scene
from gemma_lisa.evaluation.error_classes import CLASSES, RIGHT
from gemma_lisa.evaluation.metrics import intervals, summarize
from gemma_lisa.evaluation.records import Judged

Runs = dict[str, list[list[Judged]]]  # base -> judged questions of each seed
TEST_SPLIT = 2  # number of the split that seeds its scenes, see `shapes.Shapes`
TITLES = {
    "plain": "plain: the red circle",
    "paraphrase": "paraphrase: the crimson disc",
    "concept": "test concept: the shape coloured like blood",
    "ja_plain": "Japanese: 赤い円",
    "ja_concept": "Japanese concept: トマトの色の円",
    "negation": "negation: the circle that is not coloured like blood",
    "comparison": "comparison: the larger of the two shapes coloured like blood",
    "absent": "absent, plain",
    "absent_concept": "absent, test concept",
}
ALL = "all with a target"
SCORES = {kind: "N-acc" if kind.startswith("absent") else "gIoU" for kind in TITLES} | {ALL: "T-acc"}
# What a system scores that shows one object of the scene, drawn at random, for every question
CHANCE = {"N-acc": 0.0, "T-acc": 1.0}


def of_kind(judged: list[Judged], kind: str) -> list[Judged]:
    """Return the questions of a kind, or of ALL."""
    return [
        one
        for one in judged
        if one.question.targets is not None
        and (bool(one.question.targets) if kind == ALL else one.question.kind == kind)
    ]


def score(runs: list[list[Judged]], kind: str) -> dict[str, Any]:
    """Return the score of a kind: its value for each seed and, of a single seed, the 95% CI."""
    name = SCORES[kind]
    chosen = [of_kind(judged, kind) for judged in runs]
    values = [summarize(judged)[name] for judged in chosen]
    interval = intervals(chosen[0]).get(name) if len(chosen) == 1 else None
    return {"values": values, "interval": interval, "questions": len(chosen[0])}


def cell(found: dict[str, Any]) -> str:
    """Return a score as text: with its 95% CI, or the mean and standard deviation over seeds."""
    values = found["values"]
    if None in values:
        return "–"
    if len(values) > 1:
        return f"{mean(values):.2f} ± {stdev(values):.2f}"
    low, high = found["interval"]
    return f"{values[0]:.2f} ({low:.2f} to {high:.2f})"


@lru_cache(maxsize=1)
def masks_of_scene(source: str, image_size: int) -> np.ndarray:
    """Return the masks of all objects of a test scene (K, H, W) bool, drawn again from the number in its source."""
    number = int(source.rpartition("/")[2])
    scene = draw_scene(np.random.default_rng((ShapesConfig.seed, TEST_SPLIT, number)), image_size)
    return np.stack([thing.mask for thing in scene.objects])


def chance(judged: list[Judged]) -> float | None:
    """Return the mean IoU of an object of the scene drawn at random, over questions with a target."""
    found = []
    for one in judged:
        question = one.question
        if question.targets:
            masks = masks_of_scene(question.source, question.size[0])
            target = np.any([decode_mask(rle, question.id) for rle in question.targets], axis=0)
            unions = (masks | target).sum(axis=(1, 2))
            found.append(((masks & target).sum(axis=(1, 2)) / unions).mean())
    return float(np.mean(found)) if found else None


def said_first(answer: str | None) -> str:
    """Return what an answer says before its colon: "The red shape" of "The red shape: red circle [SEG]."."""
    return (answer or "").partition(":")[0].strip()


def named_share(runs: list[list[Judged]], kind: str, plain: dict[str, str]) -> float | None:
    """Return the share of answers to a kind that name what was asked for in the right plain words, over all seeds.

    Args:
        runs: judged questions of each seed.
        kind: kind of the questions.
        plain: the right plain words of each question's id.
    """
    asked = [one for judged in runs for one in of_kind(judged, kind)]
    right = sum(said_first(one.prediction.text) == plain[one.question.id] for one in asked)
    return right / len(asked) if asked else None


def count_errors(runs: list[list[Judged]], kind: str) -> dict[str, int]:
    """Return the number of answers in each class of errors, and of answers without one, over all seeds."""
    counts: dict[str, int] = defaultdict(int)
    for judged in runs:
        for one in of_kind(judged, kind):
            counts[one.error or RIGHT] += 1
    return {name: counts[name] for name in (RIGHT, *CLASSES)}


def summary(runs: Runs, trained: list[str], plain: dict[str, str]) -> dict[str, Any]:
    """Return the numbers of all tables as JSON values.

    Args:
        runs: judged questions of each base; all bases answered the same questions.
        trained: bases that were trained to name what is asked for. The others answer in other words.
        plain: as in `named_share`.
    """
    judged = next(iter(runs.values()))[0]
    found: dict[str, Any] = {"scores": {}, "chance": {}, "named": {}, "errors": {}}
    for kind, name in SCORES.items():
        found["scores"][kind] = {"score": name, **{base: score(of, kind) for base, of in runs.items()}}
        found["chance"][kind] = chance(of_kind(judged, kind)) if name == "gIoU" else CHANCE[name]
    for kind in TITLES:
        found["named"][kind] = {base: named_share(runs[base], kind, plain) for base in trained}
        found["errors"][kind] = {base: count_errors(of, kind) for base, of in runs.items()}
    return found


def lines_of(found: dict[str, Any]) -> list[str]:
    """Return the tables of `summary` in Markdown."""
    bases = [name for name in next(iter(found["scores"].values())) if name != "score"]
    rows = []
    for kind, scores in found["scores"].items():
        questions = scores[bases[0]]["questions"]
        cells = [cell(scores[base]) for base in bases]
        level = found["chance"][kind]
        rows.append(
            [TITLES.get(kind, kind), scores["score"], questions, *cells, "–" if level is None else f"{level:.2f}"]
        )
    lines = table(["question", "score", "number", *bases, "chance"], rows)
    trained = list(next(iter(found["named"].values())))
    if trained:
        lines += ["", "Share of answers that name what was asked for in the right plain words:", ""]
        shares = [[kind, *(_share(of[base]) for base in trained)] for kind, of in found["named"].items()]
        lines += table(["kind", *trained], shares)
    for base in bases:
        lines += ["", f"Classes of errors of {base}, number of answers:", ""]
        counts = [[kind, *of[base].values()] for kind, of in found["errors"].items()]
        lines += table(["kind", RIGHT, *CLASSES], counts)
    return lines


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
