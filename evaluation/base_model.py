"""Find the model that a training started from, and say what the training changed."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemma_lisa.checkpoints.adapter_base import find_base, fingerprint, is_adapter
from gemma_lisa.checkpoints.training_record import stages_of
from gemma_lisa.safety.errors import UsageError

from .compare import paired_differences
from .records import Judged

# Scores of the verdict: the first that both results have
_MAIN = ("gIoU", "gIoU_all", "answers_right")


def recorded_base(model: str, adapter: str | None) -> str:
    """Return folder or Hub name of the model that the last training of a checkpoint started from.

    Raises:
        UsageError: the checkpoint does not say, or the model was moved or changed since then.
        ValueError: the base model of an adapter does not exist.
    """
    if adapter is not None:
        return model
    if is_adapter(model):
        return find_base(model).name
    stages = stages_of(model) or []
    words = shlex.split(str(stages[-1].get("command", ""))) if stages else []
    given = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "--model"]
    given += [word.partition("=")[2] for word in words if word.startswith("--model=")]
    advice = "Give the model with --base MODEL."
    if not given:
        raise UsageError(f"{model}: its training record does not say which model the training started from. {advice}")
    weights = (stages[-1].get("settings") or {}).get("weights")
    folder = Path(given[-1])
    if not folder.is_dir() and (given[-1].count("/") != 1 or folder.is_absolute()):  # a Hub name is org/name
        raise UsageError(f"{model}: the model that its training started from, {folder}, does not exist here. {advice}")
    if folder.is_dir() and weights is not None and fingerprint(folder) != weights:
        raise UsageError(f"{model}: {folder} was changed since the training started from it. {advice}")
    return given[-1]


def difference(base: list[Judged], tuned: list[Judged], protocol: str) -> dict[str, Any] | None:
    """Return the paired difference of the main score, `tuned` minus `base`; None if they have no common score.

    Returns:
        {"metric": name of the score, "a": of the base model, "b": of the tuned model, "difference", "low", "high"}.
    """
    found = paired_differences(base, tuned, protocol)
    for metric in _MAIN:
        if found.get(metric) is not None and found[metric]["difference"] is not None:
            return {"metric": metric, **found[metric]}
    return None


def verdict(of_set: dict[str, Any] | None) -> str:
    """Return what changed in one data set: better, worse, or unchanged if the 95% CI contains 0."""
    if of_set is None:
        return "no common score"
    change, low, high = (of_set[name] for name in ("difference", "low", "high"))
    if low is None or low <= 0 <= high:
        return "unchanged"
    return f"{'better' if change > 0 else 'worse'} by {abs(change):.2f} (95% CI: {low:+.2f} to {high:+.2f})"


def summary(sets: Sequence[tuple[str, bool, dict[str, Any] | None]]) -> list[str]:
    """Return lines about all data sets, and one about yours and the retained ones.

    Args:
        sets: (title, whether it is retained, `difference`) of each.
    """
    lines = []
    for title, is_retained, found in sets:
        numbers = "" if found is None else f"{found['metric']} {found['a']:.4f} -> {found['b']:.4f}, "
        kind = "retained" if is_retained else "yours"
        lines.append(f"  {title} ({kind}): {numbers}{verdict(found)}")
    mine, others = ([verdict(found) for _, kept, found in sets if kept is side] for side in (False, True))
    last = f"{_joined(mine)} on yours"
    if others:
        last += f", {_joined(others)} elsewhere"
    return [*lines, last]


def _joined(verdicts: list[str]) -> str:
    """Return one verdict if all are equal, else each of them."""
    return " and ".join(dict.fromkeys(verdicts))
