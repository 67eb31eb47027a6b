"""Reasoning segmentation for 🤗 Evaluate: gIoU, cIoU, N-acc, T-acc and other scores from per-query counts.

This file imports nothing from the project, because `evaluate.load` copies only this file. A test checks that its
results are equal to those of `evaluation/metrics.py`.
"""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Metrics of reasoning segmentation, where a query can ask for one object, several objects, or an object that is absent.
The prediction of a query is the union of its predicted masks, and its target is the union of its target masks.
With the configuration "instances", single masks and boundaries are scored too.
"""

_KWARGS_DESCRIPTION = """
Args:
    intersections: number of pixels in both prediction and target, for each query.
    unions: number of pixels in prediction or target. Ignored pixels are in neither number.
    num_targets: number of target masks; 0 if the object is absent.
    num_predictions: number of predicted masks.
    complete: whether the answer ended before the token limit and does not repeat itself.
    matched_ious: IoU of each pair of predicted mask and target, matched one to one. Only with "instances".
    boundary_ious: IoU of the boundaries of prediction and target; 0 for an absent object. Only with "instances".
Returns:
    gIoU, gIoU_all, gIoU_plural, cIoU, N-acc, T-acc, gIoU_1, gIoU_2, gIoU_3, gIoU_4+, P@0.5, P@0.7, P@0.9, presence_MCC,
    cut_off_share: float, or None if there is no query for the metric.
    boundary_IoU, instance_IoU, instance_F1, pmF1, cgF1: the same, only with "instances".
    count, count_target, count_no_target, count_plural, cut_off: int.
Raises:
    ValueError: the numbers of a query contradict each other, such as an intersection that is larger than the union.
"""

_CITATION = """
@inproceedings{lai2024lisa,
    title = {{LISA}: Reasoning Segmentation via Large Language Model},
    author = {Lai, Xin and Tian, Zhuotao and Chen, Yukang and Li, Yanwei and Yuan, Yuhui and Liu, Shu and Jia, Jiaya},
    booktitle = {CVPR},
    year = {2024},
}
"""


INSTANCES = "instances"  # configuration with two more columns
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU thresholds of F1


class ReasoningSegmentation(evaluate.Metric):
    """Metric with one entry per query. The README of this folder explains each number."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "intersections": datasets.Value("int64"),
            "unions": datasets.Value("int64"),
            "num_targets": datasets.Value("int64"),
            "num_predictions": datasets.Value("int64"),
            "complete": datasets.Value("bool"),
        }
        if self.config_name == INSTANCES:
            features["matched_ious"] = datasets.Sequence(datasets.Value("float64"))
            features["boundary_ious"] = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
        )

    def _compute(
        self,
        intersections,
        unions,
        num_targets,
        num_predictions,
        complete,
        matched_ious=None,
        boundary_ious=None,
    ) -> dict[str, float | int | None]:
        num_targets = np.asarray(num_targets, dtype=np.int64)
        num_predictions = np.asarray(num_predictions, dtype=np.int64)
        ended = np.asarray(complete, dtype=bool)
        intersections, unions = np.asarray(intersections, dtype=np.int64), np.asarray(unions, dtype=np.int64)
        _check_counts(intersections, unions, num_targets, num_predictions)
        scores = _mask_scores(intersections, unions, num_targets)
        scores |= _presence_scores(num_targets > 0, num_predictions > 0, ended)
        if matched_ious is not None:
            boundary_ious = np.asarray(boundary_ious, dtype=np.float64)
            _check_instances(matched_ious, boundary_ious, num_targets, num_predictions)
            scores["boundary_IoU"] = _mean(boundary_ious, num_targets > 0)
            scores |= _instance_scores(matched_ious, num_targets, num_predictions)
            f1, correlation = scores["pmF1"], scores["presence_MCC"]
            scores["cgF1"] = None if f1 is None or correlation is None else f1 * correlation
        return scores


def _check_counts(intersections, unions, num_targets, num_predictions) -> None:
    for name, values in (("num_targets", num_targets), ("num_predictions", num_predictions)):
        _refuse(values < 0, f"{name} must be at least 0, got", values)
    _refuse(intersections < 0, "intersections must be at least 0, got", intersections)
    _refuse(intersections > unions, "intersections must not be larger than unions; the intersection is", intersections)


