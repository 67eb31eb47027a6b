"""The subcommand `compare` of eval.py: compare two results of the same questions."""

import argparse
from pathlib import Path

from gemma_lisa.evaluation.compare import Comparison, compare_files
from gemma_lisa.evaluation.error_classes import CLASSES, RIGHT
from gemma_lisa.evaluation.image_finder import find_images
from gemma_lisa.evaluation.report.comparison import distinct_models, write_comparison
from gemma_lisa.safety.short_text import count_of
from gemma_lisa.safety.whole_files import check_writable

from .command_line import ArgumentParser, check_path
from .output_checks import check_outputs, check_suffix

DESCRIPTION = """Compare two results files of eval.py that answer the same questions: paired differences with 95% CI,
changed questions and errors. Writes an HTML page with pictures of the largest changes.

    python eval.py compare base.json tuned.json --output comparison.html
"""


def main(arguments: list[str]) -> None:
    """Run the subcommand with the arguments after `compare`."""
    args = parse(arguments)
    comparison = compare_files(args.a, args.b)
    image_of, remark = find_images(comparison.a, comparison.judged_a, args.data_dir)
    write_comparison(args.output, comparison, image_of, remark)
    print("\n".join(comparison_lines(comparison)))
    if remark is not None:
        print(f"the page has no images: {remark} Give the folder of the data set with --data_dir.")
    print(f"wrote {args.output}")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options.

    Raises:
        UsageError: an option is wrong, or the output cannot be written.
    """
    parser = ArgumentParser(
        prog="eval.py compare",
        description=DESCRIPTION,
        usage="python eval.py compare A.json B.json --output COMPARISON.html [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A.json", type=Path, help="results file of the first system")
    parser.add_argument("b", metavar="B.json", type=Path, help="results file of the second system")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="page to write (.html)")
    parser.add_argument(
        "--data_dir",
        metavar="FOLDER",
        help="folder with the original files of the data set, for the pictures (default: that of A.json)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing file that Gemma-LISA did not write. Inputs are never replaced (default: off)",
    )
    # `run` removes --debug before `main` sees it; it is listed here for --help
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    args = parser.parse_args(arguments)
    check_path("--output", args.output, "a file")
    check_suffix("--output", args.output, (".html",))
    check_outputs([("--output", args.output)], [args.a, args.b, args.data_dir], args.overwrite)
    check_writable(args.output, "--output")
    return args


def comparison_lines(comparison: Comparison) -> list[str]:
    """Return the comparison as lines of text."""
    names = distinct_models(comparison)
    lines = [
        f"A: {names[0]}",
        f"B: {names[1]}",
        f"{count_of(len(comparison.judged_a), 'question')}, differences B - A:",
    ]
    for name, of in comparison.differences.items():
        mark = " *" if of["low"] > 0 or of["high"] < 0 else ""
        interval = f"95% CI: {of['low']:+z.4f} to {of['high']:+z.4f}"
        lines.append(f"  {name:20s} {of['a']:8.4f} {of['b']:8.4f} {of['difference']:+z8.4f}  {interval}{mark}")
    lines.append("  * the 95% CI does not contain 0")
    lines.append("changed questions:")
    lines += [f"  {name:20s} {count:,}" for name, count in comparison.change_counts.items() if count]
    if comparison.by_kind:
        lines.append("by kind of question:")
    for kind, differences in comparison.by_kind.items():
        measured = [
            f"{name} {differences[name]['difference']:+z.4f} ({differences[name]['low']:+z.4f} to "
            f"{differences[name]['high']:+z.4f})"
            for name in ("gIoU", "N-acc")
            if name in differences
        ]
        lines.append(f"  {kind:20s} {', '.join(measured)}")
    return lines + _changed_errors(comparison)


def _changed_errors(comparison: Comparison) -> list[str]:
    """Return a line for each change of the class of error, the most frequent first."""
    order = {name: at for at, name in enumerate((RIGHT, *CLASSES))}
    changed = [(count, pair) for pair, count in comparison.transitions.items() if pair[0] != pair[1]]
    changed.sort(key=lambda one: (-one[0], order[one[1][0]], order[one[1][1]]))
    return ["changed errors (A to B):"] * bool(changed) + [
        f"  {f'{before} to {after}':24s} {count_of(count, 'question')}" for count, (before, after) in changed
    ]
