"""The scores of an evaluation as lines of text."""

from typing import Any

from gemma_lisa.evaluation.metrics import EXACT, MEANINGS
from gemma_lisa.safety.short_text import count_of

_BY_KIND = ("gIoU", "N-acc", "T-acc", "phrase_acc")


def score_lines(content: dict[str, Any]) -> list[str]:
    """Return a line for each measured score with its 95% CI and its meaning, then the classes of errors and the kinds.

    Args:
        content: of a results file. If its style is not the exact one, exact scores that differ are shown too.
    """
    scores, exact = content["scores"], content.get("exact_scores") or {}
    lines = []
    for name, value in scores.items():
        if value is None:
            continue
        low, high = content["intervals"].get(name) or (None, None)
        interval = "" if low is None else f"95% CI: {_number(low)} to {_number(high)}"
        other = exact.get(name, value)
        meaning = MEANINGS[name] + ("" if other == value else f" ({EXACT}: {_number(other)})")
        lines.append(f"  {name:20s} {_number(value):8s} {interval:26s} {meaning}")
    if missing := [name for name, value in scores.items() if value is None]:
        lines.append(f"  not measured: {', '.join(missing)}")
    errors = [(name, of) for name, of in content["errors"].items() if of["count"]]
    if errors:
        lines.append("classes of errors (share of questions, cost in gIoU_all):")
    for name, of in errors:
        lines.append(f"  {name:20s} {count_of(of['count'], 'question')}, {of['share']:.1%}, cost {of['cost']:.4f}")
    if content["by_kind"]:
        lines.append("by kind of question:")
    for kind, of in content["by_kind"].items():
        measured = (f"{name} {of[name]:.4f}" for name in _BY_KIND if of.get(name) is not None)
        lines.append(f"  {kind:20s} {', '.join(measured)} ({count_of(of['count'], 'question')})")
    return lines


def _number(value: float | int | None) -> str:
    if isinstance(value, float):
        return f"{round(value, 4) + 0.0:.4f}"  # + 0.0 turns -0.0 into 0.0
    return "-" if value is None else f"{value:,}"
