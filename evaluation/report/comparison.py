"""Write the comparison of two results as one HTML file without a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from gemma_lisa.safety.short_text import count_of
from gemma_lisa.safety.whole_files import write_whole

from ..compare import CHANGES, Comparison, largest_changes, transition_rows
from ..error_classes import CLASSES, RIGHT
from ..judging import refuses
from . import charts
from .page import model_of, render, title_of
from .pane import AMOUNTS, MAIN, MEANINGS, format_score
from .pictures import draw_pair, draw_prediction, jpeg, plain_picture
from .sheets import text_of

PER_SHEET = 12  # maximum number of questions of a sheet
FINDINGS = ("gIoU", "N-acc", "T-acc", "phrase_acc", "answers_right")  # differences with a sentence

ImageOf = Callable[[int], Image.Image | None]


def write_comparison(path: Path, comparison: Comparison, image_of: ImageOf | None, remark: str | None = None) -> None:
    """Write a comparison as HTML.

    Args:
        path: of the file.
        comparison: from `compare.compare_files`.
        image_of: returns the upright image of the question at an index, or None if it cannot be read. None instead of
            the function: masks are drawn without images.
        remark: why there are no images.

    Raises:
        ValueError: an image has another size than its question says.
        WriteError: the file cannot be written.
    """
    write_whole(path, comparison_of(comparison, image_of, remark))


def comparison_of(comparison: Comparison, image_of: ImageOf | None, remark: str | None = None) -> str:
    """Return the comparison as HTML. Arguments: `write_comparison`."""
    names = distinct_models(comparison)
    rows = difference_rows(comparison.differences)
    return render(
        "comparison.html.jinja",
        title=f"Comparison: {names[0]} and {names[1]}",
        names=names,
        dataset=title_of(comparison.a),
        protocol=comparison.a.get("protocol") or "unknown",
        metric_style=comparison.a.get("style") or "unknown",
        total=len(comparison.judged_a),
        findings=find(comparison),
        main_rows=[row for row in rows if row["name"] in MAIN],
        other_rows=[row for row in rows if row["name"] not in MAIN],
        changes=[(name, comparison.change_counts[name], meaning) for name, meaning in CHANGES.items()],
        kinds=_kind_rows(comparison),
        classes=(RIGHT, *CLASSES),
        transitions=_shaded(transition_rows(comparison)),
        sheets=_sheets(comparison, image_of),
        has_images=image_of is not None,
        remark=remark,
    )


def distinct_models(comparison: Comparison) -> tuple[str, str]:
    """Return the names of both systems; equal ones get A and B."""
    a, b = model_of(comparison.a), model_of(comparison.b)
    return (a, b) if a != b else (f"{a} (A)", f"{b} (B)")


def find(comparison: Comparison) -> list[str]:
    """Return sentences about the most important differences."""
    found = []
    for name in FINDINGS:
        if (of := comparison.differences.get(name)) is None:
            continue
        bounds = f"95% CI: {signed(of['low'])} to {signed(of['high'])}"
        if of["low"] == of["high"] == 0:
            found.append(f"{name} is the same, {of['a']:.3f}.")
        elif of["low"] > 0 or of["high"] < 0:
            words = "better" if of["difference"] > 0 else "worse"
            change = f"{of['a']:.3f} to {of['b']:.3f} ({bounds})"
            found.append(f"B is {words} in {name} by {abs(of['difference']):.3f}: {change}.")
        else:
            found.append(f"No certain difference in {name}: {of['a']:.3f} and {of['b']:.3f} ({bounds}).")
    counts = comparison.change_counts
    found.append(
        f"B has a higher IoU for {count_of(counts['better'], 'question')} and a lower one for {counts['worse']:,}. It "
        f"finds {count_of(counts['found'], 'target')} that A does not, and loses {counts['lost']:,}."
    )
    return found


def signed(number: float) -> str:
    """Return a difference as text with its sign."""
    return f"{number:+z.3f}".replace("-", "−")


def difference_rows(differences: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Return what the template shows of each score."""
    shares = [of for name, of in differences.items() if name not in AMOUNTS]
    reach = max([abs(of[end]) for of in shares for end in ("difference", "low", "high")], default=0.0) or 1.0
    return [
        {
            "name": name,
            "meaning": MEANINGS.get(name, ""),
            "a": format_score(name, of["a"]),
            "b": format_score(name, of["b"]),
            "difference": signed(of["difference"]),
            "interval": f"{signed(of['low'])} to {signed(of['high'])}",
            "is_certain": of["low"] > 0 or of["high"] < 0,
            "picture": ""
            if name in AMOUNTS
            else charts.interval(of["difference"], of["low"], of["high"], reach=min(1.0, reach)),
        }
        for name, of in differences.items()
    ]


def _kind_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the differences of gIoU, or of N-acc for kinds without targets, for each kind of question."""
    rows = []
    for kind, differences in comparison.by_kind.items():
        count = sum(one.question.kind == kind for one in comparison.judged_a)
        for name in ("gIoU", "N-acc"):
            if name in differences:
                rows.append(
                    {"kind": kind, "count": count, "score": name, **difference_rows({name: differences[name]})[0]}
                )
    return rows


def _shaded(rows: list[tuple[str, list[int]]]) -> list[tuple[str, list[tuple[int, bool]]]]:
    """Return the rows of the matrix with whether each cell is a class that both have."""
    return [(name, [(count, at == row) for at, count in enumerate(counts)]) for row, (name, counts) in enumerate(rows)]


def _sheets(comparison: Comparison, image_of: ImageOf | None) -> list[dict[str, Any]]:
    better, worse = largest_changes(comparison)
    groups = [
        ("B is better", "The largest gains of IoU.", better),
        ("B is worse", "The largest losses of IoU.", worse),
    ]
    return [
        {
            "heading": heading,
            "explanation": words,
            "total": len(members),
            "cards": [_card(comparison, at, image_of) for at in members[:PER_SHEET]],
        }
        for heading, words, members in groups
    ]


def _card(comparison: Comparison, at: int, image_of: ImageOf | None) -> dict[str, Any]:
    """Return what the template shows of a question: three pictures, and the answers of A and B."""
    a, b = comparison.judged_a[at], comparison.judged_b[at]
    image = None if image_of is None else image_of(at)
    target, of_a = draw_pair(a, image)
    return {
        "id": a.question.id,
        "kind": a.question.kind or "",
        "question": a.question.text,
        "expected": text_of(a.question.expected),
        "num_targets": len(a.question.targets),
        "target_picture": target,
        "has_image": image is not None,
        "change": b.iou - a.iou,
        "answers": [
            {
                "name": name,
                "text": one.prediction.text,
                "iou": one.iou,
                "error": one.error,
                "num_masks": len(one.prediction.masks),
                "refused": refuses(one.prediction),
                "picture": picture,
            }
            for name, one, picture in (("A", a, of_a), ("B", b, jpeg(draw_prediction(b, plain_picture(b, image)))))
        ],
    }
