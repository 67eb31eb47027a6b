"""Reasoning segmentation for 🤗 Evaluate: gIoU, cIoU, N-acc, T-acc from per-query counts.

This file imports nothing from the project, because `evaluate.load` copies only this file. A test checks that its
results are equal to those of `evaluation/metrics.py`.
"""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Metrics of reasoning segmentation, where a query can ask for one object, several objects, or an object that is absent.
The prediction of a query is the union of its predicted masks, and its target is the union of its target masks.
"""

_KWARGS_DESCRIPTION = """
Args:
    intersections: number of pixels in both prediction and target, for each query.
    unions: number of pixels in prediction or target. Ignored pixels are in neither number.
    num_targets: number of target masks; 0 if the object is absent.
    num_predictions: number of predicted masks.
    complete: whether the answer ended before the token limit and does not repeat itself.
Returns:
    gIoU, gIoU_all, gIoU_plural, cIoU, N-acc, T-acc: float, or None if there is no query for the metric.
    count, count_target, count_no_target, count_plural, cut_off: int.
"""

_CITATION = """
@inproceedings{lai2024lisa,
    title = {{LISA}: Reasoning Segmentation via Large Language Model},
    author = {Lai, Xin and Tian, Zhuotao and Chen, Yukang and Li, Yanwei and Yuan, Yuhui and Liu, Shu and Jia, Jiaya},
    booktitle = {CVPR},
    year = {2024},
}
"""


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
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
        )

    def _compute(self, intersections, unions, num_targets, num_predictions, complete) -> dict[str, float | int | None]:
        intersections = np.asarray(intersections, dtype=np.int64)
        unions = np.asarray(unions, dtype=np.int64)
        num_targets = np.asarray(num_targets, dtype=np.int64)
        answered = np.asarray(num_predictions, dtype=np.int64) > 0
        ended = np.asarray(complete, dtype=bool)
        has_target, plural = num_targets > 0, num_targets > 1
        ious = np.where(unions > 0, intersections / np.maximum(unions, 1), 1.0)
        return {
            "gIoU": _ratio(ious[has_target].sum(), has_target.sum()),
            "gIoU_all": _ratio(ious.sum(), len(ious)),
            "gIoU_plural": _ratio(ious[plural].sum(), plural.sum()),
            "cIoU": _ratio(intersections.sum(), unions.sum()),
            "N-acc": _ratio((~has_target & ~answered & ended).sum(), (~has_target).sum()),
            "T-acc": _ratio((has_target & answered).sum(), has_target.sum()),
            "count": len(ious),
            "count_target": int(has_target.sum()),
            "count_no_target": int((~has_target).sum()),
            "count_plural": int(plural.sum()),
            "cut_off": int((~answered & ~ended).sum()),
        }


def _ratio(total: float, count: int) -> float | None:
    return float(total / count) if count else None