def _check_instances(matched_ious: list, boundary_ious, num_targets, num_predictions) -> None:
    counts = np.array([-1 if ious is None else len(ious) for ious in matched_ious])
    is_wrong = (counts < 0) | (counts > np.minimum(num_targets, num_predictions))
    _refuse(is_wrong, "matched_ious must have at most one IoU per pair of mask and target; their number is", counts)
    is_wrong = np.array([not all(0 <= iou <= 1 for iou in ious) for ious in matched_ious], dtype=bool)
    _refuse(is_wrong, "matched_ious must be between 0 and 1, got", matched_ious)
    is_wrong = (num_targets > 0) & ~((boundary_ious >= 0) & (boundary_ious <= 1))  # also NaN
    _refuse(is_wrong, "boundary_ious must be between 0 and 1, got", boundary_ious)


def _refuse(is_wrong: np.ndarray, problem: str, values) -> None:
    """Raise ValueError for the first query that is wrong."""
    if is_wrong.any():
        at = int(is_wrong.argmax())
        raise ValueError(f"query {at} (counted from 0): {problem} {values[at]}.")


def _mask_scores(intersections: np.ndarray, unions: np.ndarray, num_targets: np.ndarray) -> dict:
    ious = np.where(unions > 0, intersections / np.maximum(unions, 1), 1.0)
    has_target = num_targets > 0
    scores = {
        "gIoU": _mean(ious, has_target),
        "gIoU_all": _ratio(ious.sum(), len(ious)),
        "gIoU_plural": _mean(ious, num_targets > 1),
        "cIoU": _ratio(intersections.sum(), unions.sum()),
        "gIoU_4+": _mean(ious, num_targets >= 4),
        "count": len(ious),
        "count_target": int(has_target.sum()),
        "count_no_target": int((~has_target).sum()),
        "count_plural": int((num_targets > 1).sum()),
    }
    scores |= {f"gIoU_{count}": _mean(ious, num_targets == count) for count in (1, 2, 3)}
    return scores | {f"P@{least}": _mean(ious >= least, has_target) for least in (0.5, 0.7, 0.9)}


def _presence_scores(has_target: np.ndarray, answered: np.ndarray, ended: np.ndarray) -> dict:
    hits, misses = (has_target & answered).sum(), (has_target & ~answered).sum()
    rejections = (~has_target & ~answered & ended).sum()
    alarms = (~has_target).sum() - rejections
    correlation = None
    if has_target.any() and not has_target.all():
        margins = float(hits + alarms) * float(hits + misses) * float(rejections + alarms) * float(rejections + misses)
        correlation = float(hits * rejections - alarms * misses) / margins**0.5 if margins else 0.0
    return {
        "N-acc": _ratio(rejections, rejections + alarms),
        "T-acc": _ratio(hits, hits + misses),
        "presence_MCC": correlation,
        "cut_off_share": _ratio((~ended).sum(), len(ended)),
        "cut_off": int((~answered & ~ended).sum()),
    }


def _instance_scores(matched_ious: list, num_targets: np.ndarray, num_predictions: np.ndarray) -> dict:
    plural, most = num_targets > 1, np.maximum(np.maximum(num_targets, num_predictions), 1)
    found = np.array([(np.array(ious)[:, None] >= THRESHOLDS).sum(axis=0).mean() for ious in matched_ious])
    scores = {"instance_IoU": _mean(np.array([sum(ious) for ious in matched_ious]) / most, plural)}
    for name, asked in (("instance_F1", plural), ("pmF1", num_targets > 0)):
        # F1 = 2 TP / (masks + targets), averaged over the thresholds
        scores[name] = _ratio(2 * found[asked].sum(), (num_targets + num_predictions)[asked].sum())
    return scores


def _mean(values: np.ndarray, asked: np.ndarray) -> float | None:
    return _ratio(values[asked].sum(), asked.sum())


def _ratio(total: float, count: int) -> float | None:
    return float(total / count) if count else None
