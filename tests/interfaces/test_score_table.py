"""The printed scores: intervals, both styles where they differ, classes of errors, kinds."""

from gemma_lisa.interfaces.score_table import score_lines

CONTENT = {
    "scores": {"gIoU": 0.5, "cIoU": 0.25, "N-acc": None, "cgF1": -0.0, "count": 1234},
    "intervals": {"gIoU": [0.4, 0.6], "cIoU": None, "cgF1": [-1e-9, 0.0]},
    "errors": {"count": {"count": 0, "share": 0.0, "cost": 0.0}, "right": {"count": 4, "share": 1.0, "cost": 0.25}},
    "by_kind": {"plural": {"gIoU": 0.5, "N-acc": None, "T-acc": 1.0, "count": 1000}},
}


def test_every_score_has_its_interval_and_its_meaning():
    lines = score_lines(CONTENT)
    assert lines[0].split() == "gIoU 0.5000 95% CI: 0.4000 to 0.6000 mean IoU over questions with a target".split()
    assert lines[1].split()[:3] == ["cIoU", "0.2500", "all"]
    assert lines[2].split()[:6] == "cgF1 0.0000 95% CI: 0.0000 to".split() and "-0.0000" not in lines[2]
    assert lines[3].split()[:2] == ["count", "1,234"]
    assert lines[4:] == [
        "  not measured: N-acc",
        "classes of errors (share of questions, cost in gIoU_all):",
        "  right                4 questions, 100.0%, cost 0.2500",
        "by kind of question:",
        "  plural               gIoU 0.5000, T-acc 1.0000 (1,000 questions)",
    ]


def test_exact_scores_are_shown_beside_those_of_another_style_where_they_differ():
    lines = score_lines({**CONTENT, "exact_scores": {**CONTENT["scores"], "gIoU": 0.625}})
    assert lines[0].endswith("mean IoU over questions with a target (exact: 0.6250)")
    assert not any("exact" in line for line in lines[1:])
